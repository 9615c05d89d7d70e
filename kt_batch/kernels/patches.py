"""Unfold a feature map into 2 x 2 patches, and fold patches back.

A patch is `(4, C)`: its cells a, b, c, d in reading order ([[a, b], [c, d]]), with C values each. Libraries store it
flattened, as a vector of D = 4C values.
"""

from __future__ import annotations

import torch
from torch import Tensor

CELLS = ((0, 0), (0, 1), (1, 0), (1, 1))


def positions(
    height: int, width: int, stride: int, cover: bool, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return the top-left cells of the patches of a feature map, in reading order.

    Args:
        height: Rows of the map, in cells.
        width: Columns of the map, in cells.
        stride: Step between patches, in cells.
        cover: Add the last row and column, so that patches at a stride of at most 2 cover every cell.
        device: Where the result is created.

    Returns:
        Rows and columns, `(n,)` int64 each.
    """
    rows, cols = _steps(height - 1, stride, cover, device), _steps(width - 1, stride, cover, device)
    grid = torch.cartesian_prod(rows, cols)
    return grid[:, 0].contiguous(), grid[:, 1].contiguous()


def _steps(count: int, stride: int, cover: bool, device: torch.device | str) -> Tensor:
    steps = torch.arange(0, count, stride, device=device)
    if cover and (count - 1) % stride:
        steps = torch.cat([steps, torch.tensor([count - 1], device=device)])
    return steps


def unfold(features: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Return the patches `(n, 4, C)` of features `(C, h, w)` at n positions, in the same dtype."""
    cells = features.permute(1, 2, 0).contiguous()
    return torch.stack([cells[rows + dr, cols + dc] for dr, dc in CELLS], dim=1)


def fold(patches: Tensor, rows: Tensor, cols: Tensor, height: int, width: int) -> Tensor:
    """Return the feature map `(C, height, width)` whose cells are the mean of the patches that cover them.

    A cell that no patch covers is 0. Each of the four additions writes a cell once, so the order of the sums is fixed.

    Args:
        patches: `(n, 4, C)`.
        rows: `(n,)` int64, the top-left cells; positions are distinct.
        cols: `(n,)` int64.
        height: Rows of the map, in cells.
        width: Columns of the map, in cells.
    """
    total = patches.new_zeros(height, width, patches.shape[2])
    count = patches.new_zeros(height, width, 1)
    for number, (dr, dc) in enumerate(CELLS):
        total[rows + dr, cols + dc] += patches[:, number]
        count[rows + dr, cols + dc] += 1
    return (total / count.clamp_(min=1)).permute(2, 0, 1).contiguous()


def pixel_shares(rows: Tensor, cols: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Return the share of a picture's pixels that each patch stands for, `(n,)` float64; together 1.

    The patches that cover a cell share its pixels evenly. Pixels beyond the picture, its padding, do not count.

    Args:
        rows: `(n,)` int64, the top-left cells; positions are distinct.
        cols: `(n,)` int64.
        stride: Pixels along a cell.
        size: Height and width of the picture, in pixels; a patch covers some of them.
    """
    grid = int(rows.max()) + 2, int(cols.max()) + 2
    count = torch.zeros(grid, dtype=torch.float64, device=rows.device)
    for dr, dc in CELLS:
        count[rows + dr, cols + dc] += 1
    down, across = (
        (pixels - stride * torch.arange(cells, device=rows.device)).clamp(0, stride).double()
        for pixels, cells in zip(size, grid, strict=True)
    )
    each = torch.outer(down, across) / count.clamp_(min=1)
    shares = torch.stack([each[rows + dr, cols + dc] for dr, dc in CELLS]).sum(0)
    return shares / shares.sum()
