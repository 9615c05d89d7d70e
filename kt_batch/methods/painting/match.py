"""The matches of one level: like patches, and pieces of the sources where the photograph is flat."""

from __future__ import annotations

from torch import Tensor

from kt_batch.kernels.neighbour_field import Field, Gallery, improve, inside, scores
from kt_batch.kernels.quilt import quilt

RADIUS, PASSES = 1, 2  # cells around a match, and how often neighbours are asked


def match(
    queries: Tensor, gallery: Gallery, start: Field, directions: Tensor, flat: Tensor, *, first: bool
) -> tuple[Field, Tensor]:
    """Return the matches of a level, and their scores `(n,)`.

    Where the photograph has forms, these are like patches near those to begin with. Where it is flat, the likest patch
    would be a flat one, the same for all places: no strokes, or a lattice of copies. There the first level takes pieces
    of the sources as they are, by their tone, and finer levels stay at their places.

    Args:
        queries: Cells `(h, w, C)`.
        gallery: The source images.
        start: The matches to begin with.
        directions: `(C, K)`, as `improve` takes them.
        flat: `(h - 1, w - 1)` bool.
        first: Whether there is no coarser level.
    """
    found, score = improve(queries, gallery, start, directions, RADIUS, PASSES)
    if not flat.any():
        return found, score
    pieces = quilt(queries, gallery, flat) if first else inside(gallery, start)
    found = pieces.where(flat, found)
    return found, scores(queries, gallery, found)
