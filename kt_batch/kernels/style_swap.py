"""Style-swap: every patch replaced by the style's patch of the highest correlation (Chen & Schmidt 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_batch.kernels.regions import patch_regions

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
    swapped, (counts,) = style_swap_in(features, [patches], None)
    return swapped, counts


def style_swap_in(
    features: Tensor, sets: Sequence[StylePatches], regions: Tensor | None
) -> tuple[Tensor, list[list[int]]]:
    """Return features `(C, h, w)` made of the patches of styles, each patch from the set of its region.

    Args:
        features: `(C, h, w)`.
        sets: The patches of the styles of each region.
        regions: `(H, W)` int64, the region of each pixel, with equally many for each cell; a patch is of the one with
            the most pixels under it (`patch_regions`). None: there is one set.

    Returns:
        The features, overlaps averaged, and for each set how many patches came from each style.
    """
    wide = _wide_enough(features)
    queries = F.unfold(wide[None], PATCH)[0]
    found, counts = torch.empty_like(queries), []
    of = None if regions is None else _patch_regions(regions, features, wide)
    for number, patches in enumerate(sets):
        mine = slice(None) if of is None else of == number
        best = _best(queries[:, mine], patches)
        found[:, mine] = patches.values[:, best]
        ends = torch.tensor(patches.counts, device=best.device).cumsum(0)
        of_style = torch.bincount(torch.searchsorted(ends, best, right=True), minlength=len(patches.counts))
        counts.append(of_style.tolist())
    size = (wide.shape[1], wide.shape[2])
    total = F.fold(found[None], size, PATCH)
    count = F.fold(torch.ones_like(queries)[None], size, PATCH)
    return (total / count)[0, :, : features.shape[1], : features.shape[2]], counts


def _best(queries: Tensor, patches: StylePatches) -> Tensor:
    """Return the patch of the highest NCC of each query `(9 C, n)`: `(n,)` int64."""
    return torch.cat([(patches.normal.T @ block).argmax(0) for block in queries.split(BLOCK, dim=1)])


def _patch_regions(regions: Tensor, features: Tensor, wide: Tensor) -> Tensor:
    """Return the region `(n,)` of each patch of `wide`, which is `features` with cells repeated at its end."""
    stride = regions.shape[0] // features.shape[1]
    sides = [
        torch.arange(cells * stride, device=regions.device).clamp(max=pixels - 1)
        for cells, pixels in zip(wide.shape[1:], regions.shape, strict=True)
    ]
    grid = [torch.arange(cells - PATCH + 1, device=regions.device) for cells in wide.shape[1:]]
    places = torch.cartesian_prod(*grid).view(-1, 2)
    return patch_regions(regions[sides[0]][:, sides[1]], places[:, 0], places[:, 1], stride, PATCH)


def style_swap(features: Tensor, style: Tensor) -> Tensor:
    """Return features `(C, h, w)` made of the patches of one style `(C, H, W)`, as `style_swap_of` does."""
    return style_swap_of(features, StylePatches([style]))[0]


def _wide_enough(features: Tensor) -> Tensor:
    """Return features `(C, h, w)` with their last cells repeated up to PATCH cells a side."""
    missing = [max(0, PATCH - side) for side in features.shape[1:]]
    return F.pad(features[None], (0, missing[1], 0, missing[0]), mode="replicate")[0] if any(missing) else features
