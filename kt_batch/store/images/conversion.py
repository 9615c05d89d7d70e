"""Convert the colours of an image to sRGB, and sRGB to the spaces of outputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images.colour import Space
from kt_batch.store.images.hdr import to_standard_light
from kt_batch.store.images.icc import data_space
from kt_batch.store.images.lcms import Floats, ProfileError, convert
from kt_batch.store.images.spaces import P3_PRIMARIES, SRGB_CURVE, SRGB_PRIMARIES, profile_of

# The spaces of outputs, as the profiles that outputs carry.
OUTPUT_PROFILES = {
    "srgb": profile_of("sRGB", SRGB_PRIMARIES, SRGB_CURVE, 3),
    "p3": profile_of("Display P3", P3_PRIMARIES, SRGB_CURVE, 3),
}
GREY_PROFILE = profile_of("grey, sRGB curve", SRGB_PRIMARIES, SRGB_CURVE, 1)


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


def converted(samples: bytes, profile: bytes, to_srgb: bool) -> NDArray[np.uint16]:
    """Convert 16-bit RGB samples from a profile to sRGB, or from sRGB to the profile; return them as (n, 3).

    Raises:
        RejectError: The profile does not convert in this direction.
    """
    colours = np.frombuffer(samples, np.uint16).reshape(1, -1, 3).astype(np.float32) / np.float32(65535.0)
    srgb = OUTPUT_PROFILES["srgb"]
    try:
        result = convert(colours, profile) if to_srgb else convert(colours, srgb, profile)
    except ProfileError as error:
        raise RejectError(Reason.UNSUPPORTED, f"its colour profile does not convert: {error}") from error
    deep: NDArray[np.uint16] = (result[0] * 65535.0 + 0.5).astype(np.uint16)
    return deep


def _as_rgb(grey_or_rgb: Floats) -> Floats:
    return np.broadcast_to(grey_or_rgb, (*grey_or_rgb.shape[:2], 3))
