"""The bytes of an image file: in memory, or read from an open file when they are wanted."""

from __future__ import annotations

import io
import os
import stat
import weakref
from pathlib import Path
from typing import BinaryIO, TypeAlias


class FileBytes:
    """The bytes of an open file, like `bytes`, but none of them are kept in memory.

    The file is closed with this object.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        weakref.finalize(self, file.close)
        self._status = self._now()
        self._length = os.fstat(self.descriptor).st_size

    @property
    def descriptor(self) -> int:
        """Return the descriptor of the file, which is open for reading."""
        return self._file.fileno()

    @property
    def is_changed(self) -> bool:
        """Tell whether the file was written to since this object was made, as far as its status shows."""
        return self._now() != self._status

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> bytes:
        """Return bytes; the step of the slice is 1."""
        start, stop, _ = part.indices(self._length)
        pieces = []
        while start < stop and (piece := os.pread(self.descriptor, stop - start, start)):
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self.descriptor)
        return status.st_size, status.st_mtime_ns

    def open(self) -> BinaryIO:
        """Return a reader with a position of its own."""
        return io.BufferedReader(_Reader(self), 2**16)


Data: TypeAlias = bytes | FileBytes


def opened(data: Data) -> BinaryIO:
    """Return a reader of the bytes of a file."""
    return data.open() if isinstance(data, FileBytes) else io.BytesIO(data)


def large_file(path: Path, least: int, most: int) -> FileBytes | None:
    """Open a regular file of `least` to `most` bytes; return None for any other."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or not least <= status.st_size <= most:
        return None
    return FileBytes(path.open("rb"))


class _Reader(io.RawIOBase):
    def __init__(self, data: FileBytes) -> None:
        self._data, self._at = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._data)}[whence]
        if base + offset < 0:
            raise ValueError(f"a place of {base + offset} is before the file")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count = os.preadv(self._data.descriptor, [buffer], self._at)
        self._at += count
        return count
