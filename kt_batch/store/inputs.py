"""List the input images of a command, and read their bytes.

An argument is a file, a directory, a pattern, s3://bucket/prefix or file:///path. The `uri` of an input is where its
bytes are. Its `name` is what its outputs are named after: relative, with slashes, unique, and below any directory that
it is joined to.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote_from_bytes

from kt_batch.errors import Reason, RejectError, StorageError, UnreachableError, UsageError
from kt_batch.store import layout
from kt_batch.store.images.file_bytes import Data, large_file
from kt_batch.store.input_names import distinct, input_component
from kt_batch.store.names import FILE_SCHEME, path_of_file_uri
from kt_batch.store.objects import (
    READ_ONLY_SCHEMES,
    bucket_and_key,
    is_object,
    keys,
    list_remote,
    object_chunks,
    object_size,
)
from kt_batch.store.patterns import matches, split_pattern
from kt_batch.store.places import S3, clean_place, refuse_unpacked, scheme_of

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".dib",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pfm",
    ".heic", ".heif", ".hif", ".heics", ".heifs", ".avif", ".avifs", ".jxl",
    ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jph", ".jhc",
    ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".orf", ".rw2", ".raf", ".pef", ".srw",
    ".3fr", ".fff", ".iiq", ".mrw", ".x3f", ".rwl", ".dcr", ".kdc", ".erf", ".mef", ".mos",
)  # fmt: skip
MAX_BYTES = 2**32  # larger than any image within the pixel limit, even uncompressed
LARGE_BYTES = 2**26  # a file of this size on, and on this machine, is not read into memory
CHUNK = 8 << 20  # bytes in memory at a time while hashing

_ALLOWED = "name a file, a directory, a pattern or s3://bucket/prefix"


@dataclass(frozen=True)
class Input:
    """One image to read.

    uri: an absolute path as plain text, s3://bucket/key, or file:/// with percent codes for a path that is not UTF-8.
    name: relative path that its outputs are named after.
    """

    uri: str
    name: str


@dataclass(frozen=True)
class _Listing:
    """The images of one argument, as (URI, path below `root`).

    A file is its own root, with an empty path. ours: The libraries and runs below `root`.
    """

    root: str
    images: tuple[tuple[str, str], ...]
    ours: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """The inputs of a command, sorted by name, and the libraries and runs below its folders, which were passed over."""

    inputs: list[Input]
    ours: list[str]


def list_inputs(arguments: Sequence[str]) -> list[Input]:
    """List all images that the arguments stand for, as `find_inputs` does, without what was passed over."""
    return find_inputs(arguments).inputs


def find_inputs(arguments: Sequence[str]) -> Found:
    """Find all images that the arguments stand for.

    Each URI occurs once, and names are unique. With one argument, names are relative to the directory, or to the part
    of a pattern before its first `*`, `?` or `[`; a file has its own name. With several arguments, the names of each
    directory go under its last component; names that several inputs would share hold a hash of their place. The order
    of the arguments has no effect. Directories and patterns yield only files with an image suffix, no hidden ones, and
    none from the libraries and runs below them. A file that is named in full always counts, and so does a library or a
    run that is named alone.

    Raises:
        UsageError: there is nothing to do.
        StorageError: a place cannot be listed.
    """
    if not arguments:
        raise UsageError(f"no images were given; {_ALLOWED}")
    expanded = [argument for argument in arguments if len(arguments) > 1 and _is_ours(argument)]  # a shell's `photos/*`
    listings = sorted(
        (_listing(argument) for argument in arguments if argument not in expanded),
        key=lambda listing: (listing.root, listing.images),
    )
    if not listings:
        raise UsageError(f"all {len(arguments)} arguments are libraries or runs; name one alone to use its pictures")
    roots = {listing.root: listing.root.rstrip("/").rpartition("/")[2] or "root" for listing in listings}
    labels = distinct({root: input_component(last) for root, last in roots.items()})
    names: dict[str, str] = {}
    for listing in listings:
        for uri, path in listing.images:
            below = [input_component(part) for part in path.split("/") if part]
            parts = [labels[listing.root], *below] if len(labels) > 1 or not below else below
            names.setdefault(uri, "/".join(parts))
    inputs = [Input(uri, name) for uri, name in distinct(names).items()]
    return Found(
        sorted(inputs, key=lambda item: item.name),
        sorted({*expanded, *(place for each in listings for place in each.ours)}),
    )


def read_input(uri: str) -> bytes:
    """Read the bytes of an input.

    Raises:
        RejectError: UNREADABLE when the input is gone, is no regular file, or cannot be read; TOO_MANY_PIXELS when it
            is larger than any image within the pixel limit.
        UnreachableError: its store fails, which is no fault of the image.
    """
    with _reading(uri):
        return b"".join(_chunks(uri, MAX_BYTES))


def open_input(uri: str) -> Data:
    """Return the bytes of an input as `read_input` does, or the open file where it is large and on this machine."""
    with _reading(uri):
        file = None if is_object(uri) else large_file(_local_path(uri), LARGE_BYTES, MAX_BYTES)
    return file or read_input(uri)


def input_id(uri: str) -> str:
    """Return the image id of an input, without all its bytes in memory.

    Raises as `read_input` does.
    """
    digest = hashlib.sha256()
    with _reading(uri):
        for chunk in _chunks(uri, CHUNK):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def input_size(uri: str) -> int | None:
    """Return the size of an unread input in bytes; None where it is unknown."""
    try:
        if is_object(uri):
            return object_size(uri)
        status = _local_path(uri).stat()
    except (OSError, ValueError, StorageError, UsageError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


# ---- reading ---------------------------------------------------------------------------------------------------------


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    try:
        yield
    except UnreachableError:
        raise
    except (OSError, ValueError, StorageError, UsageError) as error:
        raise RejectError(Reason.UNREADABLE, f"cannot read {uri!r}: {error}") from error


def _chunks(uri: str, most: int) -> Iterator[bytes]:
    """Yield the bytes of an input, at most `most` at a time."""
    return _chunks_of_object(uri, most) if is_object(uri) else _chunks_of_file(_local_path(uri), most)


def _chunks_of_file(path: Path, most: int) -> Iterator[bytes]:
    """Yield as many bytes as the file's size says.

    Files that the kernel makes up have size 0 and never end.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # checked before opening: opening a named pipe blocks
        raise OSError("it is not a regular file")
    _check_bytes(str(path), status.st_size)
    left = status.st_size
    with path.open("rb") as file:
        while left and (chunk := file.read(min(left, most))):
            left -= len(chunk)
            yield chunk


