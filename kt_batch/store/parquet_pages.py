"""What the pages of a Parquet file will take, read from their headers before anything is decompressed.

A footer can lie about its columns, but a reader decompresses no more than the header of each page says. A header is a
Thrift struct in the compact protocol, as the Parquet format defines it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

DATA_PAGE, DICTIONARY_PAGE = 0, 2
PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY = 0, 2, 3, 8
# The others are not written here. Some of them rebuild values from earlier ones, so that a few bytes make gigabytes.
ENCODINGS = (PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY)
LARGEST_HEADER = 1 << 16
DEEPEST = 8  # structs within a header

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
Struct = dict[int, "int | Struct"]


class PageError(ValueError):
    """A page header is damaged, or of a kind that is never written here."""


@dataclass(frozen=True)
class Dictionary:
    """Where the dictionary of a column chunk lies, its bytes there and after decompression, and its entries."""

    start: int
    stored: int
    inflated: int
    entries: int


@dataclass(frozen=True)
class Pages:
    """The pages of a column chunk.

    bytes: after decompression. values: of all data pages. referring: values that are numbers of dictionary entries.
    """

    bytes: int
    values: int
    referring: int
    dictionary: Dictionary | None


def read_pages(read: Callable[[int, int], bytes], start: int, length: int) -> Pages:
    """Walk the pages of a column chunk.

    Args:
        read: Returns the bytes of the file from an offset on, fewer at its end.
        start: First byte of the chunk.
        length: Its bytes.

    Raises:
        PageError: a header is damaged, or its page is of a kind or an encoding that is not written here.
    """
    total = values = referring = 0
    dictionary: Dictionary | None = None
    offset, end = start, start + length
    while offset < end:
        header, size = _header(read, offset, min(LARGEST_HEADER, end - offset))
        kind, inflated, stored = (_number(header, field) for field in (1, 2, 3))
        offset += size + stored
        if offset > end:
            raise PageError(f"a page of {stored} bytes goes beyond its column")
        total += max(inflated, stored)
        if kind == DICTIONARY_PAGE:
            entries = _number(_struct(header, 7), 1)
            if entries > max(inflated, stored):
                raise PageError(f"a dictionary of {inflated} bytes claims {entries} entries")
            if dictionary is not None:
                raise PageError("a column has two dictionaries")
            dictionary = Dictionary(offset - stored, stored, inflated, entries)
        elif kind == DATA_PAGE:
            page = _struct(header, 5)
            count, encoding = _number(page, 1), _number(page, 2)
            if encoding not in ENCODINGS:
                raise PageError(f"a page has the encoding {encoding}, which is never written here")
            values += count
            referring += count if encoding in (PLAIN_DICTIONARY, RLE_DICTIONARY) else 0
        else:
            raise PageError(f"a page is of kind {kind}, which is never written here")
    return Pages(total, values, referring, dictionary)


def longest_text(page: bytes, entries: int) -> int:
    """Return the length of the longest text in a decompressed dictionary page."""
    longest = offset = 0
    for _ in range(entries):
        length = int.from_bytes(page[offset : offset + 4], "little")
        longest = max(longest, length)
        offset += 4 + length
        if offset > len(page):
            raise PageError("a dictionary is cut off")
    return longest


def _header(read: Callable[[int, int], bytes], offset: int, most: int) -> tuple[Struct, int]:
    """Read one header; most headers are short, and only a long one is read again."""
    for length in (min(256, most), most):
        data = read(offset, length)
        try:
            parser = _Compact(data)
            return parser.struct(0), parser.position
        except IndexError:
            continue
    raise PageError("a page header is cut off")


def _number(struct: Struct, field: int) -> int:
    value = struct.get(field)
    if not isinstance(value, int) or not 0 <= value < 2**31:
        raise PageError(f"a page header lacks a valid field {field}")
    return value


def _struct(struct: Struct, field: int) -> Struct:
    value = struct.get(field)
    if not isinstance(value, dict):
        raise PageError(f"a page header lacks its part {field}")
    return value


class _Compact:
    """A parser of the compact protocol that keeps integers and structs, and skips all else."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def struct(self, depth: int) -> Struct:
        if depth > DEEPEST:
            raise PageError("a page header is nested too deeply")
        fields: Struct = {}
        field = 0
        while (byte := self._byte()) != 0:
            step, kind = byte >> 4, byte & 15
            field = field + step if step else self._signed()
            value = self._value(kind, depth)
            if field in fields:
                raise PageError(f"a page header has the field {field} twice")
            fields[field] = value
        return fields

    def _value(self, kind: int, depth: int) -> int | Struct:
        if kind in (_TRUE, _FALSE):
            return int(kind == _TRUE)
        if kind in (_I16, _I32, _I64):
            return self._signed()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_BYTE, _DOUBLE, _BINARY):
            self._skip(1 if kind == _BYTE else 8 if kind == _DOUBLE else self._varint())
            return -1
        raise PageError(f"a page header has a field of type {kind}, which no page has")

    def _byte(self) -> int:
        byte = self.data[self.position]
        self.position += 1
        return byte

    def _skip(self, length: int) -> None:
        self.position += length
        if self.position > len(self.data):
            raise IndexError(self.position)

    def _signed(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise PageError("a page header holds a number that is too long")
