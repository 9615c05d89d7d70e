"""EXIF that is carried over: corrected in place, so that no offset moves, not even inside of maker notes."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from kt_batch.store.images.metadata.directories import (
    ASCII,
    LONG,
    SHORT,
    Entry,
    Layout,
    Table,
    content_of,
    layout_of,
    numbers_of,
    table_at,
)

EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
XMP, IPTC, PHOTOSHOP, ICC = 700, 33723, 34377, 34675  # blocks of their own, which some writers put into EXIF as well

_ORIENTATION, _COLOUR_SPACE, _INTEROP_INDEX, _SUB_IFDS = 0x0112, 0xA001, 0x0001, 0x014A
_WIDTHS, _HEIGHTS = (0x0100, 0xA002, 0x1001), (0x0101, 0xA003, 0x1002)  # of the image, by EXIF, by interoperability
_OF_COLOUR = frozenset({0x012D, 0x013E, 0x013F, 0x0211, 0x0214, 0xA500})  # curve, white, primaries, YCbCr, gamma
_NESTED = frozenset({XMP, IPTC, PHOTOSHOP, ICC})
_OFFSETS, _LENGTHS = (0x0111, 0x0144, 0x0201), (0x0117, 0x0145, 0x0202)  # strips, tiles, a JPEG: of a thumbnail
_DATE, _OFFSET, _FRACTION = 0x9003, 0x9011, 0x9291  # of the original

_MAX_TABLES = 8
_LARGEST_SHORT = 0xFFFF

Range = tuple[int, int]


@dataclass(frozen=True)
class Corrections:
    """What EXIF says about an output.

    width, height: its size. colour_space: the value of ColorSpace, 1 for sRGB and 0xFFFF for another space; None where
    the output stays in the space of the input.
    """

    width: int
    height: int
    colour_space: int | None = None


def corrected(block: bytes, corrections: Corrections, gps: bool) -> bytes | None:
    """Return a block of EXIF for an output.

    Orientation, size and, after a conversion, colour space are set. Thumbnails and blocks of other kinds are unlinked
    and their bytes are zeroed; so is GPS, unless it is wanted. All else stays where it is, byte for byte.

    Returns:
        The block; None for one that is damaged: without directory, or with GPS and another directory in one place.
    """
    found = layout_of(block)
    if found is None or found[0].big:
        return None
    layout, first = found
    tables = _tables(block, layout, first)
    if not tables:
        return None
    dropped = set(_NESTED | {_SUB_IFDS})
    if corrections.colour_space is not None:
        dropped |= _OF_COLOUR
    if not gps:
        dropped.add(GPS_IFD)
    removed = [entry for table in tables for entry in table.entries if entry.tag in dropped]
    kept = [entry for table in tables for entry in table.entries if entry.tag not in dropped]
    if not any(tables[0].at < entry.at < tables[0].end for entry in kept):
        return None
    pointers = [entry for table in tables for entry in table.entries if entry.tag == GPS_IFD]
    places = [range_ for entry in pointers for range_ in _gps(block, layout, entry)]
    structure = [(0, 8), *((table.at, table.end) for table in tables)]
    if not gps and _overlap(places, structure):
        return None
    data = bytearray(block)
    _zero(data, [*_thumbnails(block, layout, tables[0], removed), *_values(removed)])
    # A thumbnail may share values with the image.
    for start, end in _merged([*structure, *_values(kept), *(places if gps else [])], len(block)):
        data[start:end] = block[start:end]
    if not gps:
        _zero(data, places)
    for table in tables:
        _rewrite(data, layout, table, dropped, corrections, last=table is tables[0])
    return bytes(data)


def capture_time(block: bytes) -> str | None:
    """Return when the picture was taken, as ISO 8601 with fraction and offset where EXIF has them; None if unknown."""
    found = layout_of(block)
    if found is None:
        return None
    texts: dict[int, str] = {}
    for table in _tables(block, *found):
        for entry in table.entries:
            if entry.tag in (_DATE, _OFFSET, _FRACTION) and entry.kind == ASCII and entry.size <= 32:
                text = content_of(block, entry).split(b"\0")[0].decode("latin-1").strip()
                texts.setdefault(entry.tag, text)
    try:
        time = datetime.strptime(texts.get(_DATE, ""), "%Y:%m:%d %H:%M:%S")  # noqa: DTZ007 - EXIF may have no time zone
    except ValueError:
        return None
    fraction, offset = texts.get(_FRACTION, ""), texts.get(_OFFSET, "")
    fraction = f".{fraction}" if re.fullmatch(r"[0-9]{1,9}", fraction) else ""
    return time.isoformat() + fraction + (offset if re.fullmatch(r"[+-][01][0-9]:[0-5][0-9]", offset) else "")


def nested(block: bytes, tag: int) -> bytes | None:
    """Return a block of another kind that stands in the first directory of EXIF."""
    found = layout_of(block)
    table = table_at(block, *found) if found else None
    if table is None:
        return None
    return next(
        (content for entry in table.entries if entry.tag == tag and (content := content_of(block, entry))), None
    )


def _tables(block: bytes, layout: Layout, first: int) -> list[Table]:
    """Return the directories of the main image: the first one, EXIF, interoperability."""
    tables: list[Table] = []
    waiting = [first]
    while waiting and len(tables) < _MAX_TABLES:
        at = waiting.pop(0)
        table = table_at(block, layout, at)
        if table is None or any(at < known.end and known.at < table.end for known in tables):
            continue
        tables.append(table)
        for entry in table.entries:
            if entry.tag in (EXIF_IFD, INTEROP_IFD):
                waiting += numbers_of(block, layout, entry)[:1]
    return tables


def _gps(block: bytes, layout: Layout, pointer: Entry) -> list[Range]:
    """Return where a directory of GPS and its values lie."""
    return [range_ for at in numbers_of(block, layout, pointer)[:1] for range_ in _directory(block, layout, at)]


def _directory(block: bytes, layout: Layout, at: int) -> list[Range]:
    table = table_at(block, layout, at)
    return [(table.at, table.end), *_values(table.entries)] if table else []


def _thumbnails(block: bytes, layout: Layout, main: Table, removed: Iterable[Entry]) -> list[Range]:
    """Return where the directories behind the first one and below it lie, with all that they point to."""
    waiting = [main.following] if main.following else []
    waiting += [at for entry in removed if entry.tag == _SUB_IFDS for at in numbers_of(block, layout, entry)]
    ranges: list[Range] = []
    seen: set[int] = set()
    while waiting and len(seen) < _MAX_TABLES:
        at = waiting.pop(0)
        table = table_at(block, layout, at)
        if table is None or at in seen:
            continue
        seen.add(at)
        lists = {entry.tag: numbers_of(block, layout, entry) for entry in table.entries}
        for offsets, lengths in zip(_OFFSETS, _LENGTHS, strict=True):
            ranges += [(s, s + n) for s, n in zip(lists.get(offsets, ()), lists.get(lengths, ()), strict=False)]
        ranges += _directory(block, layout, at)
        waiting += [table.following] if table.following else []
        waiting += [at for tag in (EXIF_IFD, GPS_IFD, INTEROP_IFD) for at in lists.get(tag, ())]
    return ranges


def _values(entries: Iterable[Entry]) -> list[Range]:
    return [(entry.value_at, entry.value_at + entry.size) for entry in entries]


def _overlap(some: Iterable[Range], others: Collection[Range]) -> bool:
    return any(max(start, first) < min(end, last) for start, end in some for first, last in others)


def _merged(ranges: Iterable[Range], length: int) -> list[Range]:
    """Return the same bytes as ranges that do not overlap, up to `length`."""
    merged: list[Range] = []
    for start, end in sorted(ranges):
        first = max(start, merged[-1][1] if merged else 0)
        if first < min(end, length):
            merged.append((first, min(end, length)))
    return merged


def _zero(data: bytearray, ranges: Iterable[Range]) -> None:
    for start, end in _merged(ranges, len(data)):
        data[start:end] = bytes(end - start)


def _set_values(table: Table, layout: Layout, corrections: Corrections) -> dict[int, bytes]:
    """Return the entries that are corrected, of the tags that a directory has."""
    numbers = {_ORIENTATION: 1} | dict.fromkeys(_WIDTHS, corrections.width)
    numbers |= dict.fromkeys(_HEIGHTS, corrections.height)
    if corrections.colour_space is not None:
        numbers[_COLOUR_SPACE] = corrections.colour_space
    kinds = {entry.tag: entry.kind for entry in table.entries}
    entries: dict[int, bytes] = {}
    for tag, value in numbers.items():
        short = value <= _LARGEST_SHORT and kinds.get(tag) != LONG
        content = struct.pack(layout.order + ("H" if short else "I"), value).ljust(4, b"\0")
        entries[tag] = struct.pack(layout.order + "HHI", tag, SHORT if short else LONG, 1) + content
    if corrections.colour_space is not None and kinds.get(_INTEROP_INDEX) == ASCII:
        entries[_INTEROP_INDEX] = struct.pack(layout.order + "HHI4s", _INTEROP_INDEX, ASCII, 4, b"R98")
    return entries


def _rewrite(
    data: bytearray, layout: Layout, table: Table, dropped: Collection[int], corrections: Corrections, last: bool
) -> None:
    """Write a directory in its place: without some entries, with some corrected; no other follows the last one."""
    set_values = _set_values(table, layout, corrections)
    entries = [
        set_values.get(entry.tag, bytes(data[entry.at : entry.at + layout.entry]))
        for entry in table.entries
        if entry.tag not in dropped
    ]
    end = table.at + layout.head + len(table.entries) * layout.entry
    pointer = b"" if last else bytes(data[end : table.end])
    (declared,) = struct.unpack_from(layout.order + "H", data, table.at)  # more than there are, if the block is cut
    count = declared - len(table.entries) + len(entries)
    body = struct.pack(layout.order + "H", count) + b"".join(entries) + pointer
    data[table.at : table.end] = body.ljust(table.end - table.at, b"\0")
