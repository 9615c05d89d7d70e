"""Numbers that describe how a photograph is exposed and coloured, whatever it shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kt_batch.kernels.quadratic import LUMINANCE

DESCRIPTORS = (
    "luminance_1", "luminance_5", "luminance_10", "luminance_25", "luminance_50", "luminance_75", "luminance_90",
    "luminance_95", "luminance_99", "mean", "deviation", "log_median", "log_luminance_95", "log_mean", "range",
    "log_range", "red_over_green", "blue_over_others", "log_red_over_green", "log_blue_over_green", "saturation",
    "chroma", "saturation_90", "lab_a", "lab_b", "lab_chroma", "centre_over_mean", "top_over_bottom", "darkest_5",
    "darkest_50", "skewness", "bright_share", "dark_share",
)  # fmt: skip

# What the tonal kernels look at; the others look at all descriptors.
TONAL = (
    "luminance_5", "luminance_25", "luminance_50", "luminance_75", "luminance_95", "dark_share", "bright_share",
    "darkest_5", "log_red_over_green", "log_blue_over_green", "chroma", "saturation", "lab_b", "lab_a",
)  # fmt: skip

_PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
_FLOOR = 0.02  # added before a logarithm of luminance
_BRIGHT, _DARK = 0.8, 0.15
_CENTRE = 0.22  # of each side: the spread of the window over the centre

_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65, 2 degrees


def describe(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the DESCRIPTORS `(33,)` float64 of a picture `(H, W, 3)` sRGB in [0, 1]. All are finite for any picture."""
    values = pixels.astype(np.float64)
    luminance = np.clip(values @ LUMINANCE, 0, 1)
    levels = np.percentile(luminance, _PERCENTILES)
    largest, smallest = values.max(-1), values.min(-1)
    chroma = largest - smallest
    saturation = chroma / (largest + 0.05)
    red, green, blue = values.reshape(-1, 3).mean(0)
    mean, deviation = luminance.mean(), luminance.std()
    a, b = np.moveaxis(lab(values[::2, ::2])[..., 1:], -1, 0)
    third = max(1, len(luminance) // 3)
    centred = luminance - mean
    described = np.array(
        [
            *levels, mean, deviation, np.log(levels[4] + _FLOOR), np.log(levels[7] + _FLOOR), np.log(mean + _FLOOR),
            levels[7] - levels[1], np.log(levels[7] - levels[1] + _FLOOR),
            red - green, blue - (red + green) / 2, _log_ratio(red, green), _log_ratio(blue, green),
            saturation.mean(), chroma.mean(), np.percentile(saturation, 90),
            a.mean() / 50, b.mean() / 50, np.hypot(a, b).mean() / 50,
            _centre(luminance) - mean, luminance[:third].mean() - luminance[-third:].mean(),
            np.percentile(smallest, 5), np.median(smallest),
            (centred**3).mean() / max(deviation, 1e-3) ** 3,
            (luminance > _BRIGHT).mean(), (luminance < _DARK).mean(),
        ]
    )  # fmt: skip
    return described


def lab(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert sRGB in [0, 1] `(..., 3)` to CIE Lab of D65."""
    linear = np.where(pixels <= 0.04045, pixels / 12.92, ((np.maximum(pixels, 0) + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _TO_XYZ.T / _WHITE
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def _log_ratio(one: float, other: float) -> float:
    return float(np.log((one + 1e-4) / (other + 1e-4)))


def _centre(luminance: NDArray[np.float64]) -> float:
    """Return the mean luminance under a Gaussian window over the centre."""
    height, width = luminance.shape
    down = np.exp(-0.5 * ((np.arange(height) / height - 0.5) / _CENTRE) ** 2)
    across = np.exp(-0.5 * ((np.arange(width) / width - 0.5) / _CENTRE) ** 2)
    return float(down @ luminance @ across / (down.sum() * across.sum()))
