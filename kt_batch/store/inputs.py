"""List the input images of a command, name their outputs, and read their bytes.

An argument is a file, a directory, a pattern, s3://bucket/prefix or file:///path. The `uri` of an input is where its
bytes are. Its `name` is what its outputs are named after: relative, with slashes, unique, and below any directory that
it is joined to.
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn
from urllib.parse import quote_from_bytes

from kt_batch.errors import Reason, RejectError, StorageError, UnreachableError, UsageError
from kt_batch.store import layout
from kt_batch.store.names import FILE_SCHEME, MAX_COMPONENT_BYTES, TEMP_PREFIX, path_of_file_uri, safe_name
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
)  # fmt: skip
MAX_BYTES = 2**32  # larger than any image within the pixel limit, even uncompressed
MAX_NAME_BYTES = 768  # of an output; object store keys have at most 1024, including a run's prefix
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

    A file is its own root, with an empty path.
    """

    root: str
    images: tuple[tuple[str, str], ...]


def list_inputs(arguments: Sequence[str]) -> list[Input]:
    """List all images that the arguments stand for, sorted by name.

    Each URI occurs once, and names are unique. With one argument, names are relative to the directory, or to the part
    of a pattern before its first `*`, `?` or `[`; a file has its own name. With several arguments, the names of each
    directory go under its last component, numbered from 2 on when it is taken (`photos/a.jpg`, `photos-2/a.jpg`). The
    order of the arguments has no effect. Directories and patterns yield only files with an image suffix, and no hidden
    ones; a file that is named in full always counts.

    Raises:
        UsageError: there is nothing to do.
        StorageError: a place cannot be listed.
    """
    if not arguments:
        raise UsageError(f"no images were given; {_ALLOWED}")
    listings = sorted(
        (_listing(argument) for argument in arguments), key=lambda listing: (listing.root, listing.images)
    )
    labels = _labels(sorted({listing.root for listing in listings}))
    inputs: dict[str, Input] = {}
    taken: dict[str, int] = {}
    for listing in listings:
        label = labels[listing.root]
        for uri, path in listing.images:
            if uri not in inputs:
                below = [_safe_component(part) for part in path.split("/") if part]
                parts = [label, *below] if len(labels) > 1 or not below else below
                inputs[uri] = Input(uri, _claim("/".join(parts), taken))
    for item in inputs.values():
        output_name(item.name, "png")  # asserts that no name leaves the run
    return sorted(inputs.values(), key=lambda item: item.name)


def output_name(name: str, format: str) -> str:  # noqa: A002
    """Return the path of an input's output in a run: `a.jpg` -> `images/a.jpg.png`.

    A component longer than 255 bytes is cut and ends in a hash of itself. Of a path longer than 768 bytes, the last
    component remains, and a hash of the path replaces the directories.

    Raises:
        UsageError: the name is unsafe.
    """
    *directories, last = name.split("/")
    if not last:
        raise UsageError(f"an input cannot be called {name!r}; allowed is a relative path such as 'photos/a.jpg'")
    parts = [layout.OUTPUTS, *(_shortened(part) for part in directories), _shortened(last, f".{format}")]
    if len("/".join(parts).encode(errors="surrogatepass")) > MAX_NAME_BYTES:
        safe_name("/".join(parts))
        parts[1:-1] = [f"deep-{hashlib.sha256(name.encode()).hexdigest()[:16]}"]
    return safe_name("/".join(parts))


def read_input(uri: str) -> bytes:
    """Read the bytes of an input.

    Raises:
        RejectError: UNREADABLE when the input is gone, is no regular file, or cannot be read; TOO_MANY_PIXELS when it
            is larger than any image within the pixel limit.
        UnreachableError: its store fails, which is no fault of the image.
    """
    with _reading(uri):
        return b"".join(_chunks(uri, MAX_BYTES))


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
        return _listed(argument, str(path), _walk(path))
    if path.is_file() or path.is_symlink():  # a dangling link becomes a reject, as in a directory
        return _Listing(str(path), ((_uri(str(path)), ""),))
    if path.exists():
        raise UsageError(f"{argument!r} is neither a file nor a directory; {_ALLOWED}")
    prefix, pattern = split_pattern(str(path))
    root = Path(prefix or "/")
    if not pattern or not root.is_dir():
        raise UsageError(f"{argument!r} does not exist; {_ALLOWED}")
    below = _walk(root, depth=None if "**" in pattern else len(pattern))
    return _listed(argument, str(root), (path for path in below if matches(path.split("/"), pattern)))