def _chunks_of_object(uri: str, most: int) -> Iterator[bytes]:
    size = object_size(uri)
    _check_bytes(uri, size or 0)
    read = 0
    for chunk in object_chunks(uri, size, most):
        read += len(chunk)
        _check_bytes(uri, read)  # a store may not say the size, or say another one
        yield chunk


def _check_bytes(uri: str, size: int) -> None:
    if size > MAX_BYTES:
        raise RejectError(Reason.TOO_MANY_PIXELS, f"{uri!r} holds {size} bytes; allowed are {MAX_BYTES}")


# ---- listing ---------------------------------------------------------------------------------------------------------


def _listing(argument: str) -> _Listing:
    if not argument:
        raise UsageError(f"an argument is empty; {_ALLOWED}")
    argument = clean_place(argument)
    scheme = scheme_of(argument)
    if scheme == "s3":
        return _list_s3(argument)
    if scheme in READ_ONLY_SCHEMES:
        return _list_remote(argument)
    if scheme not in (None, "file"):
        raise UsageError(f"{argument!r} has the unknown scheme {scheme}://; {_ALLOWED}")
    path = _local_path(argument)
    if path.is_dir():
        return _listed(argument, str(path), *_walk(path))
    if path.is_file() or path.is_symlink():  # a dangling link becomes a reject, as in a directory
        return _Listing(str(path), ((_uri(str(path)), ""),))
    if path.exists():
        raise UsageError(f"{argument!r} is neither a file nor a directory; {_ALLOWED}")
    prefix, pattern = split_pattern(str(path))
    root = Path(prefix or "/")
    if not pattern or not root.is_dir():
        raise UsageError(f"{argument!r} does not exist; {_ALLOWED}")
    below, ours = _walk(root, depth=None if "**" in pattern else len(pattern))
    return _listed(argument, str(root), (path for path in below if matches(path.split("/"), pattern)), ours)


def _list_s3(argument: str) -> _Listing:
    """List what an s3:// argument stands for.

    That is an object of that very name, else everything below it, else what it matches as a pattern.
    """
    bucket, key = bucket_and_key(argument)
    if not key.endswith("/") and next(keys(bucket, key), None) == key:  # keys are sorted, so the name itself is first
        uri = f"{S3}{bucket}/{key}"
        return _Listing(uri, ((uri, ""),))
    folder = key.rstrip("/")
    below, ours = _inputs_among(_keys_below(bucket, folder))
    prefix, pattern = split_pattern(folder)
    if not below and pattern:
        folder = prefix
        below, ours = _inputs_among(_keys_below(bucket, prefix))
        below = [path for path in below if matches(path.split("/"), pattern)]
    return _listed(argument, f"{S3}{bucket}/{folder}".rstrip("/"), below, ours)


