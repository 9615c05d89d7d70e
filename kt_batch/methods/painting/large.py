"""Pictures larger than the painter works at: its picture enlarged, with crisp strokes and the photograph's detail.

Strokes grow with the picture. What the painter's picture has in common with the photograph around a place, edges above
all, gets the photograph's finer detail in the painted colours; where they have nothing in common, strokes stay alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kt_batch.kernels.enlarge import calm, crisp_rows, fit_slopes, linear_rows, sloped

WINDOW = 3  # radius in pixels of the painter's picture, in which it is compared with the photograph
EPSILON = 0.001  # squared; contrasts of the photograph below .03 give little detail
SHARPENING = 1.5  # at each doubling, of what a blur takes away
BLOCK = 2**17  # pixels made at a time


def enlarged(painted: Tensor, photograph: Tensor, large: Tensor, block: int = BLOCK) -> Tensor:
    """Return a painted picture in the size of a large photograph.

    Args:
        painted: The painter's picture `(3, h, w)` RGB in [0, 1].
        photograph: The photograph that it painted, of the same size.
        large: The same photograph, larger, `(3, H, W)`.
        block: Pixels that are made at a time, at least one row; no value of the picture depends on it.

    Returns:
        `(3, H, W)`. Beside it and two pictures of half its size, memory is that of a block.
    """
    # The photograph goes the same way, so that what is added is what this way has lost.
    both = torch.cat([calm(painted), calm(photograph)])
    slopes = fit_slopes(both[3:], both[:3], WINDOW, EPSILON)
    *before, last = sizes((painted.shape[1], painted.shape[2]), (large.shape[1], large.shape[2]))
    for size in before:
        both = _doubled(both, size, block)
    picture = torch.empty_like(large)
    for top, rows in blocks(last, block):
        part = crisp_rows(both, last, top, rows, SHARPENING)
        lost = large[:, top : top + rows] - part[3:]
        mapped = sloped(linear_rows(slopes, last, top, rows), lost)
        picture[:, top : top + rows] = (part[:3] + mapped).clamp_(0, 1)
    return picture


def _doubled(both: Tensor, size: tuple[int, int], block: int) -> Tensor:
    whole = both.new_empty(len(both), *size)
    for top, rows in blocks(size, block):
        whole[:, top : top + rows] = crisp_rows(both, size, top, rows, SHARPENING)
    return whole


def sizes(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the heights and widths from `start` to `end`, both of them larger by a factor of 2 at most each time."""
    steps = [end]
    while steps[-1][0] > 2 * start[0] or steps[-1][1] > 2 * start[1]:
        height, width = steps[-1]
        steps.append((max(start[0], -(-height // 2)), max(start[1], -(-width // 2))))
    return steps[::-1]


def blocks(size: tuple[int, int], pixels: int) -> Iterator[tuple[int, int]]:
    """Yield (top, rows) of the blocks of whole rows of a picture, of `pixels` each at most, and of one row at least."""
    height, width = size
    step = max(1, pixels // width)
    for top in range(0, height, step):
        yield top, min(step, height - top)
