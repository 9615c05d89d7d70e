"""Metadata in boxes: the items of AVIF and HEIC, and the boxes of JPEG XL.

Sources: ISO/IEC 14496-12 (boxes, items), 23008-12 (HEIF), 18181-2 (JPEG XL).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from kt_batch.store.images.metadata.blocks import MAX_BLOCK, Blocks, bounded, sound_exif, sound_icc

JPEG_XL = b"\0\0\0\x0cJXL \r\n\x87\n"
MIME_OF_XMP = b"application/rdf+xml"
_MAX_BOXES, _MAX_ITEMS, _MAX_PARTS = 4096, 4096, 256


Extent: TypeAlias = tuple[int, int, int]  # 0 in the file or 1 in the box `idat`, place, length
Places: TypeAlias = dict[int, list[Extent]]


@dataclass(frozen=True)
class Box:
    """A box: its name, and where its content lies."""

    name: bytes
    start: int
    end: int


class _Reader:
    """Reads numbers of a box one after the other; beyond its end they are 0, and `cut` says so."""

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self._data, self.at, self._end = data, at, end
        self.cut = False

    def number(self, size: int) -> int:
        """Return an unsigned number of `size` bytes."""
        if self.at + size > self._end:
            self.cut = True
            return 0
        self.at += size
        return int.from_bytes(self._data[self.at - size : self.at], "big")

    def text(self) -> bytes:
        """Return the bytes up to a zero."""
        stop = self._data.find(b"\0", self.at, self._end)
        if stop < 0:
            self.cut = True
            return b""
        start, self.at = self.at, stop + 1
        return self._data[start:stop]


def is_boxes(data: bytes) -> bool:
    """Tell whether bytes are a HEIC, an AVIF or a JPEG XL with boxes."""
    return data[4:8] == b"ftyp" or data.startswith(JPEG_XL)


def read(data: bytes) -> Blocks:
    """Return the metadata of a file of boxes. Boxes that JPEG XL has packed (`brob`) are passed over."""
    if data.startswith(JPEG_XL):
        names = by_name(data, 0, len(data))
        exif, packet = names.get(b"Exif"), names.get(b"xml ")
        return Blocks(_exif(_content(data, exif)), bounded(_content(data, packet)))
    meta = by_name(data, 0, len(data)).get(b"meta")
    if meta is None:
        return Blocks()
    names = by_name(data, meta.start + 4, meta.end)
    kinds = _kinds(data, names[b"iinf"]) if b"iinf" in names else {}
    found = places(data, names[b"iloc"], set(kinds.values())) if b"iloc" in names and kinds else {}
    idat = names.get(b"idat")
    blocks = {kind: _item(data, found.get(item, []), idat) for kind, item in kinds.items()}
    profile = _profile(data, names[b"iprp"]) if b"iprp" in names else None
    return Blocks(_exif(blocks.get(b"Exif")), bounded(blocks.get(MIME_OF_XMP)), None, sound_icc(profile))


def boxes(data: bytes, at: int, end: int) -> Iterator[Box]:
    """Yield the boxes between two places."""
    for _ in range(_MAX_BOXES):
        if at + 8 > end:
            return
        size, name = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1 and at + 16 <= end:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        elif size == 0:
            size = end - at
        if size < start - at:
            return
        yield Box(name, start, min(end, at + size))
        at += size


def by_name(data: bytes, at: int, end: int) -> dict[bytes, Box]:
    """Return the first box of each name."""
    names: dict[bytes, Box] = {}
    for box in boxes(data, at, end):
        names.setdefault(box.name, box)
    return names


def _content(data: bytes, box: Box | None) -> bytes | None:
    return data[box.start : box.end] if box and box.end - box.start <= MAX_BLOCK else None


def _exif(content: bytes | None) -> bytes | None:
    """Return EXIF behind the number that says where its TIFF structure begins."""
    if content is None or len(content) < 4:
        return None
    return sound_exif(content[4 + int.from_bytes(content[:4], "big") :]) or sound_exif(content[4:])


def _kinds(data: bytes, iinf: Box) -> dict[bytes, int]:
    """Return the first item of each kind; items of media types by their media type."""
    head = _Reader(data, iinf.start, iinf.end)
    version = head.number(4) >> 24
    head.number(4 if version else 2)
    kinds: dict[bytes, int] = {}
    for box in boxes(data, head.at, iinf.end):
        if box.name != b"infe":
            continue
        entry = _Reader(data, box.start, box.end)
        version = entry.number(4) >> 24
        if version not in (2, 3):
            continue
        item = entry.number(2 if version == 2 else 4)
        entry.number(2)
        kind = entry.number(4).to_bytes(4, "big")
        entry.text()
        if kind == b"mime":
            kind = entry.text()
        if not entry.cut and kind in (b"Exif", MIME_OF_XMP):
            kinds.setdefault(kind, item)
    return kinds


def places(data: bytes, iloc: Box, wanted: set[int] | None) -> Places:
    """Return the parts of the wanted items, or of all: how they are stored, place and length."""
    reader = _Reader(data, iloc.start, iloc.end)
    version = reader.number(4) >> 24
    sizes = reader.number(2)
    of_place, of_length, of_base, of_index = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15, sizes & 15
    found: Places = {}
    for _ in range(min(reader.number(4 if version == 2 else 2), _MAX_ITEMS)):
        item = reader.number(4 if version == 2 else 2)
        method = reader.number(2) & 15 if version in (1, 2) else 0
        reader.number(2)
        base = reader.number(of_base)
        parts = []
        count = reader.number(2)
        if count > _MAX_PARTS or item in found or (wanted is not None and item not in wanted):
            reader.at += count * (of_place + of_length + (of_index if version in (1, 2) else 0))
            continue
        for _ in range(count):
            if version in (1, 2):
                reader.number(of_index)
            place = reader.number(of_place)
            parts.append((method, base + place, reader.number(of_length)))
            if reader.cut:
                return found
        found[item] = parts
    return found


def _item(data: bytes, parts: list[Extent], idat: Box | None) -> bytes | None:
    content: list[bytes] = []
    total = 0
    for method, place, length in parts:
        start, end = {0: (0, len(data)), 1: (idat.start, idat.end) if idat else (0, 0)}.get(method, (0, 0))
        stop = start + place + length if length else end
        total += stop - start - place
        if stop > end or total > MAX_BLOCK:
            return None
        content.append(data[start + place : stop])
    return b"".join(content) or None


def _profile(data: bytes, iprp: Box) -> bytes | None:
    """Return the first ICC profile among the properties of items."""
    ipco = by_name(data, iprp.start, iprp.end).get(b"ipco")
    for box in boxes(data, ipco.start, ipco.end) if ipco else ():
        if box.name == b"colr" and data[box.start : box.start + 4] in (b"prof", b"rICC"):
            return _content(data, Box(box.name, box.start + 4, box.end))
    return None
