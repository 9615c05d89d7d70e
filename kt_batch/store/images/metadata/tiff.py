"""Metadata in TIFF and BigTIFF: tags for XMP, IPTC and ICC, the directories of EXIF and GPS, descriptive tags.

An output is finished by its encoder first. Then its first directory is written once more at the end of the file, with
the tags of the metadata, and the header points to it. So files of any size and any writer get all of it, by one way.
Sources: TIFF 6.0, ISO 16684-3, CIPA DC-008.
"""

from __future__ import annotations

import io
from typing import BinaryIO

from kt_batch.store.images.metadata import photoshop
from kt_batch.store.images.metadata.blocks import MAX_BLOCK, Blocks, bounded, sound_icc
from kt_batch.store.images.metadata.directories import (
    BYTE,
    LONG,
    MAX_ENTRIES,
    UNDEFINED,
    Entry,
    Layout,
    Value,
    content_of,
    layout_of,
    table_at,
)
from kt_batch.store.images.metadata.exif import ICC, IPTC, PHOTOSHOP, XMP
from kt_batch.store.images.metadata.rebuilt import Tags, block_of, in_order, placed, tags_of

_LARGEST_CLASSIC = 2**32
_PAD = 8  # a directory never stands in the first bytes of a file


def read(data: bytes) -> Blocks:
    """Return the metadata of a TIFF; its EXIF is made from its tags."""
    found = layout_of(data)
    table = table_at(data, *found) if found else None
    if table is None:
        return Blocks()
    entries: dict[int, Entry] = {}
    for entry in table.entries:
        entries.setdefault(entry.tag, entry)

    def block(tag: int) -> bytes | None:
        return content_of(data, entries[tag]) if tag in entries and entries[tag].size <= MAX_BLOCK else None

    iptc = photoshop.sound_iptc(block(IPTC) or b"") or photoshop.iptc_of(block(PHOTOSHOP) or b"")
    tags = tags_of(data, MAX_BLOCK)
    exif = block_of(tags) if tags else None
    return Blocks(bounded(exif), bounded(block(XMP)), bounded(iptc), sound_icc(block(ICC)))


def embed(data: bytes, blocks: Blocks) -> bytes:
    """Return a TIFF with metadata in its first directory."""
    if blocks == Blocks():
        return data
    file = io.BytesIO(data)
    embed_in_file(file, blocks)
    return file.getvalue()


def embed_in_file(file: BinaryIO, blocks: Blocks) -> None:
    """Add metadata to a TIFF that is open for reading and writing, and finished; its pixels are neither read nor moved.

    A file without room for it, near the 4 GiB that classic TIFF can address, stays as it is.
    """
    file.seek(0)
    found = layout_of(file.read(16))
    end = file.seek(0, io.SEEK_END)
    if found is None or blocks == Blocks():
        return
    layout, first = found
    file.seek(first)
    raw = bytes(_PAD) + file.read(layout.head + MAX_ENTRIES * layout.entry + layout.pointer)
    table = table_at(raw, layout, _PAD)
    if table is None:
        return
    tags = (tags_of(blocks.exif, MAX_BLOCK) if blocks.exif else None) or Tags(layout.order)
    entries = {entry.tag: _as_it_is(raw, layout, entry) for entry in table.entries} | _entries(blocks)
    start = end + end % 2
    added = bytes(end % 2) + placed(in_order(tags, layout.order), entries, layout, start, table.following)
    if layout.big or end + len(added) < _LARGEST_CLASSIC:
        file.seek(end)
        file.write(added)
        file.seek(8 if layout.big else 4)
        file.write(layout.place(start))


def _as_it_is(raw: bytes, layout: Layout, entry: Entry) -> Value:
    """Return the value of an entry that is written again: a value that lies elsewhere stays there."""
    end = entry.at + layout.entry
    return Value(entry.kind, entry.count, raw[end - layout.pointer : end])


def _entries(blocks: Blocks) -> dict[int, Value]:
    """Return the tags that hold a block as it is. IPTC counts as words of 4 bytes, which are never turned around."""
    entries = {}
    if blocks.xmp:
        entries[XMP] = Value(BYTE, len(blocks.xmp), blocks.xmp)
    if blocks.iptc:
        words = blocks.iptc + bytes(-len(blocks.iptc) % 4)
        entries[IPTC] = Value(LONG, len(words) // 4, words)
    if blocks.icc:
        entries[ICC] = Value(UNDEFINED, len(blocks.icc), blocks.icc)
    return entries
