"""RGB spaces of three primaries and three curves: samples to sRGB and back, without clipping between the two.

Colours outside sRGB have values below 0 and above 1 (*extended* sRGB): the curve of sRGB goes on above 1, and is
mirrored below 0. Matrices and curves are read from a profile by this package, so an untrusted profile meets no library.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kt_batch.store.images import icc
from kt_batch.store.images.lcms import Floats
from kt_batch.store.images.spaces import SRGB_PRIMARIES, colorants

_EXPONENT = np.float32(2.4)
_ROOT = np.float32(1 / 2.4)
_INVERSE_PLACES = 2**18  # of an inverse curve: steps below half a level of 16 bits
_WORST_CONDITION = 1000.0  # of the matrix of the primaries; ProPhoto RGB has 8
_DIP = 1e-3  # where the two parts of a curve meet, whose parameters are rounded
_TABLES = frozenset(letters + digit for letters in (b"A2B", b"D2B") for digit in (b"0", b"1", b"2", b"3"))


class MatrixSpace:
    """A space of primaries and curves.

    profile: Its ICC profile. curves: Of red, green and blue, from samples to light, at 65,536 places in [0, 1].
    to_light_of_srgb: (3, 3), from its light to that of sRGB.
    """

    def __init__(
        self, profile: bytes, curves: list[NDArray[np.float64]], to_light_of_srgb: NDArray[np.float64]
    ) -> None:
        self.profile = profile
        self._forward = to_light_of_srgb.T.astype(np.float32)
        self._back = np.linalg.inv(to_light_of_srgb).T.astype(np.float32)
        light = np.linspace(0, 1, _INVERSE_PLACES) ** 2.4
        self._deep = [curve.astype(np.float32) for curve in curves]
        self._shallow = [curve[::257].copy() for curve in self._deep]
        self._inverse = [np.interp(light, curve, np.linspace(0, 1, len(curve))).astype(np.float32) for curve in curves]

    def to_srgb(self, samples: NDArray[Any]) -> Floats:
        """Convert (h, w, 3) uint8 or uint16 to extended sRGB."""
        tables = self._shallow if samples.dtype == np.uint8 else self._deep
        return _encoded(_looked_up(tables, samples) @ self._forward)

    def from_srgb(self, colours: Floats) -> Floats:
        """Convert (h, w, 3) extended sRGB to this space, clipped to [0, 1]."""
        light = np.clip(_light(colours) @ self._back, 0.0, 1.0)
        places = np.power(light, _ROOT, out=light)
        places *= np.float32(_INVERSE_PLACES - 1)
        places += np.float32(0.5)
        with np.errstate(invalid="ignore"):  # NaN of an edit becomes black
            return _looked_up(self._inverse, places.astype(np.int32))


@lru_cache(maxsize=8)
def matrix_space(profile: bytes) -> MatrixSpace | None:
    """Return the space of an RGB profile with primaries and rising curves alone; None for any other profile."""
    tags = icc.tags_of(profile)
    primaries = icc.colorants_of(tags)
    if icc.data_space(profile) != b"RGB " or profile[20:24] != b"XYZ " or primaries is None or _TABLES & set(tags):
        return None
    places = np.linspace(0, 1, 2**16)
    curves = [icc.curve(tags.get(name, b""), places) for name in (b"rTRC", b"gTRC", b"bTRC")]
    usable = [np.maximum.accumulate(curve) for curve in curves if curve is not None and _rises(curve)]
    to_light_of_srgb = np.asarray(np.linalg.solve(colorants(SRGB_PRIMARIES), primaries), np.float64)
    if len(usable) < 3 or not np.linalg.cond(to_light_of_srgb) < _WORST_CONDITION:
        return None
    return MatrixSpace(profile, usable, to_light_of_srgb)


def _rises(curve: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(curve).all() and (np.diff(curve) >= -_DIP).all() and curve[-1] > curve[0])


def _looked_up(tables: list[NDArray[np.float32]], places: NDArray[Any]) -> Floats:
    values = np.empty(places.shape, np.float32)
    for channel, table in enumerate(tables):
        values[..., channel] = table.take(places[..., channel], mode="clip")
    return values


def _encoded(light: Floats) -> Floats:
    """Apply the curve of sRGB, mirrored below 0."""
    size = np.abs(light)
    values = np.power(size, _ROOT)
    values *= np.float32(1.055)
    values -= np.float32(0.055)
    np.multiply(size, np.float32(12.92), out=values, where=size <= np.float32(0.0031308))
    return np.copysign(values, light, out=values)


def _light(values: Floats) -> Floats:
    """Undo `_encoded`."""
    size = np.abs(values)
    light = size + np.float32(0.055)
    light *= np.float32(1 / 1.055)
    np.power(light, _EXPONENT, out=light)
    np.multiply(size, np.float32(1 / 12.92), out=light, where=size <= np.float32(0.04045))
    return np.copysign(light, values, out=light)
