"""EXIF as values instead of bytes: a block made from the tags of a TIFF file, and tags for one made from a block.

Offsets move here. Most maker notes hold offsets that count from the start of EXIF and would then lead to other bytes,
so only those are kept that count from their own start.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from kt_batch.store.images.metadata.directories import (
    Layout,
    Value,
    layout_of,
    narrowed,
    pointer,
    table_at,
    turned,
    values_of,
    written,
)
from kt_batch.store.images.metadata.exif import EXIF_IFD, GPS_IFD, INTEROP_IFD

# Tags of the first directory that describe the picture, not its pixels in this file: texts, orientation, resolution,
# software, date, artist, rating, copyright, PrintIM, the texts of Windows, and the siting of colour that EXIF requires.
_IMAGE_DESCRIPTION = 0x010E
DESCRIPTIVE = frozenset(
    {
        0x0213,
        0x010D,
        _IMAGE_DESCRIPTION,
        0x010F,
        0x0110,
        0x0112,
        0x011A,
        0x011B,
        0x011D,
        0x0128,
        0x0131,
        0x0132,
        0x013B,
        0x013C,
    }
    | {0x4746, 0x4749, 0x8298, 0xC4A5, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F}
)
# Tags of the exposure, which some cameras write into the first directory.
OF_EXPOSURE = frozenset({0x829A, 0x829D, *range(0x8822, 0x8834), *range(0x9000, 0x9300), *range(0xA000, 0xA501)})
_MAKER_NOTE = 0x927C
# How the notes of Apple, Fujifilm, Nikon (since 1999), Olympus, OM System and Pentax (since 2009) begin.
_OF_THEIR_OWN = (b"Apple iOS\0", b"FUJIFILM", b"Nikon\0\2", b"OLYMPUS\0", b"OM SYSTEM\0", b"PENTAX \0")
_SMALL = 4096  # bytes of a value that is kept in a block that was too large


@dataclass(frozen=True)
class Tags:
    """The values of EXIF in one byte order: of the image, its exposure, its place, and interoperability."""

    order: str
    image: dict[int, Value] = field(default_factory=dict)
    exif: dict[int, Value] = field(default_factory=dict)
    gps: dict[int, Value] = field(default_factory=dict)
    interop: dict[int, Value] = field(default_factory=dict)


def tags_of(data: bytes, limit: int, all_of_image: bool = False) -> Tags | None:
    """Return the EXIF of a TIFF structure, a block or a file; None without any.

    Args:
        data: The structure.
        limit: The most bytes of all values.
        all_of_image: Whether all tags of the image are wanted, instead of the descriptive ones.
    """
    found = layout_of(data)
    main = table_at(data, *found) if found else None
    if found is None or main is None:
        return None
    layout = found[0]

    def child(tag: int, values: dict[int, Value]) -> dict[int, Value]:
        value = values.pop(tag, None)
        if value is None:
            return {}
        place = int.from_bytes(value.content, "little" if layout.order == "<" else "big")
        table = table_at(data, layout, place)
        return _narrow(values_of(data, table, limit // 4), layout.order) if table else {}

    values = values_of(data, main, limit // 4)
    exif = child(EXIF_IFD, values)
    # A camera may link the two others from the wrong directory.
    gps = child(GPS_IFD, exif) | child(GPS_IFD, values)
    interop = child(INTEROP_IFD, values) | child(INTEROP_IFD, exif)
    kept = DESCRIPTIVE | OF_EXPOSURE
    image = {tag: value for tag, value in _narrow(values, layout.order).items() if tag in kept or all_of_image}
    for part in (image, exif):
        if _MAKER_NOTE in part and not part[_MAKER_NOTE].content.startswith(_OF_THEIR_OWN):
            del part[_MAKER_NOTE]
    if _IMAGE_DESCRIPTION in image and _is_of_software(image[_IMAGE_DESCRIPTION].content):
        del image[_IMAGE_DESCRIPTION]
    return Tags(layout.order, image, exif, gps, interop)


def block_of(tags: Tags) -> bytes | None:
    """Return tags as a block of EXIF; None where there are none."""
    if not (tags.image or tags.exif or tags.gps):
        return None
    layout = Layout(tags.order)
    head = (b"II*\0" if tags.order == "<" else b"MM\0*") + layout.place(8)
    return head + placed(tags, {}, layout, 8)


def placed(tags: Tags, others: dict[int, Value], layout: Layout, at: int, following: int = 0) -> bytes:
    """Return the directories of tags that stand at `at`, the first one first; `others` are more entries of it."""
    first = others | tags.image
    children = {EXIF_IFD: tags.exif, GPS_IFD: tags.gps}
    if tags.interop:
        children[EXIF_IFD] = tags.exif | {INTEROP_IFD: pointer(0, layout)}
    used = {tag: values for tag, values in children.items() if values}
    place = at + len(written(first | dict.fromkeys(used, pointer(0, layout)), layout, at))
    rest = b""
    for tag, values in used.items():
        child = written(values, layout, place)
        if tag == EXIF_IFD and tags.interop:
            linked = values | {INTEROP_IFD: pointer(place + len(child), layout)}
            child = written(linked, layout, place) + written(tags.interop, layout, place + len(child))
        first = first | {tag: pointer(place, layout)}
        rest += child
        place += len(child)
    return written(first, layout, at, following) + rest


def in_order(tags: Tags, order: str) -> Tags:
    """Return the same tags in a byte order."""
    if tags.order == order:
        return tags
    image, exif, gps, interop = (
        {tag: turned(value) for tag, value in part.items()} for part in (tags.image, tags.exif, tags.gps, tags.interop)
    )
    return Tags(order, image, exif, gps, interop)


def shortened(block: bytes, limit: int) -> bytes | None:
    """Return a block of `limit` bytes at most: without maker notes, then without any long value; None if that fails."""
    if len(block) <= limit:
        return block
    tags = tags_of(block, len(block) * 4, all_of_image=True)
    if tags is None:
        return None
    tags.exif.pop(_MAKER_NOTE, None)
    small = block_of(tags)
    if small is not None and len(small) > limit:
        image, exif, gps, interop = (
            {tag: value for tag, value in part.items() if len(value.content) <= _SMALL}
            for part in (tags.image, tags.exif, tags.gps, tags.interop)
        )
        small = block_of(Tags(tags.order, image, exif, gps, interop))
    return small if small is not None and len(small) <= limit else None


def _narrow(values: dict[int, Value], order: str) -> dict[int, Value]:
    narrow = {tag: narrowed(value, order) for tag, value in values.items()}
    return {tag: value for tag, value in narrow.items() if value is not None}


def _is_of_software(description: bytes) -> bool:
    """Tell whether a description describes the arrays of a file to software, not the picture to people."""
    text = description.split(b"\0")[0].strip()
    if text.startswith((b"ImageJ=", b"SCANIMAGE")) or b"<OME " in text[:4096]:
        return True
    try:
        return text.startswith(b"{") and "shape" in json.loads(text)
    except (ValueError, RecursionError):
        return False
