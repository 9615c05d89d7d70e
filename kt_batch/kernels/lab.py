"""CIE L*a*b* of sRGB pixels (D65, 2 degree observer), and back, in float64."""

from __future__ import annotations

import numpy as np

XYZ_OF_RGB = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)  # ITU-R BT.709 primaries
WHITE = np.array([0.95047, 1.0, 1.08883])  # D65
LINEAR_BELOW = 6 / 29  # the cube root's argument at which CIE's curve turns into a line: (6 / 29)^3


def lab(pixels: np.ndarray) -> np.ndarray:
    """Return L*a*b* `(..., 3)` float64 of sRGB pixels `(..., 3)` in [0, 1]."""
    values = np.clip(np.asarray(pixels, np.float64), 0, 1)
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    ratios = np.einsum("...c,xc->...x", linear, XYZ_OF_RGB) / WHITE
    x, y, z = np.moveaxis(np.where(ratios > LINEAR_BELOW**3, np.cbrt(ratios), _line(ratios)), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def from_lab(values: np.ndarray) -> np.ndarray:
    """Return sRGB `(..., 3)` float64, in [0, 1], of L*a*b* `(..., 3)`."""
    y = (values[..., 0] + 16) / 116
    roots = np.stack([y + values[..., 1] / 500, y, y - values[..., 2] / 200], axis=-1)
    ratios = np.where(roots > LINEAR_BELOW, roots**3, (roots - 4 / 29) * 3 * LINEAR_BELOW**2)
    linear = np.clip(ratios * WHITE @ np.linalg.inv(XYZ_OF_RGB).T, 0, 1)
    encoded: np.ndarray = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return encoded


def _line(ratios: np.ndarray) -> np.ndarray:
    line: np.ndarray = ratios / (3 * LINEAR_BELOW**2) + 4 / 29
    return line
