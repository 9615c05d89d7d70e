"""Open files of a library that are read as a whole: regular ones, whose bytes lie on disk."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from kt_batch.errors import DamagedError, MissingError, StorageError

LEAST_BACKED = 16  # a file with less than a 16th of its size on disk is a hole; shards and trees have next to none


def read_whole(path: Path, name: str, size: int | None = None) -> bytes:
    """Return the bytes of a file: see `open_whole`. Raises StorageError where they cannot be read."""
    with open_whole(path, name, size) as file:
        return read_all(file, name)


def read_all(file: BinaryIO, name: str) -> bytes:
    """Return the bytes of an open file. Raises StorageError where they cannot be read."""
    try:
        return file.read()
    except OSError as error:
        raise StorageError(f"{name} cannot be read: {error.strerror}.") from error


def open_whole(path: Path, name: str, size: int | None = None) -> BinaryIO:
    """Open a regular file whose bytes lie on disk.

    A file may claim gigabytes that its disk does not hold: most of it is a hole, which reads as zeros.

    Args:
        path: The file.
        name: What errors call it.
        size: The bytes that it must have, if they are known.

    Raises:
        MissingError: There is no file.
        DamagedError: It is no regular file, has another size, or is mostly a hole.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(f"nothing lies at {path}") from error
    except OSError as error:
        raise StorageError(f"{name} cannot be read: {error.strerror}.") from error
    try:
        _check_whole(descriptor, name, size)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb", buffering=0)


def _check_whole(descriptor: int, name: str, size: int | None) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise DamagedError(f"{name} is not a regular file.")
    if size is not None and status.st_size != size:
        raise DamagedError(f"{name} has {status.st_size} bytes, not {size}.")
    if bytes_on_disk(descriptor, status.st_size) < status.st_size // LEAST_BACKED:
        raise DamagedError(f"{name} claims {status.st_size} bytes, and nearly all of them are a hole in the file.")


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
