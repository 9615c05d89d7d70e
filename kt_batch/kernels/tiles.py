"""Products of fixed shape.

The last bits of a float32 product depend on the shape of the operands, and not on the place of a row in them. All work
is therefore cut into blocks of one shape, the last one padded with zeros. Each score is then a function of its query
and its patch alone, and the same for any batch, unit or worker.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 256  # rows; a small photograph has few queries, and computes a whole block for them
LARGE = 1024  # rows, where an index is clustered and coded, which always has many


def pad_rows(x: Tensor, multiple: int) -> Tensor:
    """Pad `(n, ...)` with zero rows to the next multiple of rows."""
    missing = -x.shape[0] % multiple
    if missing == 0:
        return x
    return torch.cat([x, x.new_zeros(missing, *x.shape[1:])])


def blocks(x: Tensor, rows: int = BLOCK) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (start, count, block) of `(n, D)`; every block has `rows` rows, the last one zeros after `count`."""
    for start in range(0, x.shape[0], rows):
        part = x[start : start + rows]
        yield start, part.shape[0], pad_rows(part, rows)


def canonical_scores(queries: Tensor, candidates: Tensor) -> Tensor:
    """Return the scores that decide, pair by pair: <q, x> summed in float64, in blocks of fixed shape.

    Args:
        queries: Unit or zero vectors `(m, D)` float32.
        candidates: Unit or zero vectors `(m, D)` float32.

    Returns:
        `(m,)` float64.
    """
    out = torch.empty(queries.shape[0], dtype=torch.float64, device=queries.device)
    for (start, count, q), (_, _, x) in zip(blocks(queries), blocks(candidates), strict=True):
        out[start : start + count] = (q.double() * x.double()).sum(1)[:count]
    return out


def row_norms(x: Tensor) -> Tensor:
    """Return the norms `(n,)` float32 of rows `(n, D)`, summed in float64 in blocks of fixed shape."""
    norms = [block.double().square().sum(1).sqrt()[:count].float() for _, count, block in blocks(x)]
    return torch.cat(norms) if norms else x.new_zeros(0, dtype=torch.float32)


def divide_rows(x: Tensor, norms: Tensor) -> Tensor:
    """Divide each row of `(n, D)` by its norm `(n,)`, float32; a row of norm 0 stays zero.

    A multiplication by the reciprocal would overflow float32 for the smallest norms.
    """
    return x / torch.where(norms > 0, norms, torch.ones_like(norms))[:, None]


def normalise(x: Tensor) -> Tensor:
    """Scale the rows of `(n, D)` to length 1, float32. A zero row stays zero, and its NCC is 0."""
    return divide_rows(x.float(), row_norms(x))
