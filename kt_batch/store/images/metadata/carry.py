"""Which metadata of an input an output gets, by the option `--metadata`."""

from __future__ import annotations

from typing import Literal, TypeAlias

from kt_batch.store.images.metadata import exif, xmp, xmp_edit
from kt_batch.store.images.metadata.blocks import Blocks
from kt_batch.store.images.metadata.xmp_edit import Made

Policy: TypeAlias = Literal["keep", "strip", "keep-no-gps"]
Space: TypeAlias = Literal["input", "srgb", "other"]

_COLOUR_SPACES = {"input": None, "srgb": 1, "other": 0xFFFF}  # the values of ColorSpace in EXIF


def carried(blocks: Blocks, policy: Policy, width: int, height: int, made: Made, space: Space = "srgb") -> Blocks:
    """Return the metadata of an output.

    Args:
        blocks: Of the input.
        policy: `keep`; `keep-no-gps` without the place; `strip` keeps nothing of the input but its profile.
        width: Of the output, oriented.
        height: Of the output, oriented.
        made: What was done; it is written under every policy.
        space: The colour space of the output: `input` keeps the profile of the input, and what EXIF and XMP say about
            colour. Otherwise a profile is the business of who encodes.
    """
    icc = blocks.icc if space == "input" else None
    if policy == "strip":
        return Blocks(xmp=_packet(xmp.empty(), made), icc=icc)
    gps = policy == "keep"
    packet = (xmp.parsed(blocks.xmp) if blocks.xmp else None) or xmp.empty()
    xmp_edit.corrected(packet, width, height, stays=space == "input", gps=gps)
    block = None
    if blocks.exif is not None:
        corrections = exif.Corrections(width, height, _COLOUR_SPACES[space])
        block = exif.corrected(blocks.exif, corrections, gps)
    return Blocks(block, _packet(packet, made), blocks.iptc, icc)


def _packet(packet: xmp.Packet, made: Made) -> bytes:
    xmp_edit.add_what_was_done(packet, made)
    return xmp.written(packet)
