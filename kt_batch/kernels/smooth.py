"""Edge-aware smoothing: the guided filter (He, Sun & Tang 2010), for many maps with one grey guide."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over the (2 radius + 1)^2 window, clipped at the border. `(n, h, w)` -> same."""
    return _line_mean(_line_mean(x, radius).transpose(1, 2), radius).transpose(1, 2)


def _line_mean(x: Tensor, radius: int) -> Tensor:
    length = x.shape[-1]
    total = F.pad(x.double().cumsum(-1), (1, 0))
    centre = x.new_ones(length).cumsum(0).long() - 1
    high = (centre + radius + 1).clamp_(max=length)
    low = (centre - radius).clamp_(min=0)
    return ((total[..., high] - total[..., low]) / (high - low)).to(x.dtype)


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