def _list_remote(argument: str) -> _Listing:
    root, paths = list_remote(argument)
    if not paths:
        name = argument.partition("?")[0].partition("#")[0].rstrip("/")
        return _Listing(name, ((argument, ""),))
    return _listed(argument, root, *_inputs_among(paths))


def _listed(argument: str, root: str, below: Iterable[str], ours: Iterable[str]) -> _Listing:
    places = tuple(f"{root.rstrip('/')}/{path}" for path in sorted(ours))
    images = tuple(sorted((_uri(f"{root.rstrip('/')}/{path}"), path) for path in below))
    if not images:
        beside = f" outside of {', '.join(map(repr, places))}" if places else ""
        raise UsageError(
            f"{argument!r} holds no images{beside}; looked for files that end in {', '.join(IMAGE_SUFFIXES)}"
        )
    return _Listing(root, images, places)


def _inputs_among(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the paths that count, and the libraries and runs of ours among all paths below a prefix."""
    counting, ours = [], []
    first = f"/{layout.plan_path(0)}"
    for path in paths:
        if path.endswith(first) and path != first:
            ours.append(path.removesuffix(first))
        elif _counts(path):
            counting.append(path)
    if not ours:
        return counting, ours
    inside = tuple(f"{place}/" for place in ours)
    return [path for path in counting if not path.startswith(inside)], ours


def _walk(root: Path, depth: int | None = None) -> tuple[list[str], list[str]]:
    """Return the paths below `root` of the files that count, and of the libraries and runs, which are not entered.

    Each directory is entered once, through a link only when it was not met otherwise, so cycles end.

    Args:
        root: the directory.
        depth: most components of a path; None for any number.
    """
    pending, seen = deque([root]), set[tuple[int, int]]()
    counting: list[str] = []
    ours: list[str] = []
    while pending:
        for text, directories, files in os.walk(pending.popleft(), onerror=_cannot_list):
            folder = Path(text)
            identity = _identity(folder)
            if identity in seen:
                directories.clear()
                continue
            seen.add(identity)
            start = folder.relative_to(root)
            if folder != root and layout.PLAN in directories and (folder / layout.plan_path(0)).is_file():
                ours.append(start.as_posix())
                directories.clear()
                continue
            deeper = depth is None or len(start.parts) + 1 < depth
            visible = sorted(name for name in directories if deeper and not name.startswith("."))
            elsewhere = [name for name in visible if _leads_into_ours(folder / name, root)]
            ours += [(start / name).as_posix() for name in elsewhere]
            directories[:] = [name for name in visible if name not in elsewhere]
            pending.extend(folder / name for name in directories if (folder / name).is_symlink())
            counting += [(start / name).as_posix() for name in files if _counts(name)]
    return counting, ours


def _leads_into_ours(path: Path, root: Path) -> bool:
    """Tell whether a directory is a link into a library or a run that does not hold `root` as well."""
    if not path.is_symlink():
        return False
    real, start = path.resolve(), root.resolve()
    holders = [folder for folder in real.parents if (folder / layout.plan_path(0)).is_file()]
    return any(not start.is_relative_to(folder) for folder in holders)


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        _cannot_list(error)
    return status.st_dev, status.st_ino


def _is_ours(argument: str) -> bool:
    """Tell whether an argument is a library or a run in a directory."""
    place = clean_place(argument) if argument else ""
    return scheme_of(place) in (None, "file") and (_local_path(place) / layout.plan_path(0)).is_file()


def _cannot_list(error: OSError) -> NoReturn:
    raise StorageError(f"cannot list the directory {error.filename!r}: {error.strerror}") from error


def _keys_below(bucket: str, folder: str) -> Iterator[str]:
    start = f"{folder}/" if folder else ""
    return (key[len(start) :] for key in keys(bucket, start))


def _counts(path: str) -> bool:
    """Tell whether a listed file is an input.

    It has an image suffix, and nothing on its path is hidden.
    """
    return path.lower().endswith(IMAGE_SUFFIXES) and not any(
        part.startswith(".") and part not in (".", "..") for part in path.split("/")
    )


# ---- paths and names -------------------------------------------------------------------------------------------------


def _local_path(text: str) -> Path:
    """Return the absolute path of a plain path or a file:// URI."""
    if text.startswith(FILE_SCHEME):
        named = path_of_file_uri(text)
        if named is None:
            raise UsageError(f"{text!r} is on another machine; allowed is file:///path")
        text = str(named)
    refuse_unpacked(text)
    path = Path(text).absolute()
    if path.name == "..":
        return path.resolve()
    # Only the file system knows what `..` after a link means. A link in the last place keeps its own name.
    return path.parent.resolve() / path.name if ".." in path.parts else path


def _uri(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:  # a name that is not UTF-8 fits in no table; its URI does
        return FILE_SCHEME + quote_from_bytes(os.fsencode(path))
    return path
