"""Candidates of many queries at once: (query, row, score) pairs, their scores, and the best of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kt_batch.index.index import Index
from kt_batch.index.threads import Each, in_turn
from kt_batch.kernels.bounds import rounding_slack
from kt_batch.kernels.tiles import canonical_scores

RESCORED = 1024  # pairs whose canonical scores are computed at a time
CHUNK = 1024  # pairs whose patches are read at a time: more leave the core's cache, fewer make threads wait


@dataclass(frozen=True)
class Pairs:
    """m candidates: the query `who` and the `rows` of the index, both int64, and their scores; each `(m,)`.

    Scores are float32, or float64 where they are canonical.
    """

    who: Tensor
    rows: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.who)

    def at(self, where: Tensor) -> Pairs:
        """Those that an index or a mask selects."""
        return Pairs(self.who[where], self.rows[where], self.scores[where])


def joined(parts: list[Pairs]) -> Pairs:
    """All pairs of several lists."""
    none = torch.empty(0, dtype=torch.int64)
    parts = [Pairs(none, none, torch.empty(0)), *parts]
    return Pairs(*(torch.cat([getattr(part, name) for part in parts]) for name in ("who", "rows", "scores")))


def pairs_by_leaf(leaves: Tensor) -> Iterator[tuple[int, Tensor]]:
    """`(n, p)` leaf numbers -> for each leaf that occurs, ascending: the leaf and the queries `(m,)` that probe it."""
    if leaves.numel() == 0:
        return
    flat = leaves.flatten()
    order = torch.sort(flat, stable=True).indices
    found, counts = flat[order].unique_consecutive(return_counts=True)
    queries = (order // leaves.shape[1]).split(counts.tolist())
    yield from zip(found.tolist(), queries, strict=True)


def best_few(pairs: Pairs, count: int) -> Pairs:
    """Of each query at most `count` pairs with the largest scores, by query and descending score."""
    found = pairs.at(torch.sort(_keys(pairs), stable=True).indices)
    return found.at(_rank(found.who) < count)


def few_of_each(pairs: Pairs, count: int) -> Pairs:
    """As `best_few`, in no order."""
    counts = torch.bincount(pairs.who)
    crowded = (counts > count)[pairs.who]
    if not crowded.any():
        return pairs
    some = pairs.at(crowded)
    keys, counts = _keys(some), counts * (counts > count)
    ordered = torch.from_numpy(np.sort(keys.numpy()))  # several times faster than to sort the pairs
    last = ordered[(counts.cumsum(0) - counts + count - 1).clamp_(0, len(ordered) - 1)]
    some = some.at(keys <= last[some.who])  # with those that tie with the last
    return joined([pairs.at(~crowded), best_few(some, count)])


def _keys(pairs: Pairs) -> Tensor:
    """Integers `(m,)` in the order of query and descending score, which sort several times faster than floats."""
    return (pairs.who << 32) - ascending(pairs.scores)


def ascending(scores: Tensor) -> Tensor:
    """Integers of 32 bits, as int64, in the order of float32 scores of any shape; -0.0 and 0.0 are one."""
    bits = (scores + 0.0).view(torch.int32)  # 0.0 + -0.0 is 0.0
    return (bits ^ (bits >> 31 & 0x7FFFFFFF)).long()


def distinct(pairs: Pairs) -> Pairs:
    """Without the second and later pairs of the same query and row; by query and row."""
    rows = int(pairs.rows.max()) + 1 if len(pairs) else 1
    found = pairs.at(torch.sort(pairs.who * rows + pairs.rows, stable=True).indices)
    again = (found.who[1:] == found.who[:-1]) & (found.rows[1:] == found.rows[:-1])
    return found.at(torch.cat([again.new_zeros(min(1, len(found))), again]).logical_not())


def scored(index: Index, prepared_queries: Tensor, pairs: Pairs, each: Each = in_turn) -> Pairs:
    """The same pairs with the float32 score of the patches in full; asked `(n, a)` as `Index.asked` makes them."""
    scores = torch.empty(len(pairs))
    order = _by_row(pairs)

    def score(part: Tensor) -> None:
        scores[part] = index.products(prepared_queries.index_select(0, pairs.who[part]), pairs.rows[part])

    each(score, order.split(CHUNK))
    return Pairs(pairs.who, pairs.rows, scores)


def _by_row(pairs: Pairs) -> Tensor:
    """The order `(m,)` that has the pairs of a row together; which of these comes first is left open."""
    return torch.from_numpy(np.argsort(pairs.rows.numpy()))  # several times faster than torch.sort


def kth_best(pairs: Pairs, queries: int, k: int) -> Tensor:
    """The k-th largest score of each query's pairs, `(queries,)`; -inf where it has fewer."""
    out = torch.full((queries,), -torch.inf)
    if k == 1:
        return out.scatter_reduce_(0, pairs.who, pairs.scores, "amax")
    found = best_few(pairs, k)
    last = found.at(_rank(found.who) == k - 1)
    out[last.who] = last.scores
    return out


def canonically_best(
    index: Index, vectors: Tensor, pairs: Pairs, k: int, each: Each = in_turn
) -> tuple[Tensor, Tensor]:
    """Return the k best candidates of each query by canonical score.

    Args:
        index: The index that the candidates are rows of.
        vectors: Keys of the queries, `(n, D)` float32.
        pairs: Distinct candidates with their float32 scores.
        k: Candidates to keep of each query.
        each: Maps the work over threads.

    Returns:
        Rows `(n, k)` int64 and canonical scores `(n, k)` float64, best first, ties to the smaller patch id; -1 and -inf
        where a query has fewer candidates.
    """
    n = len(vectors)
    worst = kth_best(pairs, n, k) - 2 * rounding_slack(vectors.shape[1])
    left = pairs.at(pairs.scores >= worst[pairs.who])
    scores = torch.empty(len(left), dtype=torch.float64)

    def score(part: Tensor) -> None:
        rows, which = left.rows[part].unique_consecutive(return_inverse=True)
        keys = index.match_vectors(rows).index_select(0, which)
        scores[part] = canonical_scores(vectors.index_select(0, left.who[part]), keys)

    each(score, _by_row(left).split(RESCORED))
    return best_by_score(index, Pairs(left.who, left.rows, scores), n, k)


def best_by_score(index: Index, pairs: Pairs, n: int, k: int) -> tuple[Tensor, Tensor]:
    """Return the k best candidates of each of n queries: the order in which matches are ranked everywhere.

    A larger score is better; of equal scores, the smaller patch id. Scores are compared as they are.

    Returns:
        Rows `(n, k)` int64 and scores `(n, k)` float64; -1 and -inf where a query has fewer candidates.
    """
    ids = np.ascontiguousarray(index.patch_ids(pairs.rows)).view("S12")[:, 0]
    order = torch.from_numpy(np.lexsort((ids, -pairs.scores.numpy(), pairs.who.numpy())))
    ranked = pairs.at(order)
    rank = _rank(ranked.who)
    best = rank < k
    rows = torch.full((n, k), -1, dtype=torch.int64)
    scores = torch.full((n, k), -torch.inf, dtype=torch.float64)
    rows[ranked.who[best], rank[best]] = ranked.rows[best]
    scores[ranked.who[best], rank[best]] = ranked.scores[best].double()
    return rows, scores


def _rank(who: Tensor) -> Tensor:
    """The place of each pair among its query's, 0 first; `who` ascends."""
    return torch.arange(len(who)) - torch.searchsorted(who, who)
