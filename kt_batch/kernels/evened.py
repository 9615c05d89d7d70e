"""A painted picture without the glows and blotches that its photograph does not explain."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kt_batch.kernels.enlarge import fit_slopes, sloped
from kt_batch.kernels.smooth import quick_mean

CELL = 4  # pixels along the side of a cell, in which all of it is computed
NEAR, FAR = 1, 12  # radii in cells: half of a wave of 28 or of 220 pixels stays, less in between
EPSILON = 0.001  # squared; contrasts of the photograph below .03 explain little


def evened(picture: Tensor, photograph: Tensor) -> Tensor:
    """Take the glows and blotches off that are in the painted picture alone.

    Around each place the painted picture is the photograph under a linear map of colours, fitted by least squares, plus
    a rest. The rest holds fine strokes, a broad change of tone, and in between glows along edges and the blotches of
    matches. The mean of the rest over the near window, less its mean over the far one, is taken off.

    Args:
        picture: `(3, H, W)` RGB in [0, 1].
        photograph: Of the same size.

    Returns:
        `(3, H, W)` in [0, 1]. A picture of less than one cell is returned as it is.
    """
    if min(picture.shape[1:]) < CELL:
        return picture
    painted, seen = F.avg_pool2d(picture, CELL, ceil_mode=True), F.avg_pool2d(photograph, CELL, ceil_mode=True)
    rest = painted - sloped(fit_slopes(seen, painted, FAR, EPSILON), seen)
    unexplained = _tent_mean(rest, NEAR) - _tent_mean(rest, FAR)
    spread = F.interpolate(unexplained[None], scale_factor=CELL, mode="bilinear", align_corners=False)[0]
    height, width = picture.shape[1:]  # the last row and column of cells may reach beyond the picture
    return (picture - spread[:, :height, :width]).clamp(0, 1)


def _tent_mean(maps: Tensor, radius: int) -> Tensor:
    return quick_mean(quick_mean(maps, radius), radius)
