"""The terms that training minimises, one function each; batches in, one number out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_batch.kernels.patches import fold, positions, unfold


def unexplained(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - R2, all channels together: |p - t|^2 / |t - mean(t)|^2, both `(n, C, h, w)`, the mean per channel."""
    centre = target.mean(dim=(0, 2, 3), keepdim=True)
    return (predicted - target).square().sum() / (target - centre).square().sum()


@torch.no_grad()
def swapped(features: Tensor) -> Tensor:
    """`(n, C, h, w)` -> the same shape: every 2x2 patch replaced by the nearest (NCC) of the next image of the batch.

    What a decoder is given in a translation: patches of other images, averaged where they overlap (section 3.4).
    """
    rows, cols = positions(features.shape[2], features.shape[3], 1, True)
    rows, cols = rows.to(features.device), cols.to(features.device)
    out = []
    for content, style in zip(features, features.roll(-1, 0), strict=True):
        queries, library = unfold(content, rows, cols), unfold(style, rows, cols)
        nearest = (queries.flatten(1) @ F.normalize(library.flatten(1), dim=1).T).argmax(1)
        out.append(fold(library[nearest], rows, cols, features.shape[2], features.shape[3]))
    return torch.stack(out)


def lattice(error: Tensor, period: int, cells: int = 4) -> Tensor:
    """What of an error `(n, 3, H, W)` repeats from cell to cell: the grid that an eye finds in a smooth area.

    The error's mean at each of the `period` x `period` places of a cell, over squares of `cells` x `cells` cells, less
    the mean over all places; the mean of its magnitude. Nothing but a grid survives that: 0 for any error that is
    constant, and little for one that is random. H and W are multiples of `period`.
    """
    places = F.pixel_unshuffle(error, period).unflatten(1, (3, period**2))
    places = places - places.mean(dim=2, keepdim=True)
    return F.avg_pool2d(places.flatten(1, 2), cells, stride=max(1, cells // 2)).abs().mean()
