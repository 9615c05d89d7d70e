"""The guided filter (He, Sun & Tang 2010), for many maps and one grey guide."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAPS = 16  # averaged at a time by `quick_mean`


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Return the means `(n, h, w)` over windows of (2 radius + 1)^2 cells, clipped at the border."""
    size = 2 * radius + 1
    lines = F.avg_pool2d(x[None], (1, size), stride=1, padding=(0, radius), count_include_pad=False)
    return F.avg_pool2d(lines, (size, 1), stride=1, padding=(radius, 0), count_include_pad=False)[0]


def quick_mean(x: Tensor, radius: int) -> Tensor:
    """Return what `box_mean` returns, but for its last bits, about six times as fast: by sums of sums.

    A sum of 16 cells is one of two sums of 8. Few maps at a time stay in the cache.
    """
    size = 2 * radius + 1
    rows, cols = (_window_sizes(count, radius, x.device).to(x) for count in x.shape[1:])
    found = []
    for part in x.split(MAPS):
        sums = _sums(_sums(F.pad(part, (radius, radius, radius, radius)), 1, size), 2, size)
        found.append(sums / (rows[:, None] * cols))
    return torch.cat(found)


def _sums(x: Tensor, dim: int, size: int) -> Tensor:
    """Return the sums of `size` (odd) cells in a row of x along a dimension, which is shorter by size - 1 then."""
    count = x.shape[dim] - size + 1
    total, taken, doubled, width = x.narrow(dim, 0, count), 1, x, 1
    while 2 * width <= size:
        left = doubled.shape[dim] - width
        doubled, width = doubled.narrow(dim, 0, left) + doubled.narrow(dim, width, left), 2 * width
        if size & width:
            total = total + doubled.narrow(dim, taken, count)
            taken += width
    return total


def _window_sizes(count: int, radius: int, device: torch.device) -> Tensor:
    places = torch.arange(count, device=device)
    return (places + radius + 1).clamp(max=count) - (places - radius).clamp(min=0)


def window_mean(x: Tensor, radius: int) -> Tensor:
    """Return what `box_mean` returns, for float64: by running sums, in a time that does not grow with the radius."""
    for dim, size in ((1, x.shape[1]), (2, x.shape[2])):
        places = torch.arange(size, device=x.device)
        start, end = (places - radius).clamp(min=0), (places + radius + 1).clamp(max=size)
        sums = F.pad(x.cumsum(dim), (1, 0) if dim == 2 else (0, 0, 1, 0))
        count = (end - start).to(x)
        totals = sums.index_select(dim, end) - sums.index_select(dim, start)
        x = totals / (count if dim == 2 else count[:, None])
    return x


def guided_filter(maps: Tensor, guide: Tensor, radius: int, epsilon: float) -> Tensor:
    """Smooth maps except across the edges of a guide.

    In every window the output is a linear function of the guide.

    Args:
        maps: `(n, h, w)`.
        guide: `(h, w)`.
        radius: Half the width of a window, in cells.
        epsilon: In squared units of the guide; edges weaker than sqrt(epsilon) are smoothed.
    """
    guide = guide[None]
    mean_guide = box_mean(guide, radius)
    variance = box_mean(guide * guide, radius) - mean_guide.square()
    mean_maps = box_mean(maps, radius)
    covariance = box_mean(maps * guide, radius) - mean_maps * mean_guide
    slope = covariance / (variance + epsilon)
    offset = mean_maps - slope * mean_guide
    return box_mean(slope, radius) * guide + box_mean(offset, radius)
