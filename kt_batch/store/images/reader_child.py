"""The child process of `reader_process`: it decodes images, one after the other.

It is started as `python -m kt_batch.store.images.reader_child`. It reads requests from standard input until that ends,
and writes answers to its former standard output: fixed headers and raw bytes, nothing that could carry code.

The bytes that it reads may take it over. It therefore has no credentials, limited resources and no files to write; no
processes to start where the kernel allows that, and no network where Python and the kernel allow that. It imports
neither torch nor Arrow nor Ray.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from kt_batch.errors import Reason, RejectError
from kt_batch.memory import memory_limit
from kt_batch.process import tune_process
from kt_batch.store.images.seccomp import forbid_processes

if TYPE_CHECKING:
    from kt_batch.store.images.files import WorkingImage

HELLO = b"kt-batch image reader 1\n"
REQUEST = struct.Struct("<QQd")  # bytes of the file, which follow; the wanted long side; the time limit in seconds
REPLY = struct.Struct("<B4Q")  # IMAGE, height, width, original height, original width, then pixels;
IMAGE, REFUSAL = 1, 2  # or REFUSAL, bytes of "reason\nmessage", three zeros, then that text
FACTS = 3  # or FACTS, bytes of a JSON object, three zeros, then that text
FACTS_WANTED = 0  # in place of the long side: what is understood of the file is wanted, and not its pixels
MAX_REFUSAL = MAX_FACTS = 2**16

# An ordinary image of 2^28 pixels takes up to 7 GiB (8 bits) or 9 GiB (16 bits). The costliest allowed image, RGBA in
# float64 with a predictor, takes 24 GiB, and its file may have 4 GiB. A machine or a container with less memory sets a
# lower limit.
MAX_ADDRESS_SPACE = 32 * 2**30
# What one image may take beyond what the process has: a base, and a multiple of its file and of its samples. Measured
# at 38 million pixels: 2 to 8 times the samples (lossless WebP), without the base.
BASE_BYTES = 768 << 20
PER_FILE_BYTE = 4
PER_SAMPLE_BYTE = 12
MAX_OPEN_FILES = 32  # imports need two or three at a time


Decode = Callable[[bytes, int], "WorkingImage"]


def main(decode: Decode | None = None, declared_bytes: Callable[[bytes], int] | None = None) -> None:
    """Decode until standard input ends; tests pass a `decode` that misbehaves."""
    tune_process()
    answers = _own_stdout()
    _leave_network()
    _limit_resources()
    if decode is None:
        from kt_batch.store.images import declared, files

        decode, declared_bytes = files.decode, declared.declared_bytes
    with open(0, "rb", closefd=False) as requests, answers:
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


def _serve(requests: IO[bytes], answers: IO[bytes], decode: Decode, declared_bytes: Callable[[bytes], int]) -> None:
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        length, size, seconds = REQUEST.unpack(head)
        # The parent enforces the deadline. This timer, in processor seconds, is for a child whose parent is gone.
        signal.setitimer(signal.ITIMER_PROF, 2 * seconds)
        _limit_memory(BASE_BYTES + PER_FILE_BYTE * length)
        data = requests.read(length)
        _limit_memory(BASE_BYTES + PER_FILE_BYTE * length + PER_SAMPLE_BYTE * declared_bytes(data))
        parts = _answer(data, size, decode) if size != FACTS_WANTED else _facts(data)
        for part in parts:
            answers.write(part)
        answers.flush()
        signal.setitimer(signal.ITIMER_PROF, 0)


def _answer(data: bytes, size: int, decode: Decode) -> tuple[bytes, bytes | memoryview]:
    try:
        image = decode(data, size)
    except RejectError as error:
        return _refusal(error.reason, error.message)
    except MemoryError:
        return _refusal(Reason.TOO_MANY_PIXELS, "the image takes more memory than its decoder may have")
    except Exception as error:  # noqa: BLE001 - one image costs one reject
        return _refusal(Reason.DECODER_DIED, f"the decoder failed with {type(error).__name__}: {str(error)[:200]}")
    sizes = (image.height, image.width, image.original_height, image.original_width)
    return REPLY.pack(IMAGE, *sizes), image.pixels.data.cast("B")


def _facts(data: bytes) -> tuple[bytes, bytes]:
    from kt_batch.store.images.facts import facts_of

    try:
        text = json.dumps(facts_of(data)).encode()
    except MemoryError:
        return _refusal(Reason.TOO_MANY_PIXELS, "the image takes more memory than its decoder may have")
    except Exception as error:  # noqa: BLE001 - one image costs one reject
        return _refusal(Reason.DECODER_DIED, f"the decoder failed with {type(error).__name__}: {str(error)[:200]}")
    return REPLY.pack(FACTS, len(text), 0, 0, 0), text


def _refusal(reason: Reason, message: str) -> tuple[bytes, bytes]:
    text = f"{reason}\n{message}".encode(errors="backslashreplace")[:MAX_REFUSAL]
    return REPLY.pack(REFUSAL, len(text), 0, 0, 0), text


if __name__ == "__main__":
    main()
