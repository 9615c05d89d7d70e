"""Places where libraries and runs lie: a directory or a bucket's prefix, with the same methods.

A name that `put_if_absent` or `put_content` has stored is complete, durable and never changes afterwards; a reader sees
all of it or nothing. That is everything the commit rule needs from a place.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO, Protocol

from kt_batch.errors import MissingError, UsageError
from kt_batch.store.local import LocalLocation
from kt_batch.store.names import FILE_SCHEME, Names, path_of_file_uri, safe_name

__all__ = [
    "LocalLocation",
    "Location",
    "absolute_place",
    "exists",
    "location_contains",
    "open_location",
    "safe_name",
]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


class Location(Protocol):
    """What LocalLocation and S3Location have in common.

    Names are checked by `safe_name` (UsageError). Any method may raise StorageError when the place cannot be used;
    reading what is not there raises MissingError.
    """

    @property
    def uri(self) -> str:
        """The place as `open_location` accepts it: file:///absolute/path or s3://bucket/prefix, without credentials."""

    def read_bytes(self, name: str) -> bytes:
        """The whole content."""

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on; fewer where the content ends, none beyond."""

    def size(self, name: str) -> int:
        """Content length in bytes."""

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Store `data` under a free name: True when ours is there now, False when something was there already.

        False may also mean our own bytes, stored by an attempt whose reply was lost: whoever must know reads back.
        """

    def put_content(self, name: str, source: Path) -> None:
        """Store a local file under a name that holds its own hash; already there means done.

        `source` must not be written to afterwards: a local location may keep that very file.
        """

    def list(self, prefix: str = "") -> Names:
        """Sorted names of everything below the directory `prefix`, recursively; never files on their way."""

    def open(self, name: str) -> BinaryIO:
        """A seekable reader; each read of an object store asks for exactly its range."""

    def local_path(self, name: str) -> Path | None:
        """The file itself, for memory mapping; None where there is no file."""

    def list_temporary(self) -> dict[str, int]:
        """Name -> bytes that removing it frees, of every file on its way: its writer is at work, or died.

        `delete` takes these names too, no other method does.
        """

    def delete(self, name: str) -> None:
        """Remove the content; nothing there is fine."""

    def free_bytes(self) -> int | None:
        """Free space; None where the question has no meaning."""

    def scratch_directory(self) -> Path:
        """An existing local directory for files on their way to `put_content`, to be named `.tmp-...`.

        Local: the location itself, so that storing is a link and no copy.
        """


def open_location(text: str) -> Location:
    """The location named by a path, file:///absolute/path or s3://bucket/prefix; touches nothing.

    Raises UsageError for another scheme, for credentials within the text (which is then not repeated), or for no place.
    """
    scheme = _SCHEME.match(text)
    if scheme is None:
        if not text or "\0" in text:
            raise UsageError(f"the location {text!r} is not a path; allowed are a path, file:// and s3://bucket/prefix")
        return LocalLocation(Path(text).absolute())
    match scheme[1].lower():
        case "file":
            return LocalLocation(_file_path(text))
        case "s3":
            return _s3_location(text)
        case other:
            raise UsageError(f"the location scheme {other}:// is unknown; allowed are a path, file:// and s3://")


def absolute_place(text: str) -> str:
    """`text` so that it names the same place from any working directory: workers have others than the driver."""
    return text if _SCHEME.match(text) or not text else os.path.abspath(text)  # noqa: PTH100 - also removes `..`


def exists(location: Location, name: str) -> bool:
    """Tell whether `location` has content under `name`."""
    try:
        location.size(name)
    except MissingError:
        return False
    return True


def location_contains(location: Location, uri: str) -> bool:
    """Tell whether an input lies inside a location, at any depth.

    uri: as `list_inputs` gives it: a plain absolute path, a percent-encoded file:// URI, or s3://bucket/key. Links are
    not followed: a path spelled through another link counts as another path.
    """
    if isinstance(location, LocalLocation):
        path = path_of_file_uri(uri) if uri.startswith(FILE_SCHEME) else Path(uri)
        if path is None or not path.is_absolute():
            return False
        return Path(absolute_place(str(location.root))) in Path(absolute_place(str(path))).parents
    return uri.startswith(f"{location.uri}/")


def _file_path(text: str) -> Path:
    path = path_of_file_uri(text)
    if path is None or "\0" in str(path):
        raise UsageError(f"the location {text!r} is not a file of this machine; allowed is file:///absolute/path")
    return path


def _s3_location(text: str) -> Location:
    from kt_batch.store.s3 import S3Location  # half a second that a local job need not spend

    bucket, _, prefix = text[len("s3://") :].partition("/")
    if "@" in bucket:
        raise UsageError(
            "an s3:// location must not hold credentials; they are taken from the environment or a profile"
        )
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"the location {text!r} names no bucket; allowed is s3://bucket/prefix")
    prefix = prefix.rstrip("/")
    return S3Location(bucket, safe_name(prefix) if prefix else "")
