"""Local affine colour maps: fitted to a pair of small pictures, applied to the pixels of a large one.

A map is `(3, 4, h, w)`: around each pixel, output channel c is the sum over k of map[c, k] times channel k, plus
map[c, 3]. The fit is the guided filter (He, Sun & Tang 2010) with a colour guide, and the application its fast form (He
& Sun 2015): the maps are interpolated, and not the colours.
"""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.kernels.descriptors import LUMA
from kt_batch.kernels.smooth import window_mean

MOST_GAIN = 2.0  # of a map, which is at least the reciprocal of it
MOST_DEVIATION = 0.9  # of a map's slopes from its gain, as a share of the gain; below 1, nothing is inverted
DARK = 0.02  # luminance that is added to both sides of a ratio


def fit_local_affine(source: Tensor, target: Tensor, radius: int, epsilon: float) -> Tensor:
    """Fit the affine maps that turn one picture into another, in the window around each pixel.

    Least squares, with slopes drawn to a pure gain: the ratio of the windows' luminances. So a flat window keeps the
    little contrast that it has. Slopes are bounded: the contrast of any colour grows by at most MOST_GAIN *
    (1 + MOST_DEVIATION), and none is inverted. Maps of overlapping windows are averaged.

    Args:
        source: `(3, h, w)` RGB in [0, 1].
        target: `(3, h, w)`.
        radius: Half the width of a window, in pixels.
        epsilon: In squared units of the colours; contrasts below sqrt(epsilon) follow the gain.

    Returns:
        `(3, 4, h, w)` float32.
    """
    x, y = source.double(), target.double()
    mean_x, mean_y = window_mean(x, radius), window_mean(y, radius)
    variance = _covariance(x, x, mean_x, mean_x, radius)
    covariance = _covariance(y, x, mean_y, mean_x, radius)
    luma = torch.from_numpy(LUMA).to(x)
    light_x, light_y = (torch.einsum("chw,c->hw", mean, luma) for mean in (mean_x, mean_y))
    gain = ((light_y + DARK) / (light_x + DARK)).clamp(1 / MOST_GAIN, MOST_GAIN)
    identity = torch.eye(3, dtype=x.dtype, device=x.device)
    wanted = covariance + epsilon * gain[..., None, None] * identity
    # slopes @ (variance + epsilon) = wanted; the variance is symmetric
    slopes = torch.linalg.solve(variance + epsilon * identity, wanted.mT).mT
    slopes = bounded_slopes(slopes).permute(2, 3, 0, 1)
    offsets = mean_y - (slopes * mean_x).sum(1)
    maps = torch.cat([slopes, offsets[:, None]], dim=1)
    averaged: Tensor = window_mean(maps.flatten(0, 1), radius).view_as(maps)
    return averaged.float()


def bounded_slopes(slopes: Tensor) -> Tensor:
    """Bound matrices `(..., 3, 3)`: their mean gain, and in proportion to it how far they deviate from a gain."""
    identity = torch.eye(3, dtype=slopes.dtype, device=slopes.device)
    own = slopes.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    gain = own.clamp(1 / MOST_GAIN, MOST_GAIN)
    deviation = slopes - own * identity
    size = deviation.square().sum((-2, -1)).sqrt()[..., None, None]
    bounded: Tensor = gain * identity + deviation * (MOST_DEVIATION * gain / size.clamp(min=1e-12)).clamp(max=1.0)
    return bounded


def _covariance(one: Tensor, other: Tensor, mean_one: Tensor, mean_other: Tensor, radius: int) -> Tensor:
    """Return the covariance `(h, w, 3, 3)` of the channels of two pictures in the window around each pixel."""
    products: Tensor = window_mean((one[:, None] * other).flatten(0, 1), radius).unflatten(0, (3, 3))
    covariance: Tensor = products - mean_one[:, None] * mean_other
    return covariance.permute(2, 3, 0, 1)


def apply_local_affine(
    pixels: NDArray[np.float32],
    maps: NDArray[np.float32],
    top: int,
    height: int,
    extent: tuple[float, float] | None = None,
) -> NDArray[np.float32]:
    """Map the colours of some rows of a picture by maps of a smaller one, interpolated between its pixels.

    A pixel's result depends on the maps, that pixel and its place alone, to the last bit.

    Args:
        pixels: `(rows, width, 3)` RGB.
        maps: `(3, 4, h, w)`, of the whole picture.
        top: The row of the picture that the first one is.
        height: The rows of the picture.
        extent: The part of (h, w) that the picture covers, from the top left; None: all of it.

    Returns:
        An array of the same shape.
    """
    rows, width = pixels.shape[:2]
    tall, wide = extent or maps.shape[2:]
    left, right, across = between(np.arange(width), width, wide)
    upper, lower, down = between(np.arange(top, top + rows), height, tall)
    mapped = np.empty_like(pixels)
    for row in range(rows):
        line = maps[:, :, upper[row]] + down[row] * (maps[:, :, lower[row]] - maps[:, :, upper[row]])
        stretched = np.take(line, left, axis=2)
        stretched += across * (np.take(line, right, axis=2) - stretched)
        red, green, blue = pixels[row].T
        for channel in range(3):
            of_red, of_green, of_blue, offset = stretched[channel]
            mapped[row, :, channel] = of_red * red + of_green * green + of_blue * blue + offset
    return mapped


def between(
    places: NDArray[np.int64], size: int, extent: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the two cells whose centres are around each of `places`, and the share of the second.

    `size` places cover as much as `extent` cells, the last of which may be covered in part. Beyond the centres of the
    outer cells, both are the outer one.
    """
    last = ceil(extent) - 1
    exact = np.clip((places + 0.5) * (extent / size) - 0.5, 0, last)
    first = np.floor(exact).astype(np.int64)
    return first, np.minimum(first + 1, last), (exact - first).astype(np.float32)
