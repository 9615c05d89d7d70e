"""Style-swap: every patch replaced by the style's patch of the highest correlation (Chen & Schmidt 2016)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH = 3  # cells a side, as in the authors' code
BLOCK = 2048  # patches compared at a time


def style_swap(features: Tensor, style: Tensor) -> Tensor:
    """Return features `(C, h, w)` made of the patches of a style `(C, H, W)`, overlaps averaged.

    All 3 x 3 patches of both sides are taken. The style's patch of the highest NCC replaces a patch; the search is
    exact.
    """
    known = F.unfold(style[None], PATCH)[0]
    normal = known / known.norm(dim=0).clamp(min=1e-8)
    queries = F.unfold(features[None], PATCH)[0]
    best = torch.cat([(normal.T @ block).argmax(0) for block in queries.split(BLOCK, dim=1)])
    size = (features.shape[1], features.shape[2])
    total = F.fold(known[:, best][None], size, PATCH)
    count = F.fold(torch.ones_like(queries)[None], size, PATCH)
    return (total / count)[0]
