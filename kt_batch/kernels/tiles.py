"""Products of fixed shape.

The last bits of a float32 product depend on the shape of the operands, not on where in them a row stands. Cutting all
work into tiles of one shape, the last one padded with zeros, makes each score a function of its query and its patch
alone: the same for any batch, unit or worker.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 256  # rows of a block: a small photograph has few queries, and pays for a block whole
LARGE = 1024  # rows of a block where an index is clustered and coded: there are always many


def pad_rows(x: Tensor, multiple: int) -> Tensor:
    """`(n, D)` -> `(m, D)` with m the next multiple; the added rows are zero."""
    missing = -x.shape[0] % multiple
    if missing == 0:
        return x
    return torch.cat([x, x.new_zeros(missing, *x.shape[1:])])


def blocks(x: Tensor, rows: int = BLOCK) -> Iterator[tuple[int, int, Tensor]]:
    """Cut `(n, D)` into `(start, count, block)`, every block of exactly `rows` rows."""
    for start in range(0, x.shape[0], rows):
        part = x[start : start + rows]
        yield start, part.shape[0], pad_rows(part, rows)


def canonical_scores(queries: Tensor, candidates: Tensor) -> Tensor:
    """The score that decides: <q, x> summed over D in float64, in blocks of fixed shape.

    queries, candidates: `(m, D)` float32, unit vectors (or zero). Returns `(m,)` float64.
    """
    out = torch.empty(queries.shape[0], dtype=torch.float64, device=queries.device)
    for (start, count, q), (_, _, x) in zip(blocks(queries), blocks(candidates), strict=True):
        out[start : start + count] = (q.double() * x.double()).sum(1)[:count]
    return out


def row_norms(x: Tensor) -> Tensor:
    """|x| of each row of `(n, D)`, summed in float64 in blocks of fixed shape; `(n,)` float32."""
    found = [block.double().square().sum(1).sqrt()[:count].float() for _, count, block in blocks(x)]
    return torch.cat(found) if found else x.new_zeros(0, dtype=torch.float32)


def divide_rows(x: Tensor, norms: Tensor) -> Tensor:
    """Each row of `(n, D)` by its norm `(n,)`, float32; a zero row, of norm 0, stays zero.

    Divided and not multiplied by the reciprocal, which float32 cannot hold for the smallest norms.
    """
    return x / torch.where(norms > 0, norms, torch.ones_like(norms))[:, None]


def normalise(x: Tensor) -> Tensor:
    """`(n, D)` -> rows of length 1, float32. A zero row stays zero, so its NCC is 0."""
    return divide_rows(x.float(), row_norms(x))
