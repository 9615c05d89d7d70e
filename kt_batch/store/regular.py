"""Open regular files whose bytes lie on disk: no pipe, device or socket, and no file that is mostly a hole.

A pipe or a device under the name of a file would never end, or never begin. A file may claim gigabytes that its disk
does not hold: most of it is a hole, which reads as zeros.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kt_batch.errors import DamagedError, MissingError, StorageError

LEAST_BACKED = 16  # a file with less than a 16th of its size on disk is a hole; ours have next to none

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: Path, name: str | None = None, size: int | None = None) -> BinaryIO:
    """Open a file for reading, links followed, without waiting for anything.

    Args:
        path: The file.
        name: What errors call it; None: its path.
        size: The bytes that it must have, if they are known.

    Raises:
        DamagedError: It is a pipe, a device or a socket, has another size, or is mostly a hole.
        OSError: It cannot be opened; IsADirectoryError for a directory.
    """
    name = str(path) if name is None else name
    _check_kind(name, path.stat().st_mode)  # opening a device may already do something
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check(descriptor, name, size)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def size_of_regular(path: Path) -> int:
    """Return the size of a file in bytes; raise as `open_regular` does for what is no regular file."""
    status = path.stat()
    _check_kind(str(path), status.st_mode)
    return status.st_size


def read_regular(path: Path, most: int, name: str | None = None) -> bytes:
    """Read a file of at most `most` bytes.

    Raises as `open_regular` does, and:
        DamagedError: the file is larger.
    """
    with open_regular(path, name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise DamagedError(f"{name or path} has {size} bytes; allowed are {most}")
        return file.read(most)


@contextmanager
def reading(name: str | Path) -> Iterator[None]:
    """Turn the OSErrors of reading a file into MissingError or StorageError."""
    try:
        yield
    except _ABSENT as error:
        raise MissingError(f"nothing lies at {name}") from error
    except OSError as error:
        raise StorageError(f"cannot read {name}: {error.strerror or error}") from error


def bytes_on_disk(descriptor: int, size: int) -> int:
    """Return the bytes of a file outside its holes; all of them where a file system does not tell."""
    end, total = 0, 0
    try:
        while end < size:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            total += end - start
    except OSError as error:
        if error.errno != errno.ENXIO:  # ENXIO: nothing but a hole is left
            total = size
    with suppress(OSError):
        os.lseek(descriptor, 0, os.SEEK_SET)
    return total


def _check(descriptor: int, name: str, size: int | None) -> None:
    status = os.fstat(descriptor)
    _check_kind(name, status.st_mode)
    if size is not None and status.st_size != size:
        raise DamagedError(f"{name} has {status.st_size} bytes, not {size}")
    if bytes_on_disk(descriptor, status.st_size) < status.st_size // LEAST_BACKED:
        raise DamagedError(f"{name} claims {status.st_size} bytes, and nearly all of them are a hole in the file")


def _check_kind(name: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory", name)
    for is_kind, what in _KINDS:
        if is_kind(mode):
            raise DamagedError(f"{name} is {what}; allowed is a regular file")
