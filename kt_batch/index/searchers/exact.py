"""Exact search: every patch of the index is compared with every query."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from kt_batch.config import SearchConfig
from kt_batch.index.index import Index
from kt_batch.index.searchers.base import Found, SearchRequest
from kt_batch.index.searchers.pool import CandidatePool, best_by_score, tiled_products
from kt_batch.kernels.tiles import canonical_scores, pad_rows
from kt_batch.models.precision import quick_products

PAIRS = 65536  # re-scored at a time

# Queries `(m,)` -> what they are compared with: queries `(j,)` among them, unit vectors `(p, D)` padded, rows `(c,)`.
_Offers = Callable[[Tensor], Iterator[tuple[Tensor, Tensor, Tensor]]]


class ExactSearcher:
    """Compares every patch; has no probes."""

    def __init__(self, index: Index, config: SearchConfig) -> None:  # noqa: ARG002 - nothing of it applies
        self._index = index

    def find(self, request: SearchRequest) -> Found:
        """Return the k best of the whole index, certified."""

        def offers(who: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            for x, rows in _all_patches(self._index):
                for some in who.split(1024):
                    yield some, x, rows

        rows, scores = _canonically_best(self._index, request.keys, request.k, offers)
        return Found(rows, scores, torch.ones(len(request.keys), dtype=torch.bool))


def _all_patches(index: Index) -> Iterator[tuple[Tensor, Tensor]]:
    """Unit match vectors of 1024 patches at a time, padded to `(1024, D)`, and the rows `(c,)` of these c patches."""
    for rows in torch.arange(index.count).split(1024):
        yield pad_rows(index.match_vectors(rows), 1024), rows


def _canonically_best(index: Index, queries: Tensor, k: int, offers: _Offers) -> tuple[Tensor, Tensor]:
    """Of all that is offered to a query the k best `(n, k)` by canonical score, ties to the smaller id; and the scores.

    Float32 products leave a few candidates per query, canonical scores decide among them. A query with more candidates
    than its pool holds (patches that differ in brightness alone) is offered everything again.
    """
    pool = CandidatePool(len(queries), k, queries.shape[1])
    for who, x, rows in offers(torch.arange(len(queries))):
        with quick_products():
            products = tiled_products(queries, who, x)
        pool.offer(who, products[:, : len(rows)], rows)
    best, scores = _rescore(index, queries, pool)
    crowded = pool.crowded()
    if len(crowded):
        distinct, which = queries[crowded].unique(dim=0, return_inverse=True)
        one_each = torch.empty(len(distinct), dtype=torch.int64)
        one_each[which] = crowded
        settled = _settle(index, queries, pool, one_each, offers)
        best[crowded], scores[crowded] = settled[0][which], settled[1][which]
    return best, scores


def _settle(index: Index, queries: Tensor, pool: CandidatePool, who: Tensor, offers: _Offers) -> tuple[Tensor, Tensor]:
    """As `_canonically_best` for the queries `who` `(m,)`, of every patch that rounding cannot rule out; `(m, k)`."""
    best = torch.full((len(who), pool.k), -1, dtype=torch.int64)
    scores = torch.full((len(who), pool.k), -torch.inf, dtype=torch.float64)
    place = torch.empty(len(queries), dtype=torch.int64)
    place[who] = torch.arange(len(who))
    for some, x, rows in offers(who):
        with quick_products():
            products = tiled_products(queries, some, x)
        possible = products[:, : len(rows)] >= pool.threshold(some)[:, None]
        columns = possible.any(0).nonzero()[:, 0]
        found = torch.full((len(some), len(columns)), -torch.inf, dtype=torch.float64)
        for pairs in possible[:, columns].nonzero().split(PAIRS):
            query, column = pairs.unbind(1)
            found[query, column] = canonical_scores(queries[some[query]], x[columns[column]])
        at = place[some]
        best[at], scores[at] = best_by_score(
            index,
            torch.cat([best[at], rows[columns].expand(len(some), -1)], dim=1),
            torch.cat([scores[at], found], dim=1),
            pool.k,
        )
    return best, scores


def _rescore(index: Index, queries: Tensor, pool: CandidatePool) -> tuple[Tensor, Tensor]:
    """Canonical scores of the candidates that can still be among the k best; those k, ties to the smaller id."""
    n, size = pool.rows.shape
    everyone = torch.arange(n)
    possible = (pool.rows >= 0) & (pool.scores >= pool.threshold(everyone)[:, None])
    flat = pool.rows.flatten()
    scores = torch.full((n * size,), -torch.inf, dtype=torch.float64)
    for part in possible.flatten().nonzero()[:, 0].split(PAIRS):
        scores[part] = canonical_scores(queries[part // size], index.match_vectors(flat[part]))
    return best_by_score(index, pool.rows, scores.view(n, size), pool.k)
