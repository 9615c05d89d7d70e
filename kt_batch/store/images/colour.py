"""Decide the colour space of an image from what its file says.

The first statement that can be used decides. The order is that of the PNG specification (third edition), continued for
other formats: the chunk `cICP`, an ICC profile, the chunk `sRGB`, the chunks `gAMA` and `cHRM`, the colour space in
EXIF. Without any of them an image is sRGB. An ICC profile is judged by what it does to colours, never by its name.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images import icc, spaces
from kt_batch.store.images.hdr import Transfer, display_light, scene_light
from kt_batch.store.images.lcms import Floats, ProfileError, convert
from kt_batch.store.images.spaces import Curve, Primaries

# A space is sRGB when no probed colour differs by more than this. Gamma 2.2 with the primaries of sRGB differs by 8.6.
SRGB_TOLERANCE = 2 / 255

_CACHED_BYTES = 2**16  # larger profiles are not remembered
_PNG_UNIT = 100000.0  # of the numbers in gAMA and cHRM
_GAMMA_OF_SRGB, _GAMMA_TOLERANCE = 0.45455, 0.05  # libpng takes 5 % for the same gamma
_NEAR = 0.005  # between chromaticities of equal primaries: writers round them
_DATA_SPACES = {1: b"GRAY", 3: b"RGB "}
_SRGB_INTENTS = frozenset(range(4))


@dataclass(frozen=True)
class Space:
    """The colour space of an image.

    source: The statement that decided. profile: ICC profile of the colours; None for sRGB, and for ink without a
    profile. transfer: Of high dynamic range; the profile is then that of the light. weights: Luminance of red, green
    and blue, for such a transfer. narrow: Whether black and white are 16 and 235 of 255, as in video.
    """

    source: str = "nothing"
    profile: bytes | None = None
    transfer: Transfer | None = None
    weights: tuple[float, ...] = ()
    narrow: bool = False

    @property
    def white(self) -> float:
        """Return the value in [0, 1] of the white that shines through transparent pixels."""
        return self.transfer.white if self.transfer else 1.0


SRGB = Space()


def space_of(
    channels: int, profile: bytes | None, chunks: Mapping[bytes, bytes], says_adobe: Callable[[], bool]
) -> Space:
    """Decide the colour space of an image.

    Args:
        channels: 1 grey, 3 RGB, 4 CMYK.
        profile: The embedded ICC profile.
        chunks: The chunks of a PNG before its pixels; empty for other formats.
        says_adobe: Whether EXIF says Adobe RGB; called when nothing else says anything.

    Raises:
        RejectError: The colours are of a kind that is not converted.
    """
    space = None
    if channels < 4:
        space = _from_cicp(chunks.get(b"cICP"), channels)
    if space is None and profile:
        space = _from_profile(profile, channels)
    if space is not None or channels == 4:
        return space or SRGB
    if len(intent := chunks.get(b"sRGB", b"")) == 1 and intent[0] in _SRGB_INTENTS:
        return Space("the chunk sRGB")
    if space := _from_gamma(chunks, channels):
        return space
    if says_adobe():
        return _made("the colour space of EXIF", spaces.ADOBE_PRIMARIES, spaces.ADOBE_CURVE, channels)
    return SRGB


def _from_cicp(chunk: bytes | None, channels: int) -> Space | None:
    """Return the space that code points name; None where they are unspecified or not allowed."""
    if chunk is None or len(chunk) != 4:
        return None
    primaries, transfer, matrix, full = chunk
    source = "the chunk cICP"
    if transfer in spaces.NOT_CONVERTED or primaries == spaces.XYZ_PRIMARIES:
        raise RejectError(
            Reason.UNSUPPORTED,
            f"{source} has primaries {primaries} and transfer function {transfer} of ITU-T H.273; one is not converted",
        )
    if matrix != 0 or full > 1 or primaries not in spaces.PRIMARIES_BY_CODE:
        if transfer in (spaces.PQ, spaces.HLG):  # read as anything else, the picture would be wrong
            raise RejectError(
                Reason.UNSUPPORTED,
                f"{source} has high dynamic range by transfer function {transfer}, with primaries {primaries}, matrix "
                f"{matrix} and range {full}; allowed are primaries {sorted(spaces.PRIMARIES_BY_CODE)}, matrix 0 and "
                "range 0 or 1",
            )
        return None
    if transfer in (spaces.PQ, spaces.HLG):
        of_light = spaces.colorants(spaces.PRIMARIES_BY_CODE[primaries])
        space = _high_range(source, transfer, of_light, channels)
    elif transfer in spaces.CURVES_BY_CODE:
        space = _made(source, spaces.PRIMARIES_BY_CODE[primaries], spaces.CURVES_BY_CODE[transfer], channels)
    else:
        return None
    return replace(space, narrow=full == 0)


def _from_profile(profile: bytes, channels: int) -> Space | None:
    """Return the space of an ICC profile; None for one that is broken or for other channels."""
    judge = _judged if len(profile) <= _CACHED_BYTES else _judged.__wrapped__
    return judge(profile, channels)


@lru_cache(maxsize=16)
def _judged(profile: bytes, channels: int) -> Space | None:
    source = "the ICC profile"
    # Grey in an RGB profile is RGB with three equal channels.
    channels = 3 if channels == 1 and icc.data_space(profile) == b"RGB " else channels
    if channels < 4 and (space := _high_range_of(profile, source, channels)):
        return space
    deviation = _deviation(profile, channels)
    if deviation is None:
        return None
    return Space(source, None if deviation <= SRGB_TOLERANCE else profile)


def _high_range_of(profile: bytes, source: str, channels: int) -> Space | None:
    """Return the space of a profile that declares PQ or HLG, or has its curve; None for others."""
    tags = icc.tags_of(profile)
    points, colorants = icc.coding_points(tags), icc.colorants_of(tags)
    transfer = points[1] if points else None
    if transfer not in (spaces.PQ, spaces.HLG) and b"A2B0" not in tags:  # tables map to a standard picture themselves
        transfer = _curve_of_high_range(tags.get(b"gTRC" if channels == 3 else b"kTRC", b""))
    if points and points[0] in spaces.PRIMARIES_BY_CODE:
        colorants = spaces.colorants(spaces.PRIMARIES_BY_CODE[points[0]])
    if icc.data_space(profile) != _DATA_SPACES[channels] or transfer not in (spaces.PQ, spaces.HLG):
        return None
    if channels == 3 and colorants is None:
        return None
    space = _high_range(source, transfer, colorants, channels)
    return None if space.profile is None or _deviation(space.profile, channels) is None else space


def _curve_of_high_range(tag: bytes) -> int | None:
    """Tell whether a curve that is a table is PQ or HLG, as light of the display or of the scene."""
    places = np.array([0.4, 0.5, 0.6, 0.75, 0.9], np.float32)
    values = icc.sampled_curve(tag, places)
    if values is None:
        return None
    shapes = {
        spaces.PQ: (display_light(places) / 10000,),
        spaces.HLG: (scene_light(places), scene_light(places) ** 1.2),
    }
    for transfer, curves in shapes.items():
        if any(np.allclose(values, curve, rtol=0.05, atol=2e-4) for curve in curves):
            return transfer
    return None


def _from_gamma(chunks: Mapping[bytes, bytes], channels: int) -> Space | None:
    """Return the space of the chunks gAMA and cHRM; one that is absent or impossible is taken from sRGB."""
    gamma, primaries = _gamma(chunks.get(b"gAMA", b"")), _primaries(chunks.get(b"cHRM", b""))
    if gamma is None and primaries is None:
        return None
    of_srgb = primaries is None or np.allclose(primaries, spaces.SRGB_PRIMARIES, rtol=0, atol=_NEAR)
    # 1 / 2.2 with the primaries of sRGB is how gAMA says sRGB (PNG, third edition, 11.3.2.2 and 11.3.2.5).
    if gamma is None or (of_srgb and abs(gamma / _GAMMA_OF_SRGB - 1) <= _GAMMA_TOLERANCE):
        curve = spaces.SRGB_CURVE
    else:
        curve = (1 / gamma,)
    if of_srgb or primaries is None:
        primaries = spaces.SRGB_PRIMARIES
    try:
        return _made("the chunks gAMA and cHRM", primaries, curve, channels)
    except ValueError:  # a profile cannot hold their numbers
        return None


def _gamma(chunk: bytes) -> float | None:
    value = struct.unpack(">I", chunk)[0] / _PNG_UNIT if len(chunk) == 4 else 0.0
    return value if 0.1 <= value <= 10 else None


def _primaries(chunk: bytes) -> Primaries | None:
    if len(chunk) != 32:
        return None
    white_x, white_y, *others = (value / _PNG_UNIT for value in struct.unpack(">8I", chunk))
    primaries = (*others, white_x, white_y)
    try:
        spaces.colorants(primaries)
    except ValueError:
        return None
    return primaries


def _made(source: str, primaries: Primaries, curve: Curve, channels: int) -> Space:
    profile = spaces.profile_of(source, primaries, curve, channels)
    judged = _judged(profile, channels)
    return replace(judged, source=source) if judged else Space(source)


def _high_range(source: str, transfer: int, colorants: NDArray[np.float64] | None, channels: int) -> Space:
    kind = Transfer.PQ if transfer == spaces.PQ else Transfer.HLG
    if channels == 1 or colorants is None:
        return Space(source, icc.grey_profile(source, spaces.LINEAR), kind)
    profile = icc.matrix_profile(source, colorants, spaces.LINEAR)
    return Space(source, profile, kind, tuple(float(weight) for weight in colorants[1]))


def _deviation(profile: bytes, channels: int) -> float | None:
    """Return by how much a profile changes colours that are converted to sRGB; None for one that cannot be used.

    The colorimetric tables decide: the perceptual ones of sRGB v4 (preference) are no sRGB.
    """
    probes = _probes(channels)
    try:
        converted = convert(probes, profile, colorimetric=True)
    except ProfileError:
        return None
    return float(np.abs(converted - probes).max()) if channels < 4 else math.inf


@lru_cache(maxsize=3)
def _probes(channels: int) -> Floats:
    """Return a ramp of greys, and for RGB a lattice of 7^3 colours, as pixels (1, n, channels); no ink for CMYK."""
    if channels == 4:
        return np.zeros((1, 1, 4), np.float32)
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[:, None].repeat(channels, axis=1)
    if channels == 1:
        return ramp[None]
    lattice = np.stack(np.meshgrid(*[np.linspace(0, 1, 7, dtype=np.float32)] * 3), axis=-1).reshape(-1, 3)
    return np.concatenate([ramp, lattice])[None]
