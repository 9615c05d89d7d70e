"""The grid that a decoder leaves: a pattern that repeats from cell to cell, seen best where a picture is plain.

A decoder makes cells of s x s pixels from features at a stride of s. For features that no photograph has, its
upsampling leaves a pattern (Odena et al. 2016, "Deconvolution and Checkerboard Artifacts"). The grid at a pixel is the
median of the fine part of the picture at the same place of the cells around. An edge or a stroke lies in a few of them
only, and stays.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 2  # cells on each side: five in a row


def without_grid(image: Tensor, cell: int) -> Tensor:
    """Return an image without what repeats from cell to cell.

    Args:
        image: `(3, H, W)` float32 in [0, 1]; both sides are multiples of `cell`.
        cell: Side of a cell in pixels, even; 1: nothing can repeat, and the image is returned.

    Returns:
        `(3, H, W)` float32 in [0, 1].
    """
    return image if cell == 1 else (image - grid(image, cell)).clamp_(0, 1)


def grid(image: Tensor, cell: int) -> Tensor:
    """Return what repeats from cell to cell of an image, `(3, H, W)` float32; arguments as in `without_grid`.

    The median of 5 x 5 cells is taken as the median of each five in a column, and of five of these in a row, which
    takes a tenth of the time.
    """
    channels, height, width = image.shape
    fine = image - _smooth(image, cell)
    columns = _median_of_neighbours(fine.view(channels, height // cell, cell * width))
    return _median_of_neighbours(columns.view(channels * height, width // cell, cell)).view(image.shape)


def _smooth(image: Tensor, cell: int) -> Tensor:
    """Return the mean over a cell around each pixel; nothing that repeats from cell to cell is left in it."""
    weights = torch.full((cell + 1,), 1 / cell, device=image.device)
    weights[0] = weights[-1] = 0.5 / cell  # so that an even number of pixels has a middle
    padded = F.pad(image[:, None], (cell // 2,) * 4, mode="reflect")
    across = F.conv2d(padded, weights.view(1, 1, 1, -1))
    return F.conv2d(across, weights.view(1, 1, -1, 1))[:, 0]


def _median_of_neighbours(values: Tensor) -> Tensor:
    """Return the medians of each five neighbours along the middle dimension of `(a, b, c)`; ends are repeated."""
    count = values.shape[1]
    first, last = values[:, :1], values[:, -1:]
    padded = torch.cat([first, first, values, last, last], dim=1)
    a, b, c, d, e = (padded[:, shift : shift + count] for shift in range(2 * REACH + 1))
    low = torch.maximum(torch.minimum(a, b), torch.minimum(c, d))
    high = torch.minimum(torch.maximum(a, b), torch.maximum(c, d))
    return torch.maximum(torch.minimum(low, high), torch.minimum(torch.maximum(low, high), e))
