"""What a match does to the features: geometric swap (eq. 6) and statistics swap (eq. 7)."""

from __future__ import annotations

import torch
from torch import Tensor

from kt_batch.kernels.haar import haar, mean_and_std
from kt_batch.kernels.patches import fold
from kt_batch.kernels.smooth import guided_filter

MAX_RATIO = 3.0  # of standard deviations: four post-ReLU values often have almost none, and the ratio would explode
FLOOR = 0.5  # added to both deviations, as a share of the library's mean deviation per channel
GUIDE_RADIUS = 3  # cells
GUIDE_EPSILON = 0.01  # squared luminance


def top_k_weights(ncc: Tensor, temperature: float) -> Tensor:
    """`(n, k)` NCC -> `(n, k)` weights that sum to 1: softmax(NCC / temperature)."""
    return torch.softmax(ncc / temperature, dim=1)


def blend(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of k matches: `(n, k, 4, C)` and `(n, k)` -> `(n, 4, C)`."""
    return (values * weights[:, :, None, None]).sum(1)


def geometric_swap(matched: Tensor, rows: Tensor, cols: Tensor, height: int, width: int) -> Tensor:
    """Eq. 6, a_s = a_t: the matched patches `(n, 4, C)` themselves, overlaps averaged. Returns `(C, height, width)`."""
    return fold(matched, rows, cols, height, width)


def statistics_swap(
    features: Tensor,
    source: Tensor,
    matched: Tensor,
    rows: Tensor,
    cols: Tensor,
    deviation: Tensor,
    guide: Tensor,
) -> Tensor:
    """Eq. 7 per channel over the 4 cells of a patch, as one affine map per cell.

    features `(C, h, w)`; source and matched `(n, 4, C)` patches at n positions; deviation `(C,)` the library's mean
    standard deviation; guide `(h, w)` luminance in [0, 1]. Returns `(C, h, w)`, of any sign.

    Differs from the paper: both deviations get a floor and their ratio a bound (FLOOR, MAX_RATIO), and the maps
    (scale, shift), which overlaps average, are smoothed along the edges of the image before they are applied.
    """
    source_mean, source_std = mean_and_std(haar(source))
    target_mean, target_std = mean_and_std(haar(matched))
    floor = FLOOR * deviation + 1e-6
    scale = ((target_std + floor) / (source_std + floor)).clamp_(1 / MAX_RATIO, MAX_RATIO)
    shift = target_mean - scale * source_mean
    maps = torch.cat([scale, shift], dim=1)[:, None].expand(-1, 4, -1)
    per_cell = fold(maps, rows, cols, features.shape[1], features.shape[2])
    smooth = guided_filter(per_cell, guide, GUIDE_RADIUS, GUIDE_EPSILON)
    scale_map, shift_map = smooth.chunk(2)
    return features * scale_map + shift_map
