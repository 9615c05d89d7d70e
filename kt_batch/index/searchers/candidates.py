"""Candidates of many queries at once: (query, row) pairs, their scores, and the best of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.index.index import Index
from kt_batch.index.ordering import ascending_order, order_by, sorted_values
from kt_batch.index.threads import Each, in_turn
from kt_batch.kernels.bounds import rounding_slack
from kt_batch.kernels.tiles import canonical_scores

RESCORED = 1024  # pairs whose canonical scores are computed at a time
CHUNK = 1024  # pairs whose patches are read at a time; more exceed a core's cache, fewer make threads wait


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
        """Return the pairs that indices or a mask select."""
        return Pairs(self.who[where], self.rows[where], self.scores[where])


@dataclass(frozen=True)
class Best:
    """The best candidates of n queries.

    rows: `(n, k)` int64, best first; -1 where a query has fewer candidates.
    scores: `(n, k)` float64; -inf where a query has fewer candidates.
    values: raw patches `(n, k, 4, C)` float32, if they were requested.
    """

    rows: Tensor
    scores: Tensor
    values: Tensor | None = None


def joined(parts: list[Pairs], device: torch.device | str = "cpu") -> Pairs:
    """Return all pairs of several lists, on their device; none, on `device`, of no lists."""
    device = parts[0].who.device if parts else device
    none = torch.empty(0, dtype=torch.int64, device=device)
    parts = [Pairs(none, none, torch.empty(0, device=device)), *parts]
    return Pairs(*(torch.cat([getattr(part, name) for part in parts]) for name in ("who", "rows", "scores")))


def pairs_by_leaf(leaves: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield each leaf in `leaves` `(n, p)`, ascending, with the queries `(m,)` that probe it."""
    if leaves.numel() == 0:
        return
    flat = leaves.flatten()
    order = torch.sort(flat, stable=True).indices
    probed, counts = flat[order].unique_consecutive(return_counts=True)
    queries = (order // leaves.shape[1]).split(counts.tolist())
    yield from zip(probed.tolist(), queries, strict=True)


def best_few(pairs: Pairs, count: int) -> Pairs:
    """Return at most `count` pairs of each query, those with the largest scores, by query and descending score."""
    ranked = pairs.at(torch.sort(_keys(pairs), stable=True).indices)
    return ranked.at(_rank(ranked.who) < count)


def few_of_each(pairs: Pairs, count: int) -> Pairs:
    """Return at most `count` pairs of each query, in any order: those with the largest scores.

    Of equal scores, the pairs of the smaller rows are returned.
    """
    counts = torch.bincount(pairs.who)
    crowded = (counts > count)[pairs.who]
    if not crowded.any():
        return pairs
    some = pairs.at(crowded)
    keys, counts = _keys(some), counts * (counts > count)
    ordered = sorted_values(keys)  # several times faster than sorting the pairs
    last = ordered[(counts.cumsum(0) - counts + count - 1).clamp_(0, len(ordered) - 1)]
    last = last[some.who]
    better, tied = some.at(keys < last), some.at(keys == last)
    room = count - torch.bincount(better.who, minlength=len(counts))
    tied = tied.at(order_by(tied.who, tied.rows))
    return joined([pairs.at(~crowded), better, tied.at(_rank(tied.who) < room[tied.who])])


def _keys(pairs: Pairs) -> Tensor:
    """Return integers `(m,)` that order pairs by query and descending score, and sort faster than floats."""
    return (pairs.who << 32) - ascending(pairs.scores)


def ascending(scores: Tensor) -> Tensor:
    """Return 32-bit integers, as int64, in the order of float32 scores of any shape; -0.0 equals 0.0."""
    bits = (scores + 0.0).view(torch.int32)  # 0.0 + -0.0 is 0.0
    return (bits ^ (bits >> 31 & 0x7FFFFFFF)).long()


def distinct(pairs: Pairs) -> Pairs:
    """Return the first pair of each query and row, by query and row."""
    rows = int(pairs.rows.max()) + 1 if len(pairs) else 1
    ordered = pairs.at(torch.sort(pairs.who * rows + pairs.rows, stable=True).indices)
    again = (ordered.who[1:] == ordered.who[:-1]) & (ordered.rows[1:] == ordered.rows[:-1])
    return ordered.at(torch.cat([again.new_zeros(min(1, len(ordered))), again]).logical_not())


def scored(index: Index, prepared_queries: Tensor, pairs: Pairs, each: Each = in_turn) -> Pairs:
    """Return the pairs with the float32 scores of whole patches, for queries `(n, a)` of `Index.prepare_queries`."""
    scores = torch.empty(len(pairs), device=pairs.scores.device)
    order = ascending_order(pairs.rows)

    def score(part: Tensor) -> None:
        scores[part] = index.products(prepared_queries.index_select(0, pairs.who[part]), pairs.rows[part])

    each(score, order.split(CHUNK))
    return Pairs(pairs.who, pairs.rows, scores)


def kth_best(pairs: Pairs, queries: int, k: int) -> Tensor:
    """Return the k-th largest score of each query, `(queries,)`; -inf where a query has fewer pairs."""
    out = torch.full((queries,), -torch.inf, device=pairs.scores.device)
    if k == 1:
        return out.scatter_reduce_(0, pairs.who, pairs.scores, "amax")
    best = best_few(pairs, k)
    last = best.at(_rank(best.who) == k - 1)
    out[last.who] = last.scores
    return out


def canonically_best(
    index: Index, vectors: Tensor, pairs: Pairs, k: int, each: Each = in_turn, with_values: bool = False
) -> Best:
    """Return the k best candidates of each query by canonical score, ties to the smaller patch id.

    Args:
        index: The index that the candidates are rows of.
        vectors: Keys of the queries, `(n, D)` float32.
        pairs: Distinct candidates with their float32 scores.
        k: Candidates to keep of each query.
        each: Maps the work over threads.
        with_values: Return the raw patches too. Each is made of the key that is decoded for its score.
    """
    n = len(vectors)
    worst = kth_best(pairs, n, k) - 2 * rounding_slack(vectors.shape[1])
    left = pairs.at(pairs.scores >= worst[pairs.who])
    scores = torch.empty(len(left), dtype=torch.float64, device=vectors.device)
    slots = _likely_slots(left, k) if with_values else None
    values = torch.empty(n * k if with_values else 0, 4, index.channels, device=vectors.device)

    def score(part: Tensor) -> None:
        rows, which = left.rows[part].unique_consecutive(return_inverse=True)
        if slots is None:
            keys = index.keys(rows)
        else:
            keys, patches = index.keys_and_values(rows)
            likely = slots[part] >= 0
            values[slots[part[likely]]] = patches.index_select(0, which[likely])
        keys = keys.index_select(0, which)
        scores[part] = canonical_scores(vectors.index_select(0, left.who[part]), keys)

    each(score, ascending_order(left.rows).split(RESCORED))
    left = Pairs(left.who, left.rows, scores)
    numbers = _ranked(index, left, n, k)
    best = picked(left, numbers)
    if slots is None:
        return best
    _put_in_place(index, values, slots, numbers, best.rows, each)
    return Best(best.rows, best.scores, values.view(n, k, 4, index.channels))


def _likely_slots(pairs: Pairs, k: int) -> Tensor:
    """Return the places `(m,)` in `(n * k)` matches that candidates have by float32 score; -1 beyond the k first."""
    order = torch.sort(_keys(pairs), stable=True).indices
    rank = _rank(pairs.who[order])
    return torch.empty_like(order).index_copy_(0, order, torch.where(rank < k, pairs.who[order] * k + rank, -1))


def _put_in_place(index: Index, values: Tensor, slots: Tensor, numbers: Tensor, rows: Tensor, each: Each) -> None:
    """Move `values` `(n * k, 4, C)` from their likely slots to the matches that canonical scores chose.

    slots: `(m,)` of the candidates. numbers, rows: `(n, k)` candidate and row of each match, -1 where there is none.
    """
    numbers, rows = numbers.flatten(), rows.flatten()
    places = torch.arange(len(numbers), device=numbers.device)
    there = numbers >= 0
    slots = places.masked_scatter(there, slots[numbers[there]])
    moved = ((slots != places) & (slots >= 0)).nonzero()[:, 0]
    values[moved] = values[slots[moved]]
    absent = (slots < 0).nonzero()[:, 0]
    if len(absent):
        values[absent] = read_values(index, rows[absent], each)


def read_values(index: Index, rows: Tensor, each: Each = in_turn) -> Tensor:
    """Return the raw patches `(..., 4, C)` float32 of rows `(...)`, of any shape."""
    flat = rows.flatten()
    values = torch.empty(len(flat), 4, index.channels, device=rows.device)

    def read(part: Tensor) -> None:
        distinct_rows, which = flat[part].unique_consecutive(return_inverse=True)
        values[part] = index.values(distinct_rows).index_select(0, which)

    each(read, torch.sort(flat, stable=True).indices.split(RESCORED))
    return values.view(*rows.shape, 4, index.channels)


def best_by_score(index: Index, pairs: Pairs, n: int, k: int) -> Best:
    """Return the k best candidates of each of n queries by the scores they have, ties to the smaller patch id."""
    return picked(pairs, _ranked(index, pairs, n, k))


def _ranked(index: Index, pairs: Pairs, n: int, k: int) -> Tensor:
    """Return the numbers `(n, k)` of the best candidates of each query; -1 where a query has fewer.

    This is the order of matches everywhere: the larger score first, of equal scores the smaller patch id.
    """
    return ranked(index.patch_ids(pairs.rows), pairs, n, k)


def ranked(patch_ids: NDArray[np.uint8], pairs: Pairs, n: int, k: int) -> Tensor:
    """As `_ranked`, for candidates with `patch_ids` `(m, 12)`."""
    ids = np.ascontiguousarray(patch_ids).view("S12")[:, 0]
    best_first = np.lexsort((ids, -pairs.scores.cpu().numpy(), pairs.who.cpu().numpy()))
    order = torch.from_numpy(best_first).to(pairs.who.device)
    who = pairs.who[order]
    rank = _rank(who)
    first = rank < k
    numbers = torch.full((n, k), -1, dtype=torch.int64, device=who.device)
    numbers[who[first], rank[first]] = order[first]
    return numbers


def picked(pairs: Pairs, numbers: Tensor) -> Best:
    """Return the candidates that have `numbers` `(n, k)`; -1 is none."""
    rows = torch.full(numbers.shape, -1, dtype=torch.int64, device=numbers.device)
    scores = torch.full(numbers.shape, -torch.inf, dtype=torch.float64, device=numbers.device)
    there = numbers >= 0
    rows[there] = pairs.rows[numbers[there]]
    scores[there] = pairs.scores[numbers[there]].double()
    return Best(rows, scores)


def _rank(who: Tensor) -> Tensor:
    """Return the place of each pair among the pairs of its query, from 0; `who` ascends."""
    return torch.arange(len(who), device=who.device) - torch.searchsorted(who, who)
