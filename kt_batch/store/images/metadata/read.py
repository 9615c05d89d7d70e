"""Metadata of any picture, by the content of its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kt_batch.store.images.headers import PNG, TIFF
from kt_batch.store.images.metadata import bmff, exif, jpeg, photoshop, png, tiff, webp
from kt_batch.store.images.metadata.blocks import Blocks, bounded


def blocks_of(data: bytes) -> Blocks:
    """Return the metadata of an image file.

    Damaged metadata is dropped. No error is raised, whatever the bytes are: all of them come from strangers, so sizes,
    numbers and depths are bounded.
    """
    reader = _reader(data)
    blocks = reader(data) if reader else Blocks()
    if blocks.exif is None:
        return blocks
    # Some writers put other blocks into EXIF. They do not stay there, for they would be carried over unchanged.
    return replace(
        blocks,
        xmp=blocks.xmp or bounded(exif.nested(blocks.exif, exif.XMP)),
        iptc=blocks.iptc or photoshop.sound_iptc(bounded(exif.nested(blocks.exif, exif.IPTC)) or b""),
    )


def _reader(data: bytes) -> Callable[[bytes], Blocks] | None:
    if data[:3] == b"\xff\xd8\xff":
        return jpeg.read
    if data[: len(PNG)] == PNG:
        return png.read
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return webp.read
    if data[:4] in TIFF:
        return tiff.read
    return bmff.read if bmff.is_boxes(data) else None
