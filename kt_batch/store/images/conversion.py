"""Convert the colours of an image to sRGB, and sRGB to the spaces of outputs."""

from __future__ import annotations

import numpy as np

from kt_batch.store.images.colour import Space
from kt_batch.store.images.hdr import to_standard_light
from kt_batch.store.images.icc import data_space
from kt_batch.store.images.lcms import Floats, convert
from kt_batch.store.images.spaces import P3_PRIMARIES, SRGB_CURVE, SRGB_PRIMARIES, profile_of

# The spaces of outputs, as the profiles that outputs carry.
OUTPUT_PROFILES = {
    "srgb": profile_of("sRGB", SRGB_PRIMARIES, SRGB_CURVE, 3),
    "p3": profile_of("Display P3", P3_PRIMARIES, SRGB_CURVE, 3),
}


def to_srgb(colours: Floats, space: Space) -> Floats:
    """Convert (h, w, 1 | 3 | 4) grey, RGB or CMYK ink in [0, 1] to (h, w, 3) sRGB."""
    if space.transfer:
        colours = to_standard_light(colours, space.transfer, space.weights)
    if space.profile:
        if colours.shape[2] == 1 and data_space(space.profile) != b"GRAY":
            colours = _as_rgb(colours)
        return convert(colours, space.profile)
    if colours.shape[2] == 4:
        return (1.0 - colours[..., :3]) * (1.0 - colours[..., 3:])
    return _as_rgb(colours)


def from_srgb(pixels: Floats, space: str) -> Floats:
    """Convert (h, w, 3) sRGB in [0, 1] to the space of an output."""
    return pixels if space == "srgb" else convert(pixels, OUTPUT_PROFILES["srgb"], OUTPUT_PROFILES[space])


def _as_rgb(grey_or_rgb: Floats) -> Floats:
    return np.broadcast_to(grey_or_rgb, (*grey_or_rgb.shape[:2], 3))
