"""Open regular files only: a pipe, a device or a socket under the name of a file would never end, or never begin."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from kt_batch.errors import DamagedError

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, links followed, without waiting for anything.

    Raises:
        DamagedError: what lies there is a pipe, a device or a socket.
        OSError: it cannot be opened; IsADirectoryError for a directory.
    """
    _check_kind(path, path.stat().st_mode)  # opening a device may already do something
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_kind(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def size_of_regular(path: Path) -> int:
    """Return the size of a file in bytes; raise as `open_regular` does."""
    status = path.stat()
    _check_kind(path, status.st_mode)
    return status.st_size


def read_regular(path: Path, most: int) -> bytes:
    """Read a file of at most `most` bytes.

    Raises as `open_regular` does, and:
        DamagedError: the file is larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise DamagedError(f"{path} has {size} bytes; allowed are {most}")
        return file.read(most)


def _check_kind(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a directory")
    for is_kind, what in _KINDS:
        if is_kind(mode):
            raise DamagedError(f"{path} is {what}; allowed is a regular file")