def _list_s3(argument: str) -> _Listing:
    """List what an s3:// argument stands for.

    That is an object of that very name, else everything below it, else what it matches as a pattern.
    """
    bucket, key = bucket_and_key(argument)
    if not key.endswith("/") and next(keys(bucket, key), None) == key:  # keys are sorted, so the name itself is first
        uri = f"{S3}{bucket}/{key}"
        return _Listing(uri, ((uri, ""),))
    folder = key.rstrip("/")
    below = [path for path in _keys_below(bucket, folder) if _counts(path)]
    prefix, pattern = split_pattern(folder)
    if not below and pattern:
        folder = prefix
        below = [path for path in _keys_below(bucket, prefix) if _counts(path) and matches(path.split("/"), pattern)]
    return _listed(argument, f"{S3}{bucket}/{folder}".rstrip("/"), below)


def _list_remote(argument: str) -> _Listing:
    root, paths = list_remote(argument)
    if not paths:
        name = argument.partition("?")[0].partition("#")[0].rstrip("/")
        return _Listing(name, ((argument, ""),))
    return _listed(argument, root, filter(_counts, paths))


def _listed(argument: str, root: str, below: Iterable[str]) -> _Listing:
    images = tuple(sorted((_uri(f"{root.rstrip('/')}/{path}"), path) for path in below))
    if not images:
        raise UsageError(f"{argument!r} holds no images; looked for files that end in {', '.join(IMAGE_SUFFIXES)}")
    return _Listing(root, images)


def _walk(root: Path, depth: int | None = None) -> Iterator[str]:
    """Yield the paths below `root` of the files that count.

    Each directory is entered once, through a link only when it was not met otherwise, so cycles end.

    Args:
        root: the directory.
        depth: most components of a path; None for any number.
    """
    pending, seen = deque([root]), set[tuple[int, int]]()
    while pending:
        for text, directories, files in os.walk(pending.popleft(), onerror=_cannot_list):
            folder = Path(text)
            identity = _identity(folder)
            if identity in seen:
                directories.clear()
                continue
            seen.add(identity)
            start = folder.relative_to(root)
            deeper = depth is None or len(start.parts) + 1 < depth
            directories[:] = sorted(name for name in directories if deeper and not name.startswith("."))
            pending.extend(folder / name for name in directories if (folder / name).is_symlink())
            yield from ((start / name).as_posix() for name in files if _counts(name))


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        _cannot_list(error)
    return status.st_dev, status.st_ino


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


def _labels(roots: Sequence[str]) -> dict[str, str]:
    """Return a unique name of one component for each root."""
    taken: dict[str, int] = {}
    return {root: _claim(_safe_component(root.rstrip("/").rpartition("/")[2] or "root"), taken) for root in roots}


def _claim(name: str, taken: dict[str, int]) -> str:
    """Return `name`, with a number (`a.jpg` -> `a-2.jpg`) when it is taken.

    `taken` holds the last number of each name.
    """
    path, claimed = PurePosixPath(name), name
    while claimed in taken:
        taken[name] += 1
        claimed = str(path.with_name(f"{path.stem}-{taken[name]}{path.suffix}"))
    taken[claimed] = 1
    return claimed


def _safe_component(part: str) -> str:
    """Return a component that leads nowhere else and is one line of text.

    Percent codes replace the other characters.
    """
    if part in (".", ".."):
        return part.replace(".", "%2E")
    text = "".join(_percent(c) if c == "\\" or unicodedata.category(c) in ("Cc", "Cs") else c for c in part)
    return "%2E" + text[1:] if text.startswith(TEMP_PREFIX) else text


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogateescape"))


def _shortened(component: str, suffix: str = "") -> str:
    """Return `component` with `suffix`, within 255 bytes.

    Different components stay different.
    """
    if len((component + suffix).encode()) <= MAX_COMPONENT_BYTES:
        return component + suffix
    tail = f"-{hashlib.sha256(component.encode()).hexdigest()[:16]}{suffix}"
    return component.encode()[: MAX_COMPONENT_BYTES - len(tail)].decode(errors="ignore") + tail
