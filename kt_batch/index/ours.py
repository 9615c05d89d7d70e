"""The default searcher: the first level of what is probed, then the few patches it leaves, then canonical scores.

The first level is a product in principal coordinates with the length of the rest as one more (kernels.principal): 128
values for each patch instead of D. In fast mode it is an estimate. The patches of the nearest leaves with the largest
ones are read in full; then, of the next nearest leaves, those are looked into that reach as far as what is to beat by
then. A certified search reads the product as the upper bound it is, for every patch of the index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kt_batch.index.candidates import Pairs, canonically_best, distinct, few_of_each, joined, kth_best, scored
from kt_batch.index.index import Index
from kt_batch.index.threads import Each, shared_out
from kt_batch.index.visits import Products, grouped, products_of
from kt_batch.kernels.bounds import first_level_slack, rounding_slack
from kt_batch.kernels.principal import first_level, halved

FIRST_ROUND = 16  # leaves that every query looks into; a second round is worth it for twice as many probes
PROMISING = 4  # leaves of the first round: the best patch of the last of them says what is worth reading
AND_MORE = 2  # such leaves where a second round comes, whose work depends on how good a match is known by then
REACH = 4.0  # standard deviations from a leaf's mean product to what its best patch is taken to reach
CROWD = 24  # patches of one leaf that may reach what is to beat before the smaller ones are dropped
REST_SHARE = 0.6  # of the product of the rests: what a patch is expected to gain at most, in fast mode
FEW = 10  # patches read in full for a query in the first round, beyond top_k; in a second round twice as many
READY = 1024  # queries that a thread makes ready at a time
CHOOSING = 256  # and chooses leaves for
KEPT = 1 << 26  # products of the first round that are in memory at a time, where several queries are
PRODUCTS = 1 << 23  # of a certified search at a time: a leaf may hold any number of patches that cannot be split
BLOCK = 1024  # queries that meet a leaf at a time there
PENDING = 1 << 18  # pairs that wait for their canonical score there

_Found = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Queries:
    """n queries: unit vectors `(n, D)`, their first level `(n, d + 1)` with the rest scaled to an estimate, what
    `Index.products` takes `(n, a)`, and the leaves they may look into with what these reach (`nearest_leaves`)."""

    vectors: Tensor
    level: Tensor
    asked: Tensor
    leaves: Tensor
    reach: Tensor

    def at(self, part: slice) -> _Queries:
        """Some of them."""
        return _Queries(*(getattr(self, name)[part] for name in self.__dataclass_fields__))


def search_fast(index: Index, vectors: Tensor, k: int, probes: int) -> _Found:
    """The k best of at most the `probes` nearest leaves, as far as estimates find them: rows and canonical scores
    `(n, k)`.

    vectors: `(n, D)` unit queries in match space. The leaves must hold k patches.
    """
    always = max(FIRST_ROUND, index.leaves_holding(k)) if probes >= 2 * FIRST_ROUND else probes

    def ready(some: Tensor) -> tuple[Tensor, ...]:
        level = first_level(some, index.tree.directions)
        level[:, -1] *= REST_SHARE
        return some, level, index.asked(some), *nearest_leaves(index, level, probes)

    with shared_out() as each:
        parts = each(ready, vectors.split(READY))
        queries = _Queries(*(torch.cat(part) for part in zip(*parts, strict=True)))
        products = index.window_width[queries.leaves[:, :always]].sum(1)
        found = [_fast(index, queries.at(part), k, always, each) for part in _portions(products, KEPT)]
    return torch.cat([rows for rows, _ in found]), torch.cat([scores for _, scores in found])


def _portions(costs: Tensor, most: int) -> Iterator[slice]:
    """Slices of consecutive items of costs `(n,)` that cost no more than `most` together, or are one item."""
    ends = costs.cumsum(0)
    start = 0
    while start < len(costs) or start == 0:
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(ends, before + most, right=True)))
        yield slice(start, stop)
        start = stop


def search_certified(index: Index, vectors: Tensor, k: int, probes: int) -> _Found:
    """The k best patches of the whole index: rows and canonical scores `(n, k)`.

    `probes` is where it begins: the better the first matches, the fewer patches are read in full.
    """
    rows, scores = search_fast(index, vectors, k, probes)
    lit = vectors.any(1)
    if not lit.all():  # a zero vector ties with every patch: no bound rules out any, and the smallest ids win
        rows[~lit] = index.smallest_ids(k)
    some, begin, known = vectors[lit], rows[lit], scores[lit]
    level = first_level(some, index.tree.directions)
    share = max(1, -(-len(some) // torch.get_num_threads()))
    with shared_out() as each:
        parts = each(
            lambda part: _certify(index, some[part], level[part], begin[part], known[part]),
            [slice(start, start + share) for start in range(0, len(some), share)],
        )
    rows[lit], scores[lit] = (torch.cat(found) for found in zip(*parts, strict=True)) if parts else (begin, known)
    return rows, scores


def _fast(index: Index, queries: _Queries, k: int, always: int, each: Each) -> _Found:
    n, probes = queries.leaves.shape
    fresh = _first_round(index, queries, k, always, each)
    known = scored(index, queries.asked, few_of_each(fresh, FEW + k), each)
    if always < probes:
        to_beat = kth_best(known, n, k)
        fresh = _second_round(index, queries, to_beat, k, always, each)
        known = joined([known, scored(index, queries.asked, few_of_each(fresh, 2 * FEW + k), each)])
    return canonically_best(index, queries.vectors, known, k, each)


def _first_round(index: Index, queries: _Queries, k: int, always: int, each: Each) -> Pairs:
    """The patches of the `always` nearest leaves with the largest estimates."""
    n = len(queries.leaves)
    leaves = queries.leaves[:, :always].flatten()
    who = torch.arange(n).repeat_interleave(always)
    looked = each(lambda group: products_of(index, queries.level, who, group), grouped(index, leaves))
    best = torch.full((n * always,), -torch.inf)
    for products in looked:
        best.scatter_reduce_(0, products.visits, products.best, "amax")
    promising = PROMISING + k - 1 + AND_MORE * (always < queries.leaves.shape[1])
    if promising <= always:
        to_beat = best.view(n, always).topk(promising, dim=1).values[:, -1]
    else:
        to_beat = torch.full((n,), -torch.inf)
    return joined(each(lambda products: _survivors(products, to_beat, CROWD + k), looked))


def _second_round(index: Index, queries: _Queries, to_beat: Tensor, k: int, always: int, each: Each) -> Pairs:
    """The patches of the other leaves whose estimates reach `to_beat` `(n,)`, of those leaves that do."""
    who, column = (queries.reach[:, always:] >= to_beat[:, None]).nonzero().unbind(1)
    leaves = queries.leaves[who, column + always]
    to_beat = to_beat - 2 * rounding_slack(4 * index.channels)
    return joined(
        each(
            lambda group: _survivors(products_of(index, queries.level, who, group), to_beat, CROWD + k),
            grouped(index, leaves),
        )
    )


def nearest_leaves(index: Index, level: Tensor, probes: int) -> tuple[Tensor, Tensor]:
    """The `probes` leaves with the nearest means `(n, probes)`, best first, for the first level `(n, d + 1)` of n
    queries; and what the estimate of the best patch of each may reach, as if a leaf's were normal: `(n, probes)`, or
    `(n, 0)` for so few probes that one round takes them all."""
    two_rounds = probes >= 2 * FIRST_ROUND
    means, variances = index.leaf_means[:, :-1], index.leaf_variances
    lengths, rests = means.norm(dim=1).clamp(min=1e-12), index.leaf_means[:, -1]
    directions = (means / lengths[:, None]).T
    leaves, reach = [], []
    for part in level.split(CHOOSING):
        cosines = part[:, :-1] @ directions
        if probes < index.tree.leaves:  # several times faster than topk of so many
            some = torch.from_numpy(np.argpartition(cosines.numpy(), -probes, axis=1)[:, -probes:].copy())
        else:
            some = torch.arange(probes).expand(len(part), -1)
        cosines, order = cosines.gather(1, some).sort(dim=1, descending=True, stable=True)
        some = some.gather(1, order)
        leaves.append(some)
        if two_rounds:
            spread = (part[:, : variances.shape[1]].square() @ variances.T).gather(1, some).sqrt_()
            reach.append(cosines * lengths[some] + part[:, -1:] * rests[some] + REACH * spread)
        else:
            reach.append(part[:, :0])
    return torch.cat(leaves), torch.cat(reach)


def _survivors(products: Products, to_beat: Tensor, at_most: int) -> Pairs:
    """The patches whose products reach what their query has to beat, `(n,)` by query, and of these the largest
    `at_most` of each leaf."""
    least = to_beat.clamp(min=-2.0)[products.who]
    some = (products.best >= least).nonzero()[:, 0]
    values, least = products.values.index_select(0, some), least[some]
    who, first_rows = products.who[some], products.first_rows[some]
    possible = values >= least[:, None]
    crowded = (possible.sum(1) > at_most).nonzero()[:, 0]
    if len(crowded):
        possible[crowded] = values[crowded] >= values[crowded].topk(at_most, dim=1).values[:, -1:]
    row, column = possible.nonzero().unbind(1)
    return Pairs(who[row], column + first_rows[row], values[row, column])


def _certify(index: Index, vectors: Tensor, level: Tensor, rows: Tensor, scores: Tensor) -> _Found:
    """The k best of the whole index, from matches `rows` and canonical `scores` `(n, k)` to begin with."""
    slack = first_level_slack(vectors.shape[1])
    asked = index.asked(vectors)
    short = halved(level)
    found, waiting = [], 0
    for leaf in range(index.tree.leaves):
        x, first_row = index.leaf_level(leaf)
        short_x = halved(x)
        size = max(1, min(BLOCK, PRODUCTS // len(x)))
        for start in range(0, len(vectors), size):
            to_beat = scores[:, -1].float() - slack
            bounds = short[start : start + size] @ short_x.T
            who = (bounds.amax(1) >= to_beat[start : start + size]).nonzero()[:, 0] + start
            values = level[who] @ x.T
            products = Products(who, who, torch.full_like(who, first_row), values, values.amax(1))
            left = _survivors(products, to_beat, len(x))
            found.append(left)
            waiting += len(left)
            if waiting > PENDING:
                rows, scores = _settled(index, vectors, scored(index, asked, joined(found)), rows, scores)
                found, waiting = [], 0
    return _settled(index, vectors, scored(index, asked, joined(found)), rows, scores)


def _settled(index: Index, vectors: Tensor, fresh: Pairs, rows: Tensor, scores: Tensor) -> _Found:
    n, k = rows.shape
    known = Pairs(torch.arange(n).repeat_interleave(k), rows.flatten(), scores.flatten().float())
    to_beat = scores[:, -1].float() - 2 * rounding_slack(vectors.shape[1])
    fresh = fresh.at(fresh.scores >= to_beat[fresh.who])
    return canonically_best(index, vectors, distinct(joined([known, fresh])), k)
