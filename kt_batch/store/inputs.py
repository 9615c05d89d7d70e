"""Which images a call is about: arguments to a list of inputs, their names among the outputs, and their bytes.

An argument is a file, a directory, a pattern, s3://bucket/prefix or file:///path. A `uri` is where the bytes are, a
`name` what the outputs are called after: relative, posix, unique, and unable to lead out of the place it is put in.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NoReturn
from urllib.parse import quote_from_bytes

from kt_batch.errors import Reason, RejectError, StorageError, UnreachableError, UsageError
from kt_batch.store import layout
from kt_batch.store.names import FILE_SCHEME, MAX_COMPONENT_BYTES, TEMP_PREFIX, path_of_file_uri, safe_name

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".dib",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pfm",
)  # fmt: skip
MAX_BYTES = 2**32  # an image within the pixel limit is smaller, even uncompressed
MAX_NAME_BYTES = 768  # of an output; keys of object stores hold 1024, of which a run's prefix takes some
PIECE = 8 << 20  # bytes held at a time where not all are needed at once

_S3 = "s3://"
_MAGIC = re.compile(r"[*?\[]")
_ALLOWED = "name a file, a directory, a pattern or s3://bucket/prefix"


@dataclass(frozen=True)
class Input:
    """One image to be read.

    uri: an absolute path as plain text, or s3://bucket/key; file:///percent-encoded for a path that is not UTF-8.
    name: relative posix path after which its outputs are called.
    """

    uri: str
    name: str


@dataclass(frozen=True)
class _Listing:
    """The images of one argument: their uris, and their paths below `root`; a file is its own root, with path ""."""

    root: str
    found: tuple[tuple[str, str], ...]


def list_inputs(arguments: Sequence[str]) -> list[Input]:
    """Every image the arguments stand for, sorted by name, each uri once, names unique.

    One argument: names are relative to the directory, or to the part of a pattern before its first `*`, `?` or `[`; a
    file goes by its own name. Several: each directory's names go under its last component, numbered from 2 on when it
    is taken (`photos/a.jpg`, `photos-2/a.jpg`). The order of the arguments changes nothing. In directories and for
    patterns only files with an image suffix count, and nothing hidden; a file named in full always counts.
    Raises UsageError when there is nothing to do, StorageError when a place cannot be listed.
    """
    if not arguments:
        raise UsageError(f"no images were given; {_ALLOWED}")
    listings = sorted((_listing(argument) for argument in arguments), key=lambda listing: (listing.root, listing.found))
    labels = _labels(sorted({listing.root for listing in listings}))
    inputs: dict[str, Input] = {}
    taken: dict[str, int] = {}
    for listing in listings:
        label = labels[listing.root]
        for uri, path in listing.found:
            if uri not in inputs:
                below = [_safe_component(part) for part in path.split("/") if part]
                parts = [label, *below] if len(labels) > 1 or not below else below
                inputs[uri] = Input(uri, _claim("/".join(parts), taken))
    for item in inputs.values():
        output_name(item.name, "png")  # refuses a name that would lead elsewhere: none can, and none may
    return sorted(inputs.values(), key=lambda item: item.name)


def output_name(name: str, format: str) -> str:  # noqa: A002
    """Where the output of an input lies in a run: `a.jpg` -> `images/a.jpg.png`.

    Components over 255 bytes are cut and end in a hash of themselves; of a path over 768 bytes only its last component
    is left, and a hash of the path stands for the others. Raises UsageError for a name that is unsafe.
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
    """The bytes of an input.

    Raises RejectError: UNREADABLE when it is gone, is no regular file, or cannot be read; TOO_MANY_PIXELS when it is so
    large that no image within the pixel limit fills it. Raises UnreachableError when its store fails: no image's fault.
    """
    with _reading(uri):
        return b"".join(_pieces(uri, MAX_BYTES))


