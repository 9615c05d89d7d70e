"""Parts of a file of an object store, fetched in few requests and kept, for readers that read many small pieces."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from typing import BinaryIO, cast

GAP = 1 << 16  # bytes that are fetched in vain rather than by another request


def held_ranges(source: BinaryIO, ranges: Sequence[tuple[int, int]]) -> BinaryIO:
    """Fetch parts of a file, and return a reader that serves them from memory and all else from the file.

    Args:
        source: The file, seekable.
        ranges: (first byte, length) of each part, ascending.
    """
    merged: list[tuple[int, int]] = []
    for start, length in ranges:
        if merged and start <= merged[-1][1] + GAP:
            merged[-1] = (merged[-1][0], max(merged[-1][1], start + length))
        else:
            merged.append((start, start + length))
    held = []
    for start, end in merged:
        source.seek(start)
        held.append((start, source.read(end - start)))
    return cast("BinaryIO", io.BufferedReader(_Held(source, held)))


class _Held(io.RawIOBase):
    """A reader of parts in memory, and of the file beyond them."""

    def __init__(self, source: BinaryIO, held: Sequence[tuple[int, bytes]]) -> None:
        self._source, self._held = source, held
        self._starts = [start for start, _ in held]
        self._size = source.seek(0, io.SEEK_END)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _next(self, length: int) -> bytes | memoryview:
        number = bisect_right(self._starts, self._position) - 1
        if number >= 0:
            start, data = self._held[number]
            if self._position < start + len(data):
                return memoryview(data)[self._position - start :][:length]
        self._source.seek(self._position)
        return self._source.read(length)
