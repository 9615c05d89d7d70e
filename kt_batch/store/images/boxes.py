"""Boxes of ISO base media files, which HEIC, AVIF, JPEG XL and JPEG 2000 are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MAX_BOXES = 2**16  # in one box or file; a camera writes a few hundred


class BoxError(ValueError):
    """Boxes that contradict themselves, or end early."""


@dataclass
class Cursor:
    """A place in bytes from which big-endian numbers are read, up to `end`."""

    data: bytes
    at: int
    end: int

    def number(self, size: int) -> int:
        """Read an unsigned number of `size` bytes."""
        return int.from_bytes(self.take(size), "big")

    def take(self, size: int) -> bytes:
        """Read bytes.

        Raises:
            BoxError: There are fewer.
        """
        start, self.at = self.at, self.at + size
        if self.at > self.end:
            raise BoxError(f"a box ends early, at byte {self.end}")
        return self.data[start : self.at]


@dataclass(frozen=True)
class Box:
    """A box: its four letters, and where its content begins and ends."""

    kind: bytes
    start: int
    end: int
    data: bytes

    def cursor(self) -> Cursor:
        """Return a cursor at the beginning of the content."""
        return Cursor(self.data, self.start, self.end)

    def full(self) -> tuple[int, int, Cursor]:
        """Return version and flags, and a cursor behind them."""
        cursor = self.cursor()
        return cursor.number(1), cursor.number(3), cursor

    def content(self) -> bytes:
        """Return the content."""
        return self.data[self.start : self.end]

    def children(self, skip: int = 0) -> list[Box]:
        """Return the boxes in the content behind `skip` bytes."""
        return list(boxes(self.data, self.start + skip, self.end))

    def child(self, kind: bytes, skip: int = 0) -> Box | None:
        """Return the first box of a kind in the content; None without one."""
        return next((box for box in boxes(self.data, self.start + skip, self.end) if box.kind == kind), None)


def boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    """Yield the boxes between two places.

    The last box of a file may reach beyond its end, as in a cut file: its content then ends there.

    Raises:
        BoxError: A box has an impossible size, or there are too many.
    """
    for _ in range(MAX_BOXES):
        if end - start < 8:
            return
        size, header = int.from_bytes(data[start : start + 4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        elif size == 0:
            size = end - start
        if size < header:
            raise BoxError(f"the box at byte {start} has a size of {size} bytes")
        following = start + size
        yield Box(data[start + 4 : start + 8], min(start + header, end), min(following, end), data)
        start = following
    raise BoxError(f"there are more than {MAX_BOXES} boxes in one")
