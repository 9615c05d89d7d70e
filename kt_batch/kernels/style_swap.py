"""Style-swap: every patch replaced by the style's patch of the highest correlation (Chen & Schmidt 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH = 3  # cells a side, as in the authors' code
BLOCK = 2048  # patches compared at a time


class StylePatches:
    """All 3 x 3 patches of some styles.

    values: `(9 C, m)` float32. normal: The same with length 1; a patch of zeros stays. counts: Patches of each style.
    """

    def __init__(self, styles: Sequence[Tensor]) -> None:
        """Take the features `(C, H, W)` of each style."""
        patches = [F.unfold(_wide_enough(style)[None], PATCH)[0] for style in styles]
        self.counts = [each.shape[1] for each in patches]
        self.values = torch.cat(patches, dim=1)
        self.normal = self.values / self.values.norm(dim=0).clamp(min=1e-8)


def style_swap_of(features: Tensor, patches: StylePatches) -> tuple[Tensor, list[int]]:
    """Return features `(C, h, w)` made of the patches of styles, overlaps averaged, and how many came from each style.

    All 3 x 3 patches of `features` are taken. The patch of the highest NCC replaces a patch, the first of equals; the
    search is exact.
    """
    wide = _wide_enough(features)
    queries = F.unfold(wide[None], PATCH)[0]
    best = torch.cat([(patches.normal.T @ block).argmax(0) for block in queries.split(BLOCK, dim=1)])
    size = (wide.shape[1], wide.shape[2])
    total = F.fold(patches.values[:, best][None], size, PATCH)
    count = F.fold(torch.ones_like(queries)[None], size, PATCH)
    ends = torch.tensor(patches.counts, device=best.device).cumsum(0)
    of_style = torch.bincount(torch.searchsorted(ends, best, right=True), minlength=len(patches.counts))
    swapped = (total / count)[0, :, : features.shape[1], : features.shape[2]]
    return swapped, of_style.tolist()


def style_swap(features: Tensor, style: Tensor) -> Tensor:
    """Return features `(C, h, w)` made of the patches of one style `(C, H, W)`, as `style_swap_of` does."""
    return style_swap_of(features, StylePatches([style]))[0]


def _wide_enough(features: Tensor) -> Tensor:
    """Return features `(C, h, w)` with their last cells repeated up to PATCH cells a side."""
    missing = [max(0, PATCH - side) for side in features.shape[1:]]
    return F.pad(features[None], (0, missing[1], 0, missing[0]), mode="replicate")[0] if any(missing) else features
