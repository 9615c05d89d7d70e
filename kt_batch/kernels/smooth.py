"""Edge-aware smoothing: the guided filter (He, Sun & Tang 2010), for many maps with one grey guide."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over the (2 radius + 1)^2 window, clipped at the border, as two passes of lines. `(n, h, w)` -> same."""
    size = 2 * radius + 1
    lines = F.avg_pool2d(x[None], (1, size), stride=1, padding=(0, radius), count_include_pad=False)
    return F.avg_pool2d(lines, (size, 1), stride=1, padding=(radius, 0), count_include_pad=False)[0]


def guided_filter(maps: Tensor, guide: Tensor, radius: int, epsilon: float) -> Tensor:
    """Smooth `(n, h, w)` maps where the `(h, w)` guide is smooth, and keep them apart where it has an edge.

    Each output is, in every window, a linear function of the guide. `epsilon` is in squared units of the guide: an
    edge weaker than sqrt(epsilon) is smoothed over.
    """
    guide = guide[None]
    mean_guide = box_mean(guide, radius)
    variance = box_mean(guide * guide, radius) - mean_guide.square()
    mean_maps = box_mean(maps, radius)
    covariance = box_mean(maps * guide, radius) - mean_maps * mean_guide
    slope = covariance / (variance + epsilon)
    offset = mean_maps - slope * mean_guide
    return box_mean(slope, radius) * guide + box_mean(offset, radius)
