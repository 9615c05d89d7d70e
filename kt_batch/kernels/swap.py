"""The geometric swap (eq. 6) and the statistics swap (eq. 7)."""

from __future__ import annotations

import torch
from torch import Tensor

from kt_batch.kernels.haar import haar, mean_and_std
from kt_batch.kernels.patches import fold
from kt_batch.kernels.smooth import guided_filter

MAX_RATIO = 3.0  # bound of the ratio of deviations: four post-ReLU values are often nearly equal
FLOOR = 0.5  # share of the library's mean deviation per channel that is added to both deviations
GUIDE_RADIUS = 3  # cells
GUIDE_EPSILON = 0.01  # squared luminance


def top_k_weights(ncc: Tensor, temperature: float) -> Tensor:
    """Return softmax(NCC / temperature) over the k matches, `(n, k)` -> `(n, k)`."""
    return torch.softmax(ncc / temperature, dim=1)


def blend(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean `(n, 4, C)` of matches `(n, k, 4, C)` with weights `(n, k)`."""
    return (values * weights[:, :, None, None]).sum(1)


def geometric_swap(matched: Tensor, rows: Tensor, cols: Tensor, height: int, width: int) -> Tensor:
    """Replace every patch by its match (eq. 6, a_s = a_t): `(n, 4, C)` -> `(C, height, width)`, overlaps averaged."""
    return fold(matched, rows, cols, height, width)


def statistics_swap(
    features: Tensor,
    source: Tensor,
    matched: Tensor,
    rows: Tensor,
    cols: Tensor,
    deviation: Tensor,
    guide: Tensor,
    regions: Tensor | None = None,
) -> Tensor:
    """Give every patch the mean and deviation of its match (eq. 7), per channel, as one affine map per cell.

    This differs from the paper in two ways. Both deviations have a floor, and their ratio a bound (FLOOR, MAX_RATIO).
    The maps (scale, shift) of overlapping patches are averaged, then smoothed except across edges of the image, and
    never across those of regions: each region has maps of its own, which beyond it are their mean, and are mixed in the
    cells of patches of several regions.

    Args:
        features: `(C, h, w)`.
        source: Query patches `(n, 4, C)`.
        matched: Their matches `(n, 4, C)`.
        rows: Top-left cells of the query patches, `(n,)` int64.
        cols: `(n,)` int64.
        deviation: Mean standard deviation of the library's patches, `(C,)`, or of that of each patch, `(n, C)`.
        guide: Luminance `(h, w)` in [0, 1].
        regions: The region of each patch, `(n,)` int64; None: one for all.

    Returns:
        `(C, h, w)`, of any sign.
    """
    source_mean, source_std = mean_and_std(haar(source))
    target_mean, target_std = mean_and_std(haar(matched))
    floor = FLOOR * deviation + 1e-6
    scale = ((target_std + floor) / (source_std + floor)).clamp_(1 / MAX_RATIO, MAX_RATIO)
    shift = target_mean - scale * source_mean
    maps = torch.cat([scale, shift], dim=1)[:, None].expand(-1, 4, -1)
    if regions is None or regions.eq(regions[0]).all():
        return _mapped(features, fold(maps, rows, cols, *guide.shape), guide)
    swapped = torch.zeros_like(features)
    for region in torch.unique(regions).tolist():
        mine = regions == region
        share = fold(mine.to(features.dtype)[:, None, None].expand(-1, 4, 1), rows, cols, *guide.shape)
        per_cell = fold(maps[mine], rows[mine], cols[mine], *guide.shape)
        mean = (per_cell * share).sum((1, 2), keepdim=True) / share.sum()
        swapped += share * _mapped(features, torch.where(share > 0, per_cell, mean), guide)
    return swapped


def _mapped(features: Tensor, maps: Tensor, guide: Tensor) -> Tensor:
    """Return features `(C, h, w)` after maps `(2C, h, w)`, the scales and then the shifts, smoothed along the guide."""
    scale, shift = guided_filter(maps, guide, GUIDE_RADIUS, GUIDE_EPSILON).chunk(2)
    return features * scale + shift
