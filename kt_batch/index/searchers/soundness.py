"""Whether an index supports a proof: every patch is as long, and its first level as large, as its payload says.

A certified search leaves out every patch whose bound is too small, and reads the payload of the others alone. A first
level that is too small therefore certifies a wrong match. Nothing else would notice: the shard's hash is that of the
false level if it was written false. The check computes the length and the rest of every patch from its payload, once
for an opened index. It costs one product with the directions a patch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kt_batch.errors import DamagedError
from kt_batch.index.index import Chunk, Index
from kt_batch.index.threads import parallel_map
from kt_batch.kernels.bounds import COORDINATES, DIRECTIONS, rounding_slack
from kt_batch.kernels.quantised import Codes, rest_lengths
from kt_batch.models.precision import quick_products

CHUNK = 2048  # patches checked together


def check_bounds(index: Index) -> None:
    """Raise DamagedError unless the bounds of a certified search hold for every patch of the index."""
    directions = index.tree.directions.double()
    error = directions.T @ directions - torch.eye(directions.shape[1], dtype=torch.float64, device=index.device)
    if not error.norm() <= DIRECTIONS:  # nor for NaN
        raise DamagedError(
            "No match can be certified: the directions of this index are not orthonormal; make the index again."
        )
    with parallel_map() as each, quick_products(index.device.type):
        wrong = sum(each(lambda chunk: _count_wrong(index, chunk), index.chunks(CHUNK)))
    if wrong:
        raise DamagedError(
            f"No match can be certified: {wrong:,} of {index.count:,} patches of this index have a first level or a "
            "norm that is not their own; make the index again."
        )


def _count_wrong(index: Index, chunk: Chunk) -> int:
    """Return the number of patches of a chunk that a bound might leave out wrongly, in float64 where float32 doubts."""
    rows = torch.arange(chunk.start, chunk.start + chunk.count, device=index.device)
    doubtful = rows[~_right(index, chunk.shard, rows, torch.float32)]
    return len(doubtful) - int(_right(index, chunk.shard, doubtful, torch.float64).sum())


def _right(index: Index, shard: int, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Tell of rows `(m,)` of a shard whether each is of length 1 or 0 and has its own first level; False for NaN."""
    slack = rounding_slack(4 * index.channels)
    error = slack / 8 if dtype == torch.float32 else 0.0  # of a squared rest, which must not come out too short
    level = index.shards[shard].level.index_select(0, rows).to(dtype)
    coordinates, stored_rest = level[:, :-1], level[:, -1]
    if index.shards[shard].bits:  # the stored coordinates are the patch's own
        codes = Codes(**index.shards[shard].payload).each(lambda tensor: tensor.index_select(0, rows))
        rest = (rest_lengths(codes, index.tree.basis, dtype).square() + error).sqrt()
        moved = torch.zeros_like(rest)
        length = (coordinates.square().sum(1) + rest.square()).sqrt()
    else:
        keys = index.keys(rows + index.shard_start[shard]).to(dtype)
        along = keys @ index.tree.directions.to(dtype)
        length = keys.square().sum(1).sqrt()
        rest = (length.square() - along.square().sum(1)).clamp(min=0).add(error).sqrt()
        moved = (along - coordinates).square().sum(1).sqrt()
    has_norm = index.shards[shard].norms.index_select(0, rows) > 0  # the key of a patch is zero where its norm is
    is_unit = torch.where(has_norm, (length - 1).abs() <= slack, length == 0)
    missing = moved + (rest - stored_rest).clamp(min=0)
    return is_unit & (missing <= COORDINATES + DIRECTIONS) & (stored_rest >= 0)
