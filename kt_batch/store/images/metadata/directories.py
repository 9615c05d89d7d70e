"""Directories of TIFF, which EXIF has as well: read with every size bounded, and written.

Sources: TIFF 6.0; the BigTIFF design of Adobe PageMaker, AWare Systems; CIPA DC-008 (Exif 3.0).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

MAX_ENTRIES = 1024  # of one directory; a camera writes fewer than a hundred
MAX_VALUES = 1024  # of one list of places or sizes

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, IFD = 1, 2, 3, 4, 5, 7, 13
_LONG8, _IFD8 = 16, 18
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_SIZES[129] = 1  # text in UTF-8, of Exif 3.0
_NUMBERS = {
    1: 1,
    2: 1,
    5: 4,
    6: 1,
    7: 1,
    10: 4,
    129: 1,
}  # bytes that turn around together, where that is not the whole value
_UNSIGNED = {BYTE: "B", SHORT: "H", LONG: "I", IFD: "I", _LONG8: "Q", _IFD8: "Q"}


@dataclass(frozen=True)
class Layout:
    """How numbers are stored: `order` is `<` or `>`, `big` for BigTIFF."""

    order: str
    big: bool = False

    @property
    def head(self) -> int:
        """Return the bytes of the number of entries."""
        return 8 if self.big else 2

    @property
    def pointer(self) -> int:
        """Return the bytes of a place."""
        return 8 if self.big else 4

    @property
    def entry(self) -> int:
        """Return the bytes of an entry."""
        return 20 if self.big else 12

    def place(self, value: int) -> bytes:
        """Return a place as it is stored."""
        return struct.pack(self.order + ("Q" if self.big else "I"), value)


@dataclass(frozen=True)
class Entry:
    """One entry: its value lies at `value_at`, inside the entry or elsewhere, maybe outside of the file."""

    tag: int
    kind: int
    count: int
    at: int
    value_at: int
    size: int


@dataclass(frozen=True)
class Table:
    """A directory from `at` to `end`; `following` is the place of the next one, 0 for none."""

    at: int
    end: int
    entries: tuple[Entry, ...]
    following: int


@dataclass(frozen=True)
class Value:
    """The value of a tag, in the byte order of its directory."""

    kind: int
    count: int
    content: bytes


Values: TypeAlias = Mapping[int, Value]


def layout_of(data: bytes) -> tuple[Layout, int] | None:
    """Return the layout of a TIFF structure and the place of its first directory; None for other bytes."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None or len(data) < 8:
        return None
    (version,) = struct.unpack_from(order + "H", data, 2)
    if version == 42:
        return Layout(order), struct.unpack_from(order + "I", data, 4)[0]
    if version == 43 and len(data) >= 16 and struct.unpack_from(order + "HH", data, 4) == (8, 0):
        return Layout(order, big=True), struct.unpack_from(order + "Q", data, 8)[0]
    return None


def table_at(data: bytes, layout: Layout, at: int) -> Table | None:
    """Return the directory at a place; None where there is none. One that is cut has the entries that are there."""
    first = at + layout.head
    if at < 8 or first > len(data):
        return None
    (count,) = struct.unpack_from(layout.order + ("Q" if layout.big else "H"), data, at)
    if not 0 < count <= MAX_ENTRIES:
        return None
    whole = min(count, (len(data) - first) // layout.entry)
    entries = tuple(_entry_at(data, layout, first + number * layout.entry) for number in range(whole))
    end = first + whole * layout.entry
    following = 0
    if whole == count and end + layout.pointer <= len(data):
        following = int.from_bytes(data[end : end + layout.pointer], "little" if layout.order == "<" else "big")
        end += layout.pointer
    return Table(at, end, entries, following) if entries else None


def _entry_at(data: bytes, layout: Layout, at: int) -> Entry:
    tag, kind, count = struct.unpack_from(layout.order + ("HHQ" if layout.big else "HHI"), data, at)
    size = _SIZES.get(kind, 0) * count
    value_at = at + layout.entry - layout.pointer
    if size > layout.pointer:
        (value_at,) = struct.unpack_from(layout.order + ("Q" if layout.big else "I"), data, value_at)
    return Entry(tag, kind, count, at, value_at, size)


def content_of(data: bytes, entry: Entry) -> bytes:
    """Return the bytes of a value; none where it lies outside of the data."""
    end = entry.value_at + entry.size
    return bytes(data[entry.value_at : end]) if end <= len(data) else b""


def numbers_of(data: bytes, layout: Layout, entry: Entry) -> tuple[int, ...]:
    """Return the whole numbers of an entry: places, sizes; none where it holds something else."""
    code = _UNSIGNED.get(entry.kind)
    if code is None or not 0 < entry.count <= MAX_VALUES or entry.value_at + entry.size > len(data):
        return ()
    return struct.unpack_from(f"{layout.order}{entry.count}{code}", data, entry.value_at)


def values_of(data: bytes, table: Table, limit: int) -> dict[int, Value]:
    """Return the values of a directory by tag, `limit` bytes of them at most; the first of two with one tag counts."""
    values: dict[int, Value] = {}
    for entry in table.entries:
        if entry.tag in values or not 0 < entry.size <= limit:
            continue
        if content := content_of(data, entry):
            values[entry.tag] = Value(entry.kind, entry.count, content)
            limit -= entry.size
    return values


def pointer(place: int, layout: Layout) -> Value:
    """Return a place as a value."""
    return Value(_LONG8 if layout.big else LONG, 1, layout.place(place))


def turned(value: Value) -> Value:
    """Return a value in the other byte order."""
    width = _NUMBERS.get(value.kind, _SIZES[value.kind])
    if width == 1:
        return value
    return Value(value.kind, value.count, np.frombuffer(value.content, f"u{width}").byteswap().tobytes())


def narrowed(value: Value, order: str) -> Value | None:
    """Return a value as TIFF without 8-byte numbers has it; None where that cannot be."""
    if value.kind not in (_LONG8, 17, _IFD8):
        return value
    signed = value.kind == 17
    try:
        numbers = struct.unpack(f"{order}{value.count}{'q' if signed else 'Q'}", value.content)
        content = struct.pack(f"{order}{value.count}{'i' if signed else 'I'}", *numbers)
    except struct.error:
        return None
    return Value(9 if signed else LONG, value.count, content)


def written(values: Values, layout: Layout, at: int, following: int = 0) -> bytes:
    """Return a directory that stands at `at`, its values behind it; its length is even."""
    start = at + layout.head + len(values) * layout.entry + layout.pointer
    table = [struct.pack(layout.order + ("Q" if layout.big else "H"), len(values))]
    rest = bytearray()
    for tag, value in sorted(values.items()):
        table.append(struct.pack(layout.order + ("HHQ" if layout.big else "HHI"), tag, value.kind, value.count))
        if len(value.content) <= layout.pointer:
            table.append(value.content.ljust(layout.pointer, b"\0"))
        else:
            table.append(layout.place(start + len(rest)))
            rest += value.content + bytes(len(value.content) % 2)
    return b"".join(table) + layout.place(following) + bytes(rest)
