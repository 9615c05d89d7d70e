"""What the pages of a Parquet file will take, read from their headers before anything is decompressed.

A footer can lie about its columns, but a reader decompresses no more than the header of each page says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kt_batch.store.thrift import STRUCT, Struct, ThriftError, read_struct

DATA_PAGE, DICTIONARY_PAGE = 0, 2
PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY = 0, 2, 3, 8
# The others are not written here. Some of them rebuild values from earlier ones, so that a few bytes make gigabytes.
ENCODINGS = (PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY)
LARGEST_HEADER = 1 << 16


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
            return read_struct(data)
        except IndexError:
            continue
        except ThriftError as error:
            raise PageError(f"a page header cannot be read: {error}") from error
    raise PageError("a page header is cut off")


def _number(struct: Struct, field: int) -> int:
    value = struct[field].value if field in struct else None
    if not isinstance(value, int) or not 0 <= value < 2**31:
        raise PageError(f"a page header lacks a valid field {field}")
    return value


def _struct(struct: Struct, field: int) -> Struct:
    found = struct.get(field)
    if found is None or found.kind != STRUCT:
        raise PageError(f"a page header lacks its part {field}")
    part: Struct = found.value
    return part
