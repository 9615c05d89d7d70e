"""33 numbers that describe the tones and colours of a picture: what a colour map is predicted from."""

from __future__ import annotations

import numpy as np

from kt_batch.kernels.lab import lab

LUMA = np.array([0.2126, 0.7152, 0.0722])  # ITU-R BT.709
PERCENTS = (1, 5, 10, 25, 50, 75, 90, 95, 99)
OFFSET = 0.02  # added before a logarithm of a luminance
SMALLEST_MEAN = 1e-3  # of a channel, in the logarithms of ratios of channels
CENTRE_WIDTH = 0.22  # standard deviation of the central window, in sides of the picture

DESCRIPTORS: tuple[str, ...] = (
    *(f"luminance_percentile_{percent}" for percent in PERCENTS),
    "luminance_mean",
    "luminance_deviation",
    "log_luminance_median",
    "log_luminance_percentile_95",
    "log_luminance_mean",
    "luminance_range",
    "log_luminance_range",
    "luminance_skewness",
    "bright_share",
    "dark_share",
    "red_minus_green",
    "blue_minus_yellow",
    "log_red_over_green",
    "log_blue_over_green",
    "saturation_mean",
    "chroma_mean",
    "saturation_percentile_90",
    "lab_a_mean",
    "lab_b_mean",
    "lab_chroma_mean",
    "darkest_channel_percentile_5",
    "darkest_channel_median",
    "centre_minus_mean",
    "top_minus_bottom",
)


def describe(pixels: np.ndarray) -> np.ndarray:
    """Return the descriptors `(33,)` float64 of a picture `(H, W, 3)` sRGB in [0, 1], in the order of DESCRIPTORS.

    Every value is finite, whatever the picture.
    """
    values = np.clip(np.asarray(pixels, np.float64), 0, 1)
    luminance = np.einsum("hwc,c->hw", values, LUMA)
    return np.array([*_tones(luminance), *_colours(values), *_places(luminance)])


def _tones(luminance: np.ndarray) -> list[float]:
    percentiles = np.percentile(luminance, PERCENTS)
    mean, deviation = luminance.mean(), luminance.std()
    spread = percentiles[7] - percentiles[1]
    cubed = ((luminance - mean) ** 3).mean()
    return [
        *percentiles,
        mean,
        deviation,
        *np.log(np.array([percentiles[4], percentiles[7], mean]) + OFFSET),
        spread,
        np.log(spread + OFFSET),
        cubed / deviation**3 if deviation > 1e-6 else 0.0,
        (luminance > 0.8).mean(),
        (luminance < 0.15).mean(),
    ]


def _colours(values: np.ndarray) -> list[float]:
    red, green, blue = values.reshape(-1, 3).mean(0)
    log_red, log_green, log_blue = np.log(np.maximum([red, green, blue], SMALLEST_MEAN))
    brightest, darkest = values.max(-1), values.min(-1)
    chroma = brightest - darkest
    saturation = chroma / (brightest + 0.05)
    _, a, b = np.moveaxis(lab(values[::2, ::2]) / 50, -1, 0)
    return [
        red - green,
        blue - (red + green) / 2,
        log_red - log_green,
        log_blue - log_green,
        saturation.mean(),
        chroma.mean(),
        np.percentile(saturation, 90),
        a.mean(),
        b.mean(),
        np.hypot(a, b).mean(),
        np.percentile(darkest, 5),
        np.median(darkest),
    ]


def _places(luminance: np.ndarray) -> list[float]:
    height, width = luminance.shape
    rows, columns = (np.exp(-0.5 * ((np.arange(side) / side - 0.5) / CENTRE_WIDTH) ** 2) for side in (height, width))
    window = np.outer(rows, columns)
    third = max(1, height // 3)
    return [
        (luminance * window).sum() / window.sum() - luminance.mean(),
        luminance[:third].mean() - luminance[-third:].mean(),
    ]
