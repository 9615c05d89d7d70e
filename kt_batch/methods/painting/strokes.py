"""Larger and smaller strokes: a painting is looked at in another size, and matches are told in its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_batch.kernels.neighbour_field import Field

SHORTEST, LONGEST = 64, 1024  # long side of a painting in another size, in pixels
STEP = 8  # both sides are multiples of it, so that every level has whole cells

Size: TypeAlias = tuple[int, int]  # height and width


def resized(image: Tensor, stroke: float) -> Tensor:
    """Return a painting `(3, H, W)` in [0, 1], `stroke` times as large: its strokes are so many times as large.

    Its long side becomes neither shorter than SHORTEST nor longer than LONGEST, unless it is so already.
    """
    longest = max(image.shape[1:])
    long = min(max(stroke * longest, min(SHORTEST, longest)), max(LONGEST, longest))
    size = [max(2 * STEP, STEP * round(side * long / longest / STEP)) for side in image.shape[1:]]
    if list(image.shape[1:]) == size:
        return image
    return F.interpolate(image[None], size=size, mode="bicubic", antialias=True)[0].clamp(0, 1)


def relocated(field: Field, before: Sequence[Size], after: Sequence[Size]) -> Field:
    """Return a field whose matches are at the same places of the sources in other sizes.

    Args:
        field: Matches; those in no source are in source -1, and stay as they are.
        before: Cells of each source where the matches are.
        after: Cells of each source in its other size.
    """
    if list(before) == list(after):
        return field
    known = field.source.clamp(min=0)
    row, col = (
        _moved(place, *(_sides(sizes, side, place.device)[known] for sizes in (before, after)))
        for side, place in enumerate((field.row, field.col))
    )
    inside = field.source >= 0
    return Field(field.source, torch.where(inside, row, field.row), torch.where(inside, col, field.col))


def _sides(sizes: Sequence[Size], side: int, device: torch.device) -> Tensor:
    return torch.tensor([size[side] for size in sizes], device=device)


def _moved(place: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Return the first cells of patches of 2 x 2 cells whose middles are at the same parts of a side."""
    middle = (place + 1).double() * after / before
    return (middle.round().long() - 1).clamp(min=0).minimum(after - 2)
