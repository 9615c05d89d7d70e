"""Exact search: every patch of the index is compared with every query."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kt_batch.config import SearchConfig
from kt_batch.index.index import Index
from kt_batch.index.searchers.base import Found, SearchRequest
from kt_batch.index.searchers.candidates import Best, Pairs, best_by_score, canonically_best, joined
from kt_batch.index.searchers.pool import CandidatePool, tiled_products
from kt_batch.index.threads import parallel_map
from kt_batch.kernels.tiles import canonical_scores, pad_rows
from kt_batch.models.precision import quick_products

BLOCK = 1024  # patches compared at a time, and queries they are compared with
RESCORED = 65536  # pairs whose canonical scores are computed at a time


class ExactSearcher:
    """Compares every patch; has no probes.

    Float32 products leave a few candidates per query; canonical scores decide among them. A query with more candidates
    than its pool holds, such as patches that differ in brightness alone, is compared with every patch again.
    """

    def __init__(self, index: Index, config: SearchConfig) -> None:  # noqa: ARG002 - nothing of it applies
        self._index = index

    def find(self, request: SearchRequest) -> Found:
        """Return the k best of the whole index, certified."""
        index, keys, k = self._index, request.keys, request.k
        pool = CandidatePool(keys, k)
        for who, patches, rows in _comparisons(index, torch.arange(len(keys), device=keys.device)):
            pool.offer(who, _products(keys, who, patches, rows), rows)
        with parallel_map() as each:
            best = canonically_best(index, keys, pool.pairs(), k, each, request.with_values)
        crowded = pool.crowded()
        if len(crowded):
            distinct, which = keys[crowded].unique(dim=0, return_inverse=True)
            one_of_each = torch.empty(len(distinct), dtype=torch.int64, device=keys.device)
            one_of_each[which] = crowded
            again = _search_crowded(index, keys, pool, one_of_each)
            best.rows[crowded], best.scores[crowded] = again.rows[which], again.scores[which]
        values = None if len(crowded) else best.values
        certified = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
        return Found(best.rows, best.scores, certified, values)


def _comparisons(index: Index, who: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield some of the queries `who`, keys of a block of patches `(BLOCK, D)` and their rows `(c,)`, for all pairs.

    The last block is padded with zeros: its c rows are fewer.
    """
    for rows in torch.arange(index.count, device=who.device).split(BLOCK):
        keys = pad_rows(index.keys(rows), BLOCK)
        for some in who.split(BLOCK):
            yield some, keys, rows


def _products(queries: Tensor, who: Tensor, patches: Tensor, rows: Tensor) -> Tensor:
    """Return the float32 scores `(m, c)` of the queries `who` `(m,)` with the patches of `rows` `(c,)`."""
    with quick_products(queries.device.type):
        return tiled_products(queries, who, patches)[:, : len(rows)]


def _search_crowded(index: Index, queries: Tensor, pool: CandidatePool, who: Tensor) -> Best:
    """Return the k best of all patches by canonical score, for the queries `who` `(m,)`."""
    place = torch.empty(len(queries), dtype=torch.int64, device=who.device)
    place[who] = torch.arange(len(who), device=who.device)
    rows = torch.full((len(who), pool.k), -1, dtype=torch.int64, device=who.device)
    scores = torch.full((len(who), pool.k), -torch.inf, dtype=torch.float64, device=who.device)
    for some, patches, block_rows in _comparisons(index, who):
        products = _products(queries, some, patches, block_rows)
        query, column = (products >= pool.threshold(some)[:, None]).nonzero().unbind(1)
        fresh = torch.empty(len(query), dtype=torch.float64, device=who.device)
        for part in torch.arange(len(query), device=who.device).split(RESCORED):
            fresh[part] = canonical_scores(queries[some[query[part]]], patches[column[part]])
        at = place[some]
        number, rank = (rows[at] >= 0).nonzero().unbind(1)
        known = Pairs(number, rows[at][number, rank], scores[at][number, rank])
        both = joined([known, Pairs(query, block_rows[column], fresh)])
        best = best_by_score(index, both, len(some), pool.k)
        rows[at], scores[at] = best.rows, best.scores
    return Best(rows, scores)
