"""The child process of `reader_process`: it decodes images, one after the other.

It is started as `python -m kt_batch.store.images.reader_child`. Standard input is a socket. It reads requests there
until that ends, and writes answers to its former standard output: fixed headers and raw bytes, nothing that could carry
code. The file of a request follows its header, or the open file itself comes with the header.

The bytes that it reads may take it over. It therefore has no credentials, limited resources and no files to write; no
processes to start where the kernel allows that, and no network where Python and the kernel allow that. It imports
neither torch nor Arrow nor Ray.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

from kt_batch.errors import Reason, RejectError
from kt_batch.memory import memory_limit
from kt_batch.process import tune_process
from kt_batch.store.images.file_bytes import Data, FileBytes
from kt_batch.store.images.seccomp import forbid_processes

if TYPE_CHECKING:
    from kt_batch.store.images.files import WorkingImage

HELLO = b"kt-batch image reader 3\n"
# What is wanted; whether the file is open and comes along; its bytes, which follow otherwise; the long side of a
# working image, or the options of an original, or the bytes of a profile, behind which samples are to be converted; the
# time limit in seconds.
REQUEST = struct.Struct("<B?QQd")
WORKING, ORIGINAL, METADATA, TO_SRGB, FROM_SRGB = 1, 2, 3, 4, 5
INK, GREY = 1, 4  # options of an original
REPLY = struct.Struct("<B4Q")  # IMAGE, height, width, original height, original width, then OWN, profile, pixels;
IMAGE, REFUSAL = 1, 2  # or REFUSAL, bytes of "reason\nmessage", three zeros, then that text;
DESCRIPTION, BAND = 3, 4  # or DESCRIPTION, height, width, samples of a pixel, bytes of the profile, then FORM, profile,
FORM = struct.Struct(
    "<B????"
)  # channels, alpha, deep, deep_file, is_srgb, and for each band BAND, rows, three zeros, samples;
OWN = struct.Struct("<?Q")  # is_srgb, bytes of the profile; 0 without one
FACTS = 5  # or FACTS, bytes of a JSON object, three zeros, then that text;
BLOCKS = 6  # or BLOCKS, bytes of EXIF, XMP, IPTC and the profile, then these four; 0 where there is none
FACTS_WANTED = 0  # in place of the long side: what is understood of the file is wanted, and not its pixels
MAX_REFUSAL = MAX_FACTS = 2**16
MAX_PROFILE = MAX_BLOCK = 2**24

# An ordinary image of 2^28 pixels takes up to 7 GiB (8 bits) or 9 GiB (16 bits). The costliest allowed image, RGBA in
# float64 with a predictor, takes 24 GiB, and its file may have 4 GiB. A machine or a container with less memory sets a
# lower limit.
MAX_ADDRESS_SPACE = 32 * 2**30
# What one image may take beyond what the process has: a base, and a multiple of its file and of its samples. Measured
# at 38 million pixels: 2 to 8 times the samples (lossless WebP), without the base.
BASE_BYTES = 768 << 20
PER_FILE_BYTE = 4
PER_SAMPLE_BYTE = 12
_MOST_RECEIVED = 2**30  # bytes at a time
MAX_OPEN_FILES = 32  # imports need two or three at a time


Answer: TypeAlias = bytes | memoryview
Decode: TypeAlias = Callable[[Any, int], "WorkingImage"]


def main(decode: Decode | None = None, declared_bytes: Callable[[Any], int] | None = None) -> None:
    """Decode until standard input ends; tests pass a `decode` that misbehaves."""
    tune_process()
    answers = _own_stdout()
    _leave_network()
    _limit_resources()
    if decode is None:
        from kt_batch.store.images import declared, files

        decode, declared_bytes = files.decode, declared.declared_bytes
    with socket.socket(fileno=0) as requests, answers:
        answers.write(HELLO)
        answers.flush()
        _serve(requests, answers, decode, declared_bytes or (lambda _: 0))


def _own_stdout() -> IO[bytes]:
    """Return a descriptor of its own for the answers.

    What a library prints to descriptor 1 then goes where errors go.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _leave_network() -> None:
    """Move to a network namespace without interfaces.

    This needs Python 3.12 and a kernel that grants namespaces.
    """
    unshare = getattr(os, "unshare", None)
    if unshare is not None:
        with suppress(OSError):
            unshare(getattr(os, "CLONE_NEWUSER") | getattr(os, "CLONE_NEWNET"))  # noqa: B009 - Python 3.12 has them, mypy checks for 3.11


def _limit_resources() -> None:
    limits = {
        resource.RLIMIT_AS: min(MAX_ADDRESS_SPACE, memory_limit()),
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
    }
    if not forbid_processes():
        limits[resource.RLIMIT_NPROC] = 0  # forbids threads too, and binds no root
    for kind, most in limits.items():
        already = resource.getrlimit(kind)[1]
        lower = most if already == resource.RLIM_INFINITY else min(most, already)
        resource.setrlimit(kind, (lower, lower))


def _limit_memory(more: int) -> None:
    """Let this process take `more` bytes of address space than it has now, at most up to the hard limit."""
    pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (min(wanted, hard) if hard != resource.RLIM_INFINITY else wanted, hard))


