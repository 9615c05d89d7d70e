"""Metadata written into AVIF: two more items, whose bytes stand behind all others.

The encoder writes the profile: it belongs to the properties of the picture. IPTC has no place.
"""

from __future__ import annotations

import struct

from kt_batch.errors import UsageError
from kt_batch.store.images.metadata import bmff
from kt_batch.store.images.metadata.blocks import Blocks
from kt_batch.store.images.metadata.bmff import Box, Places

_LARGEST_ITEM = 0xFFFF
_FULL = 4  # bytes of version and flags


def embed(data: bytes, blocks: Blocks) -> bytes:
    """Return an AVIF with EXIF and XMP.

    Raises:
        UsageError: The file is no AVIF of an encoder, has such items, or not the profile of `blocks`.
    """
    items = []
    if blocks.exif:
        items.append((b"Exif\0", bytes(4) + blocks.exif))
    if blocks.xmp:
        items.append((b"mime\0" + bmff.MIME_OF_XMP + b"\0", blocks.xmp))
    if not items:
        return data
    there = bmff.read(data)
    if there.exif or there.xmp or (blocks.icc and there.icc != blocks.icc):
        raise UsageError(
            "cannot write metadata into this AVIF: it has some, or another profile than its encoder was given"
        )
    meta = bmff.by_name(data, 0, len(data)).get(b"meta")
    parts = {box.name: box for box in bmff.boxes(data, meta.start + _FULL, meta.end)} if meta else {}
    if meta is None or not {b"pitm", b"iloc", b"iinf"} <= set(parts):
        raise UsageError("cannot write metadata into this file: it is no AVIF with a list of items")
    old = bmff.places(data, parts[b"iloc"], None)
    first = max(old) + 1
    if first + len(items) > _LARGEST_ITEM:
        raise UsageError(f"cannot write metadata into this AVIF: its items are numbered up to {first - 1}")
    # The places of items depend on the length of `meta`, and its length does not depend on them.
    length = len(_meta(data, meta, parts, old, items, 0)) - (meta.end - meta.start + 8)
    moved = {
        item: [(method, at + (length if method == 0 and at >= meta.end else 0), size) for method, at, size in extents]
        for item, extents in old.items()
    }
    end = len(data) + length + 8  # behind the header of the last box
    new = _meta(data, meta, parts, moved, items, end)
    content = b"".join(block for _, block in items)
    return data[: meta.start - 8] + new + data[meta.end :] + _box(b"mdat", content)


def _meta(
    data: bytes, meta: Box, parts: dict[bytes, Box], old: Places, items: list[tuple[bytes, bytes]], end: int
) -> bytes:
    """Return the box `meta` with more items, whose bytes stand from `end` on one behind the other."""
    places = dict(old)
    first = max(old) + 1
    for number, (_, block) in enumerate(items, first):
        places[number] = [(0, end, len(block))]
        end += len(block)
    made = {b"iloc": _iloc(places), b"iinf": _iinf(data, parts[b"iinf"], [kind for kind, _ in items], first)}
    references = _references(data, parts, range(first, first + len(items)))
    content = b"".join(
        made.get(box.name) or _box(box.name, data[box.start : box.end])
        for box in bmff.boxes(data, meta.start + _FULL, meta.end)
        if box.name != b"iref"
    )
    return _box(b"meta", data[meta.start : meta.start + _FULL] + content + references)


def _iloc(places: Places) -> bytes:
    """Return the list of places: numbers of 4 bytes, each with the way its item is stored."""
    entries = [
        struct.pack(">HHHH", item, extents[0][0] if extents else 0, 0, len(extents))
        + b"".join(struct.pack(">II", at, size) for _, at, size in extents)
        for item, extents in places.items()
    ]
    return _box(b"iloc", b"\1\0\0\0\x44\0" + struct.pack(">H", len(entries)) + b"".join(entries))


def _iinf(data: bytes, iinf: Box, kinds: list[bytes], first: int) -> bytes:
    """Return the list of items with more of them."""
    entries = b"".join(
        _box(b"infe", b"\2\0\0\0" + struct.pack(">HH", number, 0) + kind[:4] + b"\0" + kind[5:])
        for number, kind in enumerate(kinds, first)
    )
    size = 4 if data[iinf.start] else 2
    start = iinf.start + _FULL
    count = int.from_bytes(data[start : start + size], "big") + len(kinds)
    head = data[iinf.start : start] + count.to_bytes(size, "big")
    return _box(b"iinf", head + data[start + size : iinf.end] + entries)


def _references(data: bytes, parts: dict[bytes, Box], items: range) -> bytes:
    """Return the box of references, in which each item describes the main picture."""
    pitm, iref = parts[b"pitm"], parts.get(b"iref")
    main = int.from_bytes(data[pitm.start + _FULL : pitm.end], "big")
    old = data[iref.start : iref.end] if iref else bytes(_FULL)
    code = ">IHI" if old[0] else ">HHH"
    return _box(b"iref", old + b"".join(_box(b"cdsc", struct.pack(code, item, 1, main)) for item in items))


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, name) + content
