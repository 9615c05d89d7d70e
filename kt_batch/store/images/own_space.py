"""The colour space of an image's own samples, as far as an ICC profile can say it."""

from __future__ import annotations

from dataclasses import dataclass

from kt_batch.store.images.conversion import GREY_PROFILE, OUTPUT_PROFILES
from kt_batch.store.images.icc import data_space
from kt_batch.store.images.samples import Raster


@dataclass(frozen=True)
class OwnSpace:
    """An RGB space that an output can be written in.

    profile: Its ICC profile. is_srgb: Whether it is sRGB, whatever the profile is called.
    """

    profile: bytes
    is_srgb: bool


def own_space(raster: Raster) -> OwnSpace | None:
    """Return the space of an image; None for grey, ink, high dynamic range and the range of video."""
    if raster.channels != 3 or not has_profile(raster):
        return None
    return OwnSpace(profile_of(raster), raster.space.profile is None)


def has_profile(raster: Raster) -> bool:
    """Tell whether an ICC profile can say what the samples are; it can say nothing of high range and video range."""
    space = raster.space
    kind = data_space(space.embedded or space.profile or b"")
    fits = raster.channels == 4 or not kind or kind == (b"GRAY" if raster.channels == 1 else b"RGB ")
    return space.transfer is None and not space.narrow and fits


def profile_of(raster: Raster) -> bytes:
    """Return the profile that tells what the samples are: the embedded one, one made of other statements, or sRGB."""
    space = raster.space
    if space.embedded or space.profile:
        return space.embedded or space.profile or b""
    if raster.channels == 4:
        return b""
    return OUTPUT_PROFILES["srgb"] if raster.channels == 3 else GREY_PROFILE
