"""Read an image at its full size and depth, band by band: as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images.conversion import OUTPUT_PROFILES, to_srgb
from kt_batch.store.images.file_bytes import Data
from kt_batch.store.images.files import colours_of, oriented
from kt_batch.store.images.own_space import has_profile, profile_of
from kt_batch.store.images.pillow_rows import PillowRows
from kt_batch.store.images.rasters import read_raster, rejecting
from kt_batch.store.images.samples import Raster, Samples

BAND_BYTES = 2**24  # of the samples of a band, where rows can be read one by one
DECODED_BYTES = 2**20  # the same, where the pixels are in memory: the next band is packed while this one is used
_EVERY_SIZE = 2**31  # a JPEG is then decoded whole


@dataclass(frozen=True)
class Original:
    """What bands of rows are: `(rows, width, channels [+ alpha])`, uint8 or uint16, the image's first row first.

    Channels are grey, RGB or ink (CMYK); white, and the most ink, is the largest value of the dtype. Alpha is straight.

    height, width: Of the oriented image. channels: 1, 3 or 4. deep: Whether samples have 16 bits. profile: ICC profile
    of the channels; empty for ink without one. deep_file: Whether the file has more than 8 bits; samples that were
    converted to sRGB always have 16. is_srgb: Whether the samples are sRGB, whatever their profile is called.
    """

    height: int
    width: int
    channels: int
    alpha: bool
    deep: bool
    profile: bytes
    deep_file: bool = False
    is_srgb: bool = False

    @property
    def samples(self) -> int:
        """Return the samples of a pixel."""
        return self.channels + self.alpha

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype of the samples."""
        return np.dtype(np.uint16 if self.deep else np.uint8)


Bands = Iterator[NDArray[Any]]


def read_original(data: Data, *, ink: bool = False, grey: bool = True) -> tuple[Original, Bands]:
    """Read an image at its full size.

    Samples of 8 and 16 bits come as they are. Others are scaled: 10 and 12 bits to 16, as well as float, whose values
    in [0, 1] count. Rows are decoded as the bands are taken, where the file allows that and stands upright.

    Args:
        data: The bytes of a file.
        ink: Whether CMYK is wanted as it is; else it becomes sRGB.
        grey: Whether grey is wanted as it is; else it becomes sRGB.

    Returns:
        The description, and the bands from the top to the bottom. Taking a band raises RejectError, too.

    Raises:
        RejectError: The image cannot be used.
    """
    raster = read_raster(data, _EVERY_SIZE)
    if raster.orientation != 1:
        with rejecting(data):
            raster = _upright(raster)
    refused = {1: not grey, 3: False, 4: not ink}[raster.channels]
    as_srgb = refused or not has_profile(raster)
    height, width, _ = raster.samples.shape
    original = Original(
        height=height,
        width=width,
        channels=3 if as_srgb else raster.channels,
        alpha=raster.alpha and raster.channels < 4,
        deep=as_srgb or raster.samples.dtype != np.uint8,
        profile=OUTPUT_PROFILES["srgb"] if as_srgb else profile_of(raster),
        deep_file=raster.samples.dtype != np.uint8,
        is_srgb=as_srgb or (raster.channels == 3 and raster.space.profile is None),
    )
    convert = _srgb_samples if as_srgb else _own_samples
    return original, _bands(data, raster, convert)


def _bands(data: Data, raster: Raster, convert: Callable[[Samples, Raster], NDArray[Any]]) -> Bands:
    height, width, samples = raster.samples.shape
    most = DECODED_BYTES if isinstance(raster.samples, PillowRows) else BAND_BYTES
    rows = max(1, most // max(1, width * samples * raster.samples.dtype.itemsize))
    if raster.space.transfer is not None:
        rows = height  # the brightest sample of the whole image decides
    for top in range(0, height, rows):
        with rejecting(data):
            band = convert(raster.samples[top : top + rows], raster)
        yield band


def _own_samples(band: Samples, raster: Raster) -> NDArray[Any]:
    """Return samples as they are where they have 8 or 16 bits; scaled to 16 bits otherwise."""
    band = band[..., : raster.channels + (raster.alpha and raster.channels < 4)]
    largest = 255 if band.dtype == np.uint8 else 65535
    if raster.white != largest or band.dtype not in (np.uint8, np.uint16):
        band = _scaled(band, raster.white)
        largest = 65535
    if raster.inverted:
        band = np.concatenate([largest - band[..., : raster.channels], band[..., raster.channels :]], axis=2)
    if raster.alpha and raster.premultiplied:
        band = _straight(band, raster.channels)
    return band


def _scaled(band: Samples, white: float) -> NDArray[np.uint16]:
    values = band.astype(np.float64)
    if not np.isfinite(values).all():
        raise RejectError(Reason.NON_FINITE, "the image holds NaN or infinity; allowed are finite values")
    return (np.clip(values / white, 0.0, 1.0) * 65535.0 + 0.5).astype(np.uint16)


def _straight(band: Samples, channels: int) -> Samples:
    """Divide colours by alpha."""
    largest = np.iinfo(band.dtype).max
    alpha = band[..., channels:].astype(np.float64)
    colours = np.minimum(band[..., :channels] * float(largest) / np.maximum(alpha, 1) + 0.5, largest)
    return np.concatenate([colours.astype(band.dtype), band[..., channels:]], axis=2)


def _srgb_samples(band: Samples, raster: Raster) -> NDArray[np.uint16]:
    opaque = replace(raster, alpha=False)
    colours = colours_of(band[..., : raster.channels], opaque)
    alpha = np.empty((*band.shape[:2], 0), np.uint16)
    if raster.alpha and raster.channels < 4:
        alpha = _scaled(band[..., raster.channels : raster.channels + 1], raster.white)
        if raster.premultiplied:
            colours = np.minimum(colours / np.maximum(alpha / np.float32(65535.0), 1e-6), 1.0)
    pixels = (to_srgb(colours, raster.space) * 65535.0 + 0.5).astype(np.uint16)
    return np.concatenate([pixels, alpha], axis=2)


def _upright(raster: Raster) -> Raster:
    samples = oriented(raster.samples[0 : raster.samples.shape[0]], raster.orientation)
    return replace(raster, samples=samples, orientation=1)
