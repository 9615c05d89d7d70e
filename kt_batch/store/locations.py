"""Places of libraries and runs: a directory or a prefix of a bucket.

Both have the same methods. A name that `put_if_absent` or `put_content` stored is complete, durable and never changes.
A reader sees all of its content or nothing. The commit rule needs no more than that.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO, Protocol

from kt_batch.errors import DamagedError, MissingError, StorageError, UsageError
from kt_batch.redaction import redacted
from kt_batch.store.local import LocalLocation
from kt_batch.store.names import FILE_SCHEME, Names, path_of_file_uri, safe_name
from kt_batch.store.places import absolute_path, clean_place, scheme_of
from kt_batch.store.publish import kernel_id

__all__ = [
    "MOST_IMAGE_BYTES",
    "LocalLocation",
    "Location",
    "absolute_place",
    "check_kernel",
    "exists",
    "location_contains",
    "one_host_error",
    "open_location",
    "read_bounded",
    "safe_name",
    "sole_kernel",
]

MOST_IMAGE_BYTES = 1 << 28  # of an output: five times the largest working image, uncompressed
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


class Location(Protocol):
    """The methods of LocalLocation and S3Location.

    `safe_name` checks all names (UsageError). Any method may raise StorageError when the place cannot be used. Reading
    absent content raises MissingError.
    """

    @property
    def uri(self) -> str:
        """Return the place as `open_location` accepts it, without credentials.

        That is file:///absolute/path or s3://bucket/prefix.
        """

    def read_bytes(self, name: str) -> bytes:
        """Return the whole content."""

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Return `length` bytes from `start` on.

        There are fewer where the content ends, and none beyond it.
        """

    def size(self, name: str) -> int:
        """Return the content's length in bytes."""

    def refusal(self, name: str) -> str | None:
        """Return why nothing can be stored under a name, whatever it is; None where something can."""

    def longest_component(self) -> int:
        """Return how many bytes a component of a name may have."""

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Store `data` under a free name; return False when something was there already.

        False may also mean our own bytes, stored by an attempt whose reply was lost. A caller that must know reads them
        back.
        """

    def put_file_if_absent(self, name: str, file: BinaryIO, time: int | None = None) -> bool:
        """Store the content of an open file as `put_if_absent` does, without all of it in memory.

        `time` is that of the last change, in nanoseconds, which a file shall have; object stores have their own.
        """

    def put_content(self, name: str, source: Path) -> None:
        """Store a local file under a name that holds its own hash, unless it is there.

        `source` must not be written to afterwards: a local location may keep that very file.
        """

    def list(self, prefix: str = "") -> Names:
        """Return the sorted names of all files below the directory `prefix`.

        Unfinished files are left out.
        """

    def open(self, name: str) -> BinaryIO:
        """Return a seekable reader.

        Each read of an object store requests exactly its range.
        """

    def local_path(self, name: str) -> Path | None:
        """Return the file itself for memory mapping; None where there is no file."""

    def list_temporary(self) -> dict[str, int]:
        """Return name -> bytes that removing it frees, of every unfinished file.

        Its writer is at work or has died. Only `delete` accepts these names.
        """

    def delete(self, name: str) -> None:
        """Remove the content, if there is any."""

    def free_bytes(self) -> int | None:
        """Return the free space in bytes; None where there is no limit."""

    def publishing(self) -> str | None:
        """Return how files get their names where that takes more than a hard link or `If-None-Match`; None elsewhere.

        It is `rename` or `lock` (`store/publish.py`): only processes of one kernel exclude each other then.

        Raises:
            StorageError: the file system offers no way that excludes two writers.
        """

    def scratch_directory(self) -> Path:
        """Return an existing local directory for files that `put_content` will store.

        They are named `.tmp-...`. For a local location it is the location itself, so nothing is copied. Storing a file
        may remove it there.
        """


def open_location(text: str) -> Location:
    """Return the location that a text names; touch nothing.

    The text is a path, file:///absolute/path or s3://bucket/prefix.

    Raises:
        UsageError: the text names no place or one that is not UTF-8, has another scheme, or
            holds credentials (and is then not repeated).
    """
    if not text or "\0" in text:
        raise UsageError(f"the location {text!r} is not a path; allowed are a path, file:// and s3://bucket/prefix")
    place = clean_place(text)
    match scheme_of(place):
        case None:
            return _local_location(Path(absolute_path(place)))
        case "file":
            return _local_location(_file_path(place))
        case "s3":
            return _s3_location(place)
        case "gs" | "az" | "http" | "https" as other:
            raise UsageError(
                f"the location {redacted(place)!r} cannot hold a library or a run: {other}:// is for inputs alone, "
                "since its clients may replace what is there; allowed are a path, file:// and s3://"
            )
        case other:
            raise UsageError(f"the location scheme {other}:// is unknown; allowed are a path, file:// and s3://")


def absolute_place(text: str) -> str:
    """Return `text` so that it names the same place from any working directory.

    Workers have another working directory than the driver.

    Raises:
        UsageError: it holds credentials, or is relative to a folder that Ray removes.
    """
    place = clean_place(text)
    return place if scheme_of(place) or not place else absolute_path(place)


def exists(location: Location, name: str) -> bool:
    """Tell whether `location` has content under `name`."""
    try:
        location.size(name)
    except MissingError:
        return False
    return True


def read_bounded(location: Location, name: str, most: int) -> bytes:
    """Read the whole content of a name.

    Raises:
        MissingError: nothing is there.
        DamagedError: it has more than `most` bytes.
    """
    data = location.read_range(name, 0, most + 1)
    if len(data) > most:
        raise DamagedError(f"{location.uri}/{name} has {location.size(name)} bytes; allowed are {most}")
    return data


def sole_kernel(location: Location) -> str | None:
    """Return the id of the only kernel whose processes may write to a location; None where those of all may."""
    return kernel_id() if location.publishing() else None


def check_kernel(location: Location, kernel: str | None) -> None:
    """Raise StorageError when this process must not write to a location.

    Args:
        location: a library or a run.
        kernel: as `sole_kernel` returned it where the work was planned. None, where this process finds no hard links,
            means that the two hosts exclude writers in different ways.
    """
    if kernel != kernel_id() and (kernel is not None or location.publishing()):
        raise one_host_error(location)


def one_host_error(location: Location) -> StorageError:
    """Return the error of a job on several hosts where only one may write."""
    return StorageError(
        f"{location.uri} lies on a file system without hard links, where writers on several hosts could overwrite "
        "each other; use workers of one host, a file system with hard links, or object storage "
        "(s3://bucket/prefix)"
    )


def location_contains(location: Location, uri: str) -> bool:
    """Tell whether an input lies inside a location, at any depth.

    Links are not followed: a path that is spelled through another link counts as another path.

    Args:
        location: a library or a run.
        uri: as `list_inputs` returns it: a plain absolute path, a percent-encoded file:// URI, or s3://bucket/key.
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


def _local_location(path: Path) -> Location:
    """Return a directory. Its path must be text: tables hold it, and DuckDB and safetensors open files by it."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the location {str(path)!r} has bytes that are not UTF-8; allowed is a path of UTF-8, from the root on"
        ) from error
    return LocalLocation(path)


def _s3_location(text: str) -> Location:
    from kt_batch.store.s3 import S3Location  # importing it takes half a second

    bucket, _, prefix = text[len("s3://") :].partition("/")
    if "?versionId=" in prefix:  # the client would cut it off
        raise UsageError(f"the location {text!r} holds '?versionId='; allowed is s3://bucket/prefix")
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"the location {text!r} names no bucket; allowed is s3://bucket/prefix")
    prefix = prefix.rstrip("/")
    return S3Location(bucket, safe_name(prefix) if prefix else "")
