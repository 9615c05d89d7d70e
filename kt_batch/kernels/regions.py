"""Regions of a picture: soft masks, and the masks of a feature map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_batch.kernels.kmeans import ArrayPoints, assign, spherical_kmeans
from kt_batch.kernels.tiles import normalise

ROUNDS = 20  # of k-means, at most
BLOCK = 16384  # patches whose pixels are looked at at a time
EDGE = 5  # pixels; a mean over so many, taken twice, makes an edge soft over nine


def soft_masks(regions: Tensor, count: int) -> Tensor:
    """Return a mask `(count, H, W)` float32 of each region, soft at its edges; at each pixel they sum to 1.

    Args:
        regions: `(H, W)` int64, the region of each pixel, from 0.
        count: Regions.
    """
    masks = (regions == torch.arange(count, device=regions.device)[:, None, None]).float()
    around = (EDGE // 2,) * 4
    for _ in range(2):
        masks = F.avg_pool2d(F.pad(masks[None], around, mode="replicate"), EDGE, stride=1)[0]
    return masks / masks.sum(0)


def some(masks: Tensor, numbers: Sequence[int]) -> Tensor:
    """Return the masks with these numbers."""
    return torch.stack([masks[number] for number in numbers])


def on_grid(masks: Tensor, height: int, width: int) -> Tensor:
    """Return masks `(n, H, W)` resized by area to `(n, height, width)`; at each cell they still sum to 1."""
    return F.interpolate(masks[None], (height, width), mode="area")[0]


def blended(values: list[Tensor], masks: list[Tensor | None]) -> Tensor:
    """Return the sum of features `(C, h, w)`, each times its mask `(h, w)` (eq. 6 of StyleBank); a single one stays."""
    if len(values) == 1:
        return values[0]
    return torch.stack(
        [value if mask is None else value * mask for value, mask in zip(values, masks, strict=True)]
    ).sum(0)


def patch_regions(regions: Tensor, rows: Tensor, cols: Tensor, stride: int, cells: int = 2) -> Tensor:
    """Return the region `(n,)` int64 of each patch: the one with the most pixels under it.

    Of regions with equally many, the one whose pixel comes first there; so the numbers of regions decide nothing.

    Args:
        regions: `(H, W)` int64, the region of each pixel, from 0; both sides are multiples of the stride.
        rows: Top-left cells of the patches, `(n,)` int64.
        cols: `(n,)` int64.
        stride: Pixels along a cell.
        cells: Along a patch.
    """
    side = cells * stride
    windows, present = regions.unfold(0, side, stride).unfold(1, side, stride), torch.unique(regions).tolist()
    blocks = zip(rows.split(BLOCK), cols.split(BLOCK), strict=True)
    return torch.cat([_most_of(windows[above, left].flatten(1), present) for above, left in blocks])


def _most_of(under: Tensor, present: Sequence[int]) -> Tensor:
    """Return the most frequent region `(n,)` of the pixels `(n, p)` under each patch. present: All regions."""
    best, chosen = torch.zeros_like(under[:, 0]), torch.zeros_like(under[:, 0])
    for region in present:
        there = under == region
        first = there.int().argmax(1)  # of equal values, the first
        score = there.sum(1) * under.shape[1] + (under.shape[1] - first)
        chosen = torch.where(there.any(1) & (score > best), region, chosen)
        best = torch.where(there.any(1), torch.maximum(best, score), best)
    return chosen


def freedom(mask: Tensor) -> float:
    """Return by what sums of squares over weighted cells are divided: n - 1 where the n weights of `mask` are 1."""
    total = float(mask.sum())
    return max(total - float(mask.square().sum()) / total, 1e-3)


def like_regions(features: Tensor, count: int, size: tuple[int, int]) -> Tensor:
    """Return the region `(H, W)` int64 of each pixel: cells of like features, by spherical k-means with a fixed seed.

    Features are averaged over 3 x 3 cells and lose their mean, so that regions differ in what differs. Region 0 is the
    largest, and so on; of equal ones, that with the earlier cell comes first.

    Args:
        features: `(C, h, w)` float32.
        count: Regions at most; there are fewer where there are fewer different cells.
        size: H and W; each cell stands for equally many pixels.
    """
    smooth = F.avg_pool2d(F.pad(features[None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0]
    cells = normalise((smooth - smooth.mean((1, 2), keepdim=True)).flatten(1).T.contiguous())
    centres = spherical_kmeans(ArrayPoints(cells), min(count, len(cells)), ROUNDS, len(cells), 0)
    labels = assign(cells, centres)[0]
    sizes = torch.bincount(labels.cpu())
    earliest = {label: place for place, label in reversed(list(enumerate(labels.tolist())))}
    order = sorted(earliest, key=lambda label: (-int(sizes[label]), earliest[label]))
    ranks = torch.zeros(len(sizes), dtype=torch.int64, device="cpu")
    ranks[torch.tensor(order, device="cpu")] = torch.arange(len(order), device="cpu")
    grid = ranks.to(labels.device)[labels].view(features.shape[1:])
    rows, columns = (
        torch.arange(pixels, device=labels.device) * cells_along // pixels
        for pixels, cells_along in zip(size, grid.shape, strict=True)
    )
    return grid[rows][:, columns]
