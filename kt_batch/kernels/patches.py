"""Cutting a feature map into 2x2 patches and folding patches back.

A patch is kept as `(4, C)`: its cells a, b, c, d in reading order ([[a, b], [c, d]]), each with C values. Flattened,
that is the vector of D = 4C values that libraries store.
"""

from __future__ import annotations

import torch
from torch import Tensor

CELLS = ((0, 0), (0, 1), (1, 0), (1, 1))


def positions(
    height: int, width: int, stride: int, cover: bool, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Top-left cells `(row, col)`, each `(n,)` int64, of the patches of a `height` x `width` map, in reading order.

    With `cover` the last row and column are always among them, so that every cell lies in a patch at any `stride` <= 2.
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
    """`(C, h, w)` features and n positions -> `(n, 4, C)` patches, same dtype."""
    cells = features.permute(1, 2, 0).contiguous()
    return torch.stack([cells[rows + dr, cols + dc] for dr, dc in CELLS], dim=1)


def fold(patches: Tensor, rows: Tensor, cols: Tensor, height: int, width: int) -> Tensor:
    """`(n, 4, C)` patches at n distinct positions -> `(C, height, width)`: the mean of what covers each cell.

    A cell that no patch covers becomes 0. Within one of the four additions every cell is written once, so the order of
    the sums is fixed.
    """
    total = patches.new_zeros(height, width, patches.shape[2])
    count = patches.new_zeros(height, width, 1)
    for number, (dr, dc) in enumerate(CELLS):
        total[rows + dr, cols + dc] += patches[:, number]
        count[rows + dr, cols + dc] += 1
    return (total / count.clamp_(min=1)).permute(2, 0, 1).contiguous()