def input_id(uri: str) -> str:
    """The image id of an input, as `images.image_id` of its bytes, which are never in memory as a whole.

    Raises as `read_input` does.
    """
    digest = hashlib.sha256()
    with _reading(uri):
        for piece in _pieces(uri, PIECE):
            digest.update(piece)
    return digest.hexdigest()[:16]


def input_size(uri: str) -> int | None:
    """The bytes that an input holds, without reading it; None where that cannot be found out now."""
    try:
        if uri.startswith(_S3):
            from kt_batch.store.s3 import S3Location

            bucket, key = _bucket_and_key(uri)
            return S3Location(bucket, "").size(key)
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


def _pieces(uri: str, most: int) -> Iterator[bytes]:
    """The bytes of an input, at most `most` at a time."""
    return _pieces_of_object(uri, most) if uri.startswith(_S3) else _pieces_of_file(_local_path(uri), most)


def _pieces_of_file(path: Path, most: int) -> Iterator[bytes]:
    """As many bytes as the file says it has: some that the kernel makes up say none, and never end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # asked before opening: a named pipe would wait for somebody to write to it
        raise OSError("it is not a regular file")
    _check_bytes(str(path), status.st_size)
    left = status.st_size
    with path.open("rb") as file:
        while left and (piece := file.read(min(left, most))):
            left -= len(piece)
            yield piece


def _pieces_of_object(uri: str, most: int) -> Iterator[bytes]:
    from kt_batch.store.s3 import S3Location

    bucket, key = _bucket_and_key(uri)
    location = S3Location(bucket, "")
    size = location.size(key)
    _check_bytes(uri, size)
    if size <= most:
        yield location.read_bytes(key)
        return
    for start in range(0, size, most):
        yield location.read_range(key, start, most)


def _check_bytes(uri: str, size: int) -> None:
    if size > MAX_BYTES:
        raise RejectError(Reason.TOO_MANY_PIXELS, f"{uri!r} holds {size} bytes; allowed are {MAX_BYTES}")


# ---- listing ---------------------------------------------------------------------------------------------------------


def _listing(argument: str) -> _Listing:
    if argument.startswith(_S3):
        return _list_s3(argument)
    if not argument:
        raise UsageError(f"an argument is empty; {_ALLOWED}")
    path = _local_path(argument)
    if path.is_dir():
        return _listed(argument, str(path), _walk(path))
    if path.is_file() or path.is_symlink():  # a link to nothing becomes a reject, as it would in a directory
        return _Listing(str(path), ((_uri(str(path)), ""),))
    if path.exists():
        raise UsageError(f"{argument!r} is neither a file nor a directory; {_ALLOWED}")
    prefix, pattern = _split_pattern(str(path))
    root = Path(prefix or "/")
    if not pattern or not root.is_dir():
        raise UsageError(f"{argument!r} does not exist; {_ALLOWED}")
    below = _walk(root, depth=None if "**" in pattern else len(pattern))
    return _listed(argument, str(root), (path for path in below if _matches(path.split("/"), pattern)))


def _list_s3(argument: str) -> _Listing:
    """As for files: an object of that very name, else everything below it, else what it matches as a pattern."""
    bucket, key = _bucket_and_key(argument)
    if not key.endswith("/") and next(_keys(bucket, key), None) == key:  # keys come sorted, the name itself first
        uri = f"{_S3}{bucket}/{key}"
        return _Listing(uri, ((uri, ""),))
    folder = key.rstrip("/")
    below = [path for path in _keys_below(bucket, folder) if _counts(path)]
    prefix, pattern = _split_pattern(folder)
    if not below and pattern:
        folder = prefix
        below = [path for path in _keys_below(bucket, prefix) if _counts(path) and _matches(path.split("/"), pattern)]
    return _listed(argument, f"{_S3}{bucket}/{folder}".rstrip("/"), below)


def _listed(argument: str, root: str, below: Iterable[str]) -> _Listing:
    found = tuple(sorted((_uri(f"{root.rstrip('/')}/{path}"), path) for path in below))
    if not found:
        raise UsageError(f"{argument!r} holds no images; looked for files that end in {', '.join(IMAGE_SUFFIXES)}")
    return _Listing(root, found)


def _walk(root: Path, depth: int | None = None) -> Iterator[str]:
    """Paths below `root` of the files that count, at most `depth` components long.

    Each directory is entered once, through a link only when it has not been met otherwise, so that cycles end.
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


