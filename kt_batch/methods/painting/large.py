"""Pictures larger than the painter works at: its picture enlarged, with crisp strokes and the photograph's detail.

Strokes grow with the picture. What the painter's picture has in common with the photograph around a place, edges above
all, gets the photograph's finer detail in the painted colours; where they have nothing in common, strokes stay alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from kt_batch.kernels.enlarge import calm, crisp_rows, cubic_rows, fit_slopes, linear_rows, sloped

WINDOW = 3  # radius in pixels of the painter's picture, in which it is compared with the photograph
EPSILON = 0.001  # squared; contrasts of the photograph below .03 give little detail
SHARPENING = 3.0  # at each doubling, of what a blur takes away
BLOCK = 2**17  # pixels made at a time


def enlarged(painted: Tensor, photograph: Tensor, large: Tensor, block: int = BLOCK) -> Tensor:
    """Return a painted picture in the size of a large photograph.

    Args:
        painted: The painter's picture `(3, h, w)` RGB in [0, 1].
        photograph: The photograph that it painted, of the same size.
        large: The same photograph, larger, `(3, H, W)`.
        block: Pixels that are made at a time, at least one row; no value of the picture depends on it.

    Returns:
        `(3, H, W)`. Beside it and the picture of half its size, memory is that of a block.
    """
    picture, plain = calm(painted), calm(photograph)
    slopes = fit_slopes(plain, picture, WINDOW, EPSILON)
    height, width = large.shape[1:]
    for size in sizes((painted.shape[1], painted.shape[2]), (height, width)):
        whole = painted.new_empty(3, *size)
        for top, rows in blocks(size, block):
            part = crisp_rows(picture, size, top, rows, SHARPENING)
            if size == (height, width):
                fine = large[:, top : top + rows] - cubic_rows(plain, size, top, rows)
                part = (part + sloped(linear_rows(slopes, size, top, rows), fine)).clamp_(0, 1)
            whole[:, top : top + rows] = part
        picture = whole
    return picture


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
