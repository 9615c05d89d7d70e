"""The items of a HEIF file: which picture is the primary one, how it is stored, and what is said about it.

HEIC and AVIF are such files. Source: ISO/IEC 23008-12 (HEIF), ISO/IEC 14496-12 (boxes), AV1 Image File Format 1.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from kt_batch.store.images.boxes import Box, BoxError, boxes

MAX_EXTENTS = 2**16  # pieces of all items; they may have no bytes of their own in the file

CODINGS = {b"hvc1": "HEIC", b"hev1": "HEIC", b"av01": "AVIF"}
DERIVED = (b"grid", b"iden", b"iovl")  # pictures that are made of other items
_ALPHA_KINDS = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1")
_LEVELS_OF_DERIVATION = 4


@dataclass
class Item:
    """An item: its coding, where its bytes are, and its properties in the order in which they are applied."""

    kind: bytes = b""
    content_type: bytes = b""
    extents: list[tuple[int, int]] = field(default_factory=list)
    properties: list[Box] = field(default_factory=list)

    def named(self, kind: bytes) -> Iterator[Box]:
        """Yield the properties of a kind."""
        return (box for box in self.properties if box.kind == kind)


@dataclass
class Items:
    """All items of a file. references: (kind, from, to) of each reference."""

    data: bytes
    primary: int
    items: dict[int, Item]
    references: list[tuple[bytes, int, tuple[int, ...]]]

    def item(self, number: int) -> Item:
        """Return an item.

        Raises:
            BoxError: There is none with this number.
        """
        if number not in self.items:
            raise BoxError(f"there is no item {number}")
        return self.items[number]

    def check_places(self, numbers: list[int]) -> None:
        """Check that the bytes of items are there.

        Raises:
            BoxError: An item has none, or they lie beyond the end of the file.
        """
        for number in numbers:
            extents = self.item(number).extents
            if not extents or any(end > len(self.data) for _, end in extents):
                raise BoxError(f"item {number} points beyond the end at {len(self.data)} bytes")

    def content(self, number: int, most: int | None = None) -> bytes:
        """Return the bytes of an item, at most the first `most`.

        Raises:
            BoxError: They lie beyond the end of the file.
        """
        parts: list[bytes] = []
        for start, end in self.item(number).extents:
            if end > len(self.data):
                raise BoxError(f"item {number} points beyond the end at {len(self.data)} bytes")
            parts.append(self.data[start:end])
            if most is not None and sum(map(len, parts)) >= most:
                break
        return b"".join(parts)[:most]

    def sources(self, number: int) -> tuple[int, ...]:
        """Return the items that a derived picture is made of."""
        return next((to for kind, start, to in self.references if kind == b"dimg" and start == number), ())

    def describing(self, number: int, kind: bytes) -> list[int]:
        """Return the items that refer to one by a kind of reference, such as `cdsc` for metadata."""
        return [start for name, start, to in self.references if name == kind and number in to]

    def alpha(self, number: int) -> int | None:
        """Return the item with the transparency of a picture; None without one."""
        for auxiliary in self.describing(number, b"auxl"):
            for box in self.items.get(auxiliary, Item()).named(b"auxC"):
                if box.content()[4:].split(b"\0")[0] in _ALPHA_KINDS:
                    return auxiliary
        return None

    def gain_map(self) -> bool:
        """Tell whether the file holds a gain map: an item `tmap`, or an auxiliary picture that is named so."""
        kinds = (box.content()[4:] for item in self.items.values() for box in item.named(b"auxC"))
        return any(item.kind == b"tmap" for item in self.items.values()) or any(b"gainmap" in kind for kind in kinds)

    def has_more(self) -> bool:
        """Tell whether there are a sequence, or further pictures beside the primary one and what belongs to others."""
        if any(box.kind == b"moov" for box in boxes(self.data, 0, len(self.data))):
            return True
        parts = {part for kind, _, to in self.references if kind == b"dimg" for part in to}
        parts |= {start for kind, start, _ in self.references if kind in (b"auxl", b"thmb")}
        kinds = {*CODINGS, *DERIVED}
        return any(
            number != self.primary and number not in parts for number, item in self.items.items() if item.kind in kinds
        )

    def size(self, number: int) -> tuple[int, int]:
        """Return width and height of a picture as it is stored.

        Raises:
            BoxError: It has none.
        """
        for box in self.item(number).named(b"ispe"):
            _, _, cursor = box.full()
            return cursor.number(4), cursor.number(4)
        raise BoxError(f"item {number} has no size")

    def grid(self, number: int) -> tuple[int, int]:
        """Return the rows and the columns of a grid."""
        content = self.content(number, 4)
        if len(content) < 4:
            raise BoxError("the grid is not described")
        return content[2] + 1, content[3] + 1

    def coded(self, number: int, levels: int = _LEVELS_OF_DERIVATION) -> list[int]:
        """Return the coded items that a picture is made of: itself, or the tiles of a grid.

        Raises:
            BoxError: A derived picture has no sources, or is derived from itself.
        """
        item = self.item(number)
        if item.kind not in DERIVED:
            return [number]
        sources = self.sources(number)
        if not sources or levels == 0:
            raise BoxError(f"item {number} is derived from nothing")
        return [coded for source in sources for coded in self.coded(source, levels - 1)]


def items_of(data: bytes) -> Items | None:
    """Return the items of a file; None where it holds none, as a video.

    Raises:
        BoxError: The boxes contradict themselves.
    """
    meta = next((box for box in boxes(data, 0, len(data)) if box.kind == b"meta"), None)
    if meta is None:
        return None
    parts = {box.kind: box for box in reversed(meta.children(skip=4))}
    if b"pitm" not in parts:
        return None
    version, _, cursor = parts[b"pitm"].full()
    found = Items(data, cursor.number(4 if version else 2), {}, [])
    if b"iinf" in parts:
        _read_kinds(parts[b"iinf"], found)
    if b"iloc" in parts:
        _read_places(parts[b"iloc"], parts.get(b"idat"), found)
    if b"iprp" in parts:
        _read_properties(parts[b"iprp"], found)
    if b"iref" in parts:
        _read_references(parts[b"iref"], found)
    return found


def _read_kinds(box: Box, found: Items) -> None:
    version, _, cursor = box.full()
    cursor.number(4 if version else 2)
    for entry in boxes(box.data, cursor.at, box.end):
        if entry.kind != b"infe":
            continue
        version, _, cursor = entry.full()
        if version < 2:
            raise BoxError(f"an item is described in version {version}, which has no kind")
        number = cursor.number(2 if version == 2 else 4)
        cursor.take(2)
        item = found.items.setdefault(number, Item())
        item.kind = cursor.take(4)
        rest = entry.data[cursor.at : entry.end].split(b"\0")
        item.content_type = rest[1] if item.kind == b"mime" and len(rest) > 1 else b""


def _read_places(box: Box, idat: Box | None, found: Items) -> None:
    version, _, cursor = box.full()
    sizes = cursor.number(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    left = MAX_EXTENTS
    for _ in range(cursor.number(4 if version == 2 else 2)):
        number = cursor.number(4 if version == 2 else 2)
        method = cursor.number(2) & 15 if version else 0
        cursor.take(2)  # the file that holds it
        base = cursor.number(base_size) + (idat.start if method == 1 and idat else 0)
        count = cursor.number(2)
        left -= count
        if left < 0:
            raise BoxError(f"the items have more than {MAX_EXTENTS} pieces")
        item = found.items.setdefault(number, Item())
        for _ in range(count):
            cursor.take(index_size if version else 0)
            start = base + cursor.number(offset_size)
            item.extents.append((start, start + cursor.number(length_size)))


def _read_properties(box: Box, found: Items) -> None:
    container = box.child(b"ipco")
    properties = container.children() if container else []
    for association in box.children():
        if association.kind != b"ipma":
            continue
        version, flags, cursor = association.full()
        size = 2 if flags & 1 else 1
        for _ in range(cursor.number(4)):
            item = found.items.setdefault(cursor.number(4 if version else 2), Item())
            for _ in range(cursor.number(1)):
                index = cursor.number(size) & (0x7FFF if size == 2 else 0x7F)
                if 0 < index <= len(properties):
                    item.properties.append(properties[index - 1])


def _read_references(box: Box, found: Items) -> None:
    version, _, cursor = box.full()
    size = 4 if version else 2
    for entry in boxes(box.data, cursor.at, box.end):
        cursor = entry.cursor()
        start = cursor.number(size)
        to = tuple(cursor.number(size) for _ in range(cursor.number(2)))
        found.references.append((entry.kind, start, to))


@dataclass(frozen=True)
class CodePoints:
    """The colours of a picture by ITU-T H.273: primaries, transfer function, matrix, and whether the range is full."""

    primaries: int
    transfer: int
    matrix: int
    full: bool

    @property
    def is_known(self) -> bool:
        """Tell whether the standard may have a meaning for the numbers."""
        return max(self.primaries, self.transfer) < 256


def colours_of(item: Item) -> tuple[CodePoints | None, bytes | None]:
    """Return the code points and the ICC profile of a picture."""
    points, profile = None, None
    for box in item.named(b"colr"):
        content = box.content()
        if content[:4] == b"nclx" and len(content) >= 11:
            primaries, transfer, matrix, full = struct.unpack_from(">HHHB", content, 4)
            points = points or CodePoints(primaries, transfer, matrix, full >= 128)
        elif content[:4] in (b"prof", b"rICC"):
            profile = profile or content[4:]
    return points, profile


# The four corners of a stored picture after each orientation of EXIF: top left, top right, bottom left, bottom right.
_ORIENTATIONS = {"abcd": 1, "badc": 2, "dcba": 3, "cdab": 4, "acbd": 5, "cadb": 6, "dbca": 7, "bdac": 8}


def orientation_of(item: Item) -> int:
    """Return the orientation of EXIF that turns and mirrors a picture as its properties do."""
    a, b, c, d = "abcd"
    for box in item.properties:
        value = box.content()[:1]
        if box.kind == b"irot" and value:
            for _ in range(value[0] & 3):  # quarters, anticlockwise
                a, b, c, d = b, d, a, c
        elif box.kind == b"imir" and value:
            a, b, c, d = (b, a, d, c) if value[0] & 1 else (c, d, a, b)  # left and right, or top and bottom
    return _ORIENTATIONS[a + b + c + d]


def cut_of(item: Item, width: int, height: int) -> tuple[int, int, int, int] | None:
    """Return the left, top, right and bottom of the part that is shown (`clap`); None for all of it.

    Raises:
        BoxError: The part is described by fractions of nothing, or lies outside the picture.
    """
    for box in item.named(b"clap"):
        content = box.content()[:32]
        if len(content) < 32:
            raise BoxError("the part that is shown is not described")
        values = struct.unpack(">4I4i", content)
        if 0 in values[1::2]:
            raise BoxError("the part that is shown is described by fractions of nothing")
        wide, high, across, down = (n / d for n, d in zip(values[::2], values[1::2], strict=True))
        left, top = round((width - wide) / 2 + across), round((height - high) / 2 + down)
        right, bottom = left + round(wide), top + round(high)
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise BoxError("the part that is shown lies outside the picture")
        return left, top, right, bottom
    return None
