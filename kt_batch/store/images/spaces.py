"""RGB spaces as numbers: primaries, transfer curves, and the code points of ITU-T H.273 that name them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kt_batch.store.images.icc import D50, grey_profile, matrix_profile

Primaries: TypeAlias = tuple[float, float, float, float, float, float, float, float]  # x, y of red, green, blue, white
Curve: TypeAlias = tuple[float, ...]  # the parameters of `icc.matrix_profile`

SRGB_PRIMARIES: Primaries = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)
P3_PRIMARIES: Primaries = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.3290)
ADOBE_PRIMARIES: Primaries = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, 0.3127, 0.3290)

SRGB_CURVE: Curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
ADOBE_CURVE: Curve = (563 / 256,)
LINEAR: Curve = (1.0,)

_A = 1.09929682680944  # of ITU-R BT.709 and BT.2020, with all digits
_BT709_CURVE: Curve = (1 / 0.45, 1 / _A, (_A - 1) / _A, 1 / 4.5, 4.5 * 0.018053968510807)
_SMPTE240_CURVE: Curve = (1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4.0, 4 * 0.0228)

_D65, _C, _DCI = (0.3127, 0.3290), (0.310, 0.316), (0.314, 0.351)
_SMPTE170 = (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65)

# ITU-T H.273, tables 2 and 3. 2 means unspecified; numbers that are absent are reserved or not converted.
PRIMARIES_BY_CODE: dict[int, Primaries] = {
    1: SRGB_PRIMARIES,
    4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, *_C),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, *_D65),
    6: _SMPTE170,
    7: _SMPTE170,
    8: (0.681, 0.319, 0.243, 0.692, 0.145, 0.049, *_C),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *_D65),
    11: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, *_DCI),
    12: P3_PRIMARIES,
    22: (0.630, 0.340, 0.295, 0.605, 0.155, 0.077, *_D65),
}
CURVES_BY_CODE: dict[int, Curve] = {
    **dict.fromkeys((1, 6, 11, 12, 14, 15), _BT709_CURVE),
    4: (2.2,),
    5: (2.8,),
    7: _SMPTE240_CURVE,
    8: LINEAR,
    13: SRGB_CURVE,
}
PQ, HLG = 16, 18
NOT_CONVERTED = frozenset({9, 10, 17})  # two logarithmic curves, and that of digital cinema
XYZ_PRIMARIES = 10  # of digital cinema; not converted

_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def colorants(primaries: Sequence[float]) -> NDArray[np.float64]:
    """Return the XYZ of red, green and blue as columns, adapted from their white to D50 by Bradford's matrix.

    Raises:
        ValueError: The primaries span no space.
    """
    points = np.asarray(primaries, np.float64).reshape(4, 2)
    if not np.isfinite(points).all() or (points[3, 1] <= 0) or (points[:, 1] < 0).any():
        raise ValueError(f"{list(primaries)} are no primaries")
    # XYZ up to a factor, which the white decides; a primary may lie on y = 0.
    rays = np.stack([points[:, 0], points[:, 1], 1 - points.sum(axis=1)])
    white = rays[:, 3] / points[3, 1]
    if abs(np.linalg.det(rays[:, :3])) < 1e-4:
        raise ValueError(f"{list(primaries)} lie on a line")
    rgb_to_xyz = rays[:, :3] * np.linalg.solve(rays[:, :3], white)
    cones = (_BRADFORD @ np.array(D50)) / (_BRADFORD @ white)
    return np.linalg.solve(_BRADFORD, cones[:, None] * (_BRADFORD @ rgb_to_xyz))


@lru_cache(maxsize=32)
def profile_of(name: str, primaries: Primaries, curve: Curve, channels: int) -> bytes:
    """Return the ICC profile of a space, for 3 channels or for grey.

    Raises:
        ValueError: The primaries span no space.
    """
    if channels == 1:
        return grey_profile(name, curve)
    return matrix_profile(name, colorants(primaries), curve)