def _keys(bucket: str, start: str) -> Iterator[str]:
    """Every key of a bucket that begins with `start`, in the store's order."""
    from kt_batch.store.s3 import S3Location

    return S3Location(bucket, "").list_keys(start)


def _keys_below(bucket: str, folder: str) -> Iterator[str]:
    start = f"{folder}/" if folder else ""
    return (key[len(start) :] for key in _keys(bucket, start))


def _counts(path: str) -> bool:
    """Whether a file met on the way is an input: an image by its suffix, and nothing on its path hidden."""
    return path.lower().endswith(IMAGE_SUFFIXES) and not any(
        part.startswith(".") and part not in (".", "..") for part in path.split("/")
    )


def _split_pattern(path: str) -> tuple[str, list[str]]:
    """`a/b/*/c.jpg` -> (`a/b`, [`*`, `c.jpg`]); no pattern leaves an empty list."""
    parts = path.split("/")
    first = next((index for index, part in enumerate(parts) if _MAGIC.search(part)), len(parts))
    return "/".join(parts[:first]), parts[first:]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Component by component; `**` stands for any number of them, also none."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or (bool(parts) and _matches(parts[1:], pattern))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


# ---- paths and names -------------------------------------------------------------------------------------------------


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix(_S3).partition("/")
    if not bucket or _MAGIC.search(bucket):
        raise UsageError(f"{uri!r} names no bucket; allowed is s3://bucket/prefix")
    return bucket, key


def _local_path(text: str) -> Path:
    """An absolute path, of a plain path or a file:// URI."""
    if text.startswith(FILE_SCHEME):
        named = path_of_file_uri(text)
        if named is None:
            raise UsageError(f"{text!r} is on another machine; allowed is file:///path")
        text = str(named)
    path = Path(text).absolute()
    if path.name == "..":
        return path.resolve()
    # What `..` behind a link means only the file system knows; a link in the last place keeps its own name.
    return path.parent.resolve() / path.name if ".." in path.parts else path


def _uri(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8 fits in no table; as a URI it does
        return FILE_SCHEME + quote_from_bytes(os.fsencode(path))
    return path


def _labels(roots: Sequence[str]) -> dict[str, str]:
    """A name of one component for each root, all different."""
    taken: dict[str, int] = {}
    return {root: _claim(_safe_component(root.rstrip("/").rpartition("/")[2] or "root"), taken) for root in roots}


def _claim(name: str, taken: dict[str, int]) -> str:
    """`name`, or with a number (`a.jpg` -> `a-2.jpg`) when it is taken; `taken` remembers the last number of each."""
    path, claimed = PurePosixPath(name), name
    while claimed in taken:
        taken[name] += 1
        claimed = str(path.with_name(f"{path.stem}-{taken[name]}{path.suffix}"))
    taken[claimed] = 1
    return claimed


def _safe_component(part: str) -> str:
    """A component with percent codes for what would lead elsewhere, break a line, or is not text."""
    if part in (".", ".."):
        return part.replace(".", "%2E")
    text = "".join(_percent(c) if c == "\\" or unicodedata.category(c) in ("Cc", "Cs") else c for c in part)
    return "%2E" + text[1:] if text.startswith(TEMP_PREFIX) else text


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogateescape"))


def _shortened(component: str, suffix: str = "") -> str:
    """`component` with `suffix`, within what file systems hold; different components stay different."""
    if len((component + suffix).encode()) <= MAX_COMPONENT_BYTES:
        return component + suffix
    tail = f"-{hashlib.sha256(component.encode()).hexdigest()[:16]}{suffix}"
    return component.encode()[: MAX_COMPONENT_BYTES - len(tail)].decode(errors="ignore") + tail
