"""The loss terms of training, one function each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_batch.kernels.patches import fold, positions, unfold


def unexplained_variance(predicted: Tensor, target: Tensor) -> Tensor:
    """Return 1 - R2 over all channels together: |p - t|^2 / |t - mean(t)|^2, with the mean per channel.

    predicted, target: `(n, C, h, w)`.
    """
    centre = target.mean(dim=(0, 2, 3), keepdim=True)
    return (predicted - target).square().sum() / (target - centre).square().sum()


@torch.no_grad()
def swap_features(features: Tensor) -> Tensor:
    """Replace every 2x2 patch by the nearest one (NCC) of the next image in the batch; overlaps are averaged.

    This is the input of a decoder in a translation (the paper, section 3.4). Keeps the shape `(n, C, h, w)`.
    """
    rows, cols = positions(features.shape[2], features.shape[3], 1, True)
    rows, cols = rows.to(features.device), cols.to(features.device)
    out = []
    for content, style in zip(features, features.roll(-1, 0), strict=True):
        queries, library = unfold(content, rows, cols), unfold(style, rows, cols)
        nearest = (queries.flatten(1) @ F.normalize(library.flatten(1), dim=1).T).argmax(1)
        out.append(fold(library[nearest], rows, cols, features.shape[2], features.shape[3]))
    return torch.stack(out)


def lattice_error(error: Tensor, period: int, cells: int = 4) -> Tensor:
    """Measure the part of an error that repeats from cell to cell: a visible grid in smooth areas.

    The error is averaged at each of the `period` x `period` places of a cell, over squares of `cells` x `cells` cells;
    the mean over all places is subtracted. A constant error gives 0, a random one little.

    Args:
        error: `(n, 3, H, W)`; H and W are multiples of `period`.
        period: Pixels per cell and axis.
        cells: Side of the squares, in cells.

    Returns:
        The mean magnitude, `()`.
    """
    places = F.pixel_unshuffle(error, period).unflatten(1, (3, period**2))
    places = places - places.mean(dim=2, keepdim=True)
    return F.avg_pool2d(places.flatten(1, 2), cells, stride=max(1, cells // 2)).abs().mean()
