"""The searcher `scan`: estimates of every patch of the index for every query, on a GPU where torch has one.

The estimates are those of the searcher `tree`, of all patches instead of those in the nearest leaves. No leaf is
chosen, and all shapes are regular. Only the largest estimate of each block of 64 patches is kept. The k patches with
the largest estimates lie in the k blocks with the largest maxima, since the best patches of those blocks are k that no
patch of another block exceeds. The products of these blocks are computed once more, and give the best few patches. Of
equal estimates the smaller row is taken; float32 products of two shapes may differ in which are equal. The best few are
read whole and scored canonically on the processor, as in any search.

Without a GPU the same code runs on torch's threads.

The device holds 128 float16 values, 256 bytes, of each patch while the searcher is open. A search for at most 64
matches takes about .3 GiB more, for any number of queries and patches. For 4,194,304 patches this is 1.0 GiB, .25 GiB
while blocks are compared, and .1 GiB for the second computation.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from kt_batch.config import SearchConfig
from kt_batch.errors import KtBatchError
from kt_batch.index.index import Index
from kt_batch.index.searchers.base import Found, SearchRequest
from kt_batch.index.searchers.candidates import Pairs, ascending, canonically_best, joined, scored
from kt_batch.index.searchers.estimates import prepare_estimates
from kt_batch.index.threads import parallel_map
from kt_batch.models.precision import quick_products

BLOCK = 64  # patches whose largest product is kept; more make the second computation longer
NOBODY = torch.finfo(torch.float16).min  # rest of a patch that pads the last block, so that its products are below -2
FEW = 16  # patches beyond k that a query reads whole; more hardly raise recall (decision 0015)
PORTION = 1024  # queries at a time
TILE = 8192  # patches multiplied at a time: 32 MiB of products, which fit the cache of a large GPU
STRETCH = 1 << 18  # patches whose blocks are compared at a time, for few calls and 32 MiB of keys
AGAIN = 1 << 24  # values multiplied again at a time: 96 MiB as float16 and as float32


def scan_device() -> str:
    """Return where the products are computed: `cuda`, or `cpu` where torch has no GPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class ScanSearcher:
    """Estimates all patches; has no probes. Its device holds their first levels from the first request on."""

    def __init__(self, index: Index, config: SearchConfig) -> None:  # noqa: ARG002 - nothing of it applies
        self._index = index
        self._device = scan_device() if index.device.type == "cpu" else index.device.type

    @cached_property
    def _level(self) -> Tensor:
        return level_of(self._index, self._device)

    def find(self, request: SearchRequest) -> Found:
        """Return the k canonically best of the FEW + k patches with the largest estimates, none certified.

        Raises:
            KtBatchError: The GPU has no room for the index.
        """
        index, k = self._index, request.k
        with parallel_map() as each, quick_products(index.device.type):
            level, prepared_queries = prepare_estimates(index, request.keys, each)
        try:
            pairs = best_estimates(self._level, level, min(FEW + k, index.count))
        except torch.OutOfMemoryError as error:
            size = index.count * level.shape[1] * 2 / 1e9
            raise KtBatchError(
                f"The GPU has no room for a search with 'scan', which holds {size:.1f} GB of this index there and "
                "takes .3 GB more; take another --searcher, or let fewer workers share the GPU."
            ) from error
        with parallel_map() as each:
            pairs = scored(index, prepared_queries, pairs, each)
            best = canonically_best(index, request.keys, pairs, k, each, request.with_values)
        certified = torch.zeros(len(best.rows), dtype=torch.bool, device=best.rows.device)
        return Found(best.rows, best.scores, certified, best.values)


def best_estimates(level: Tensor, queries: Tensor, count: int) -> Pairs:
    """Return the patches with the largest estimates for each query, of equal ones the smaller rows.

    Args:
        level: `(b, BLOCK, d + 1)` float16 from `level_of`, on any device.
        queries: `(n, d + 1)` float32 from `prepare_estimates`, on any device.
        count: Patches per query, at most the number of patches in the index.

    Returns:
        Pairs on the device of the queries.
    """
    found = []
    with quick_products(level.device.type):
        for number, part in enumerate(queries.split(PORTION)):
            some = part.to(level.device)
            blocks = _best_blocks(level, some, min(count, len(level)))
            rows, values = _best_rows(level, some, blocks, count)
            who = torch.arange(len(part), device=queries.device).repeat_interleave(count) + number * PORTION
            found.append(Pairs(who, *(each.to(queries.device).flatten() for each in (rows, values))))
    return joined(found)


def level_of(index: Index, device: str) -> Tensor:
    """Return the first levels `(b, BLOCK, d + 1)` float16 of all rows on `device`; the last block is padded."""
    blocks, width = -(-index.count // BLOCK), index.shards[0].level.shape[1]
    level = torch.zeros(blocks * BLOCK, width, dtype=torch.float16, device=device)
    for shard, start in zip(index.shards, index.shard_start.tolist(), strict=True):
        level[start : start + shard.count] = shard.level
    level[index.count :, -1] = NOBODY
    return level.view(blocks, BLOCK, width)


def _best_blocks(level: Tensor, queries: Tensor, count: int) -> Tensor:
    """Return the numbers `(q, count)` of the blocks with the largest products with queries `(q, d + 1)`."""
    best = torch.empty(len(queries), 0, dtype=torch.int64, device=level.device)
    done = 0
    for stretch in level.split(STRETCH // BLOCK):
        tiles = stretch.split(TILE // BLOCK)
        maxima = torch.cat([_products(queries, tile).amax(2) for tile in tiles], dim=1)
        numbers = torch.arange(done, done + len(stretch), device=level.device)
        best = torch.cat([best, _keys(maxima, numbers)], dim=1)
        best = best.topk(min(count, best.shape[1]), dim=1).values
        done += len(stretch)
    return -best & 0xFFFFFFFF


def _products(queries: Tensor, tile: Tensor) -> Tensor:
    """Return the float32 products `(q, t, BLOCK)` of queries `(q, d + 1)` with t blocks."""
    return (queries @ tile.flatten(0, 1).float().T).view(len(queries), len(tile), BLOCK)


def _keys(values: Tensor, numbers: Tensor) -> Tensor:
    """Return distinct integers in the order of float32 `values`; of equal values, the smaller number is larger.

    Numbers have 32 bits. torch.topk does not define which of equal values it takes.
    """
    return (ascending(values) << 32) - numbers


def _best_rows(level: Tensor, queries: Tensor, blocks: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return rows and products `(q, count)` of the largest products of queries `(q, d + 1)` in `blocks` `(q, b)`."""
    width = level.shape[2]
    patches = blocks.shape[1] * BLOCK
    together = max(1, AGAIN // (patches * width))
    place = torch.arange(BLOCK, device=level.device)
    rows, values = [], []
    for some, theirs in zip(queries.split(together), blocks.split(together), strict=True):
        kept = level.index_select(0, theirs.flatten()).float().view(len(some), patches, width)
        products = torch.bmm(kept, some.unsqueeze(2)).squeeze(2)
        numbers = (theirs.unsqueeze(2) * BLOCK + place).flatten(1)
        best = _keys(products, numbers).topk(count, dim=1).indices
        rows.append(numbers.gather(1, best))
        values.append(products.gather(1, best))
    return torch.cat(rows), torch.cat(values)