def _serve(requests: socket.socket, answers: IO[bytes], decode: Decode, declared_bytes: Callable[[Any], int]) -> None:
    while (request := _next_request(requests)) is not None:
        kind, length, option, seconds, file = request
        # The parent enforces the deadline. This timer, in processor seconds, is for a child whose parent is gone.
        signal.setitimer(signal.ITIMER_PROF, 2 * seconds)
        _limit_memory(BASE_BYTES + PER_FILE_BYTE * length)
        data = _received(requests, length) if file is None else FileBytes(file)
        declared = 0 if kind in (TO_SRGB, FROM_SRGB) else declared_bytes(data)
        _limit_memory(BASE_BYTES + PER_FILE_BYTE * length + PER_SAMPLE_BYTE * declared)
        for part in _guarded(_parts(kind, data, option, decode)):
            answers.write(part)
        answers.flush()
        signal.setitimer(signal.ITIMER_PROF, 0)


def _next_request(requests: socket.socket) -> tuple[int, int, int, float, BinaryIO | None] | None:
    """Return kind, length, option, seconds and the open file, if it came along; None at the end."""
    head, descriptors = b"", list[int]()
    while len(head) < REQUEST.size:
        piece, more, _, _ = socket.recv_fds(requests, REQUEST.size - len(head), 1)
        descriptors += more
        if not piece:
            return None
        head += piece
    kind, _, length, option, seconds = REQUEST.unpack(head)
    file = os.fdopen(descriptors[0], "rb", buffering=0) if descriptors else None
    return kind, length, option, seconds, file


def _received(requests: socket.socket, length: int) -> bytes:
    """Return the bytes of a file. Raises EOFError when the parent is gone."""
    pieces, left = [], length
    while left:
        piece = requests.recv(min(left, _MOST_RECEIVED), socket.MSG_WAITALL)
        if not piece:
            raise EOFError("the parent is gone")
        pieces.append(piece)
        left -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _guarded(parts: Iterator[Answer]) -> Iterator[Answer]:
    """Yield the parts of an answer; where one cannot be had, a refusal in its place."""
    try:
        yield from parts
    except RejectError as error:
        yield from _refusal(error.reason, error.message)
    except MemoryError:
        yield from _refusal(Reason.TOO_MANY_PIXELS, "the image takes more memory than its decoder may have")
    except Exception as error:  # noqa: BLE001 - one image costs one reject
        why = f"the decoder failed with {type(error).__name__}: {str(error)[:200]}"
        yield from _refusal(Reason.DECODER_DIED, why)


def _parts(kind: int, data: Data, option: int, decode: Decode) -> Iterator[Answer]:
    if kind == ORIGINAL:
        return _original(data, option)
    if kind == METADATA:
        return _metadata(data)
    if kind in (TO_SRGB, FROM_SRGB):
        return _converted(data, option, kind == TO_SRGB)
    return _facts(data) if option == FACTS_WANTED else _working(data, option, decode)


def _working(data: Data, size: int, decode: Decode) -> Iterator[Answer]:
    image = decode(data, size)
    yield REPLY.pack(IMAGE, image.height, image.width, image.original_height, image.original_width)
    own = image.own if image.own and len(image.own.profile) <= MAX_PROFILE else None
    yield OWN.pack(own.is_srgb, len(own.profile)) + own.profile if own else OWN.pack(False, 0)
    yield image.pixels.data.cast("B")


def _original(data: Data, options: int) -> Iterator[Answer]:
    import numpy as np

    from kt_batch.store.images.originals import read_original

    original, bands = read_original(data, ink=bool(options & INK), grey=bool(options & GREY))
    profile = original.profile[: MAX_PROFILE + 1]
    if len(profile) > MAX_PROFILE:
        raise RejectError(Reason.UNSUPPORTED, f"the colour profile is over {MAX_PROFILE} bytes")
    yield REPLY.pack(DESCRIPTION, original.height, original.width, original.samples, len(profile))
    yield FORM.pack(original.channels, original.alpha, original.deep, original.deep_file, original.is_srgb) + profile
    for band in bands:
        samples = np.ascontiguousarray(band).data.cast("B")
        yield REPLY.pack(BAND, len(band), 0, 0, 0)
        yield samples


def _converted(data: Data, length: int, to_srgb: bool) -> Iterator[Answer]:
    """Convert 16-bit RGB between sRGB and the profile in the first `length` bytes."""
    from kt_batch.store.images.conversion import converted

    samples = converted(data[length:], data[:length], to_srgb)
    yield REPLY.pack(BAND, len(samples), 0, 0, 0)
    yield samples.data.cast("B")


def _metadata(data: Data) -> Iterator[Answer]:
    from kt_batch.store.images.headers import TIFF
    from kt_batch.store.images.metadata.read import blocks_of

    if isinstance(data, FileBytes) and data[:4] in TIFF:  # of which only directories are looked at
        blocks = blocks_of(cast("bytes", mmap.mmap(data.descriptor, 0, access=mmap.ACCESS_READ)))
    else:
        blocks = blocks_of(data[:])
    parts = [bytes(block or b"") for block in (blocks.exif, blocks.xmp, blocks.iptc, blocks.icc)]
    yield REPLY.pack(BLOCKS, *map(len, parts))
    yield b"".join(parts)


def _facts(data: Data) -> Iterator[Answer]:
    from kt_batch.store.images.facts import facts_of

    text = json.dumps(facts_of(data[:])).encode()
    yield REPLY.pack(FACTS, len(text), 0, 0, 0)
    yield text


def _refusal(reason: Reason, message: str) -> tuple[bytes, bytes]:
    text = f"{reason}\n{message}".encode(errors="backslashreplace")[:MAX_REFUSAL]
    return REPLY.pack(REFUSAL, len(text), 0, 0, 0), text


if __name__ == "__main__":
    main()
