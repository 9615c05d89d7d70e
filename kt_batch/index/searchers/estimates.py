"""The default searcher: the first level of what is probed, then the few patches it leaves, then canonical scores.

The first level is a product in principal coordinates with the length of the rest as one more (kernels.principal): 128
values for each patch instead of D. Here it is an estimate; the searcher `certified` reads it as a bound. Of the
patches in the nearest leaves those with the largest estimates are read in full; then, of the next nearest leaves, those
are looked into that reach as far as what is to beat by then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kt_batch.index.index import Index
from kt_batch.index.searchers.candidates import Best, Pairs, canonically_best, few_of_each, joined, kth_best, scored
from kt_batch.index.searchers.visits import Group, Products, grouped, products_of
from kt_batch.index.threads import Each, parallel_map
from kt_batch.kernels.bounds import rounding_slack
from kt_batch.kernels.principal import first_level
from kt_batch.models.precision import quick_products

FIRST_ROUND = 16  # leaves that every query looks into; a second round is worth it for twice as many probes
PROMISING = 4  # leaves of the first round: the best patch of the last of them says what is worth reading
AND_MORE = 2  # such leaves where a second round comes, whose work depends on how good a match is known by then
REACH = 5.0  # standard deviations from a leaf's mean product to what its best patch is taken to reach
REST_SHARE = 0.6  # of the product of the rests: what a patch is expected to gain at most, in fast mode
FEW = 10  # patches read in full for a query in the first round, beyond top_k; in a second round twice as many
READY = 1024  # queries that a thread makes ready at a time
CHOOSING = 256  # queries that a thread chooses leaves for at a time
VISITS = 1 << 21  # to leaves in a second round that are made at a time
MEMBERS = 8  # leaves whose largest cosine is found before one of them is chosen
KEPT = 1 << 26  # products of the first round that are made at a time; those of a single query may be more


@dataclass(frozen=True)
class _Queries:
    """n queries: unit vectors `(n, D)`, their first level `(n, d + 1)` with the rest scaled to an estimate, what
    `Index.products` takes `(n, a)`, and the leaves they may look into with what these reach (`nearest_leaves`)."""

    vectors: Tensor
    level: Tensor
    prepared_queries: Tensor
    leaves: Tensor
    reach: Tensor


def search_fast(index: Index, vectors: Tensor, k: int, probes: int, with_values: bool = False) -> Best:
    """The k best of at most the `probes` nearest leaves, as far as estimates find them: rows and canonical scores
    `(n, k)`.

    vectors: `(n, D)` unit queries in match space. The leaves must hold k patches.
    """
    always = max(FIRST_ROUND, index.leaves_holding(k)) if probes >= 2 * FIRST_ROUND else probes
    with parallel_map() as each, quick_products():
        level, prepared_queries = prepare_estimates(index, vectors, each)
        leaves, reach = _columns(each(lambda some: nearest_leaves(index, some, probes), level.split(CHOOSING)))
        return _fast(index, _Queries(vectors, level, prepared_queries, leaves, reach), k, always, each, with_values)


def prepare_estimates(index: Index, vectors: Tensor, each: Each) -> tuple[Tensor, Tensor]:
    """What the search of unit queries `(n, D)` in match space takes: their first level `(n, d + 1)` with the rest
    scaled down, whose products with patches' are estimates, and what `Index.products` takes `(n, a)`."""

    def estimates(some: Tensor) -> tuple[Tensor, Tensor]:
        level = first_level(some, index.tree.directions)
        level[:, -1] *= REST_SHARE
        return level, index.prepare_queries(some, level)

    return _columns(each(estimates, vectors.split(READY)))


def _columns(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The firsts of all pairs, and the seconds, one after the other."""
    return torch.cat([first for first, _ in parts]), torch.cat([second for _, second in parts])


def _portions(costs: Tensor, most: int) -> Iterator[slice]:
    """Slices of consecutive items of costs `(n,)` that cost no more than `most` together, or are one item."""
    ends = costs.cumsum(0)
    start = 0
    while start < len(costs) or start == 0:
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(ends, before + most, right=True)))
        yield slice(start, stop)
        start = stop


def _fast(index: Index, queries: _Queries, k: int, always: int, each: Each, with_values: bool) -> Best:
    n, probes = queries.leaves.shape
    fresh = _first_round(index, queries, k, always, each)
    known = scored(index, queries.prepared_queries, fresh, each)
    if always < probes:
        fresh = _second_round(index, queries, kth_best(known, n, k), k, always, each)
        known = joined([known, scored(index, queries.prepared_queries, fresh, each)])
    return canonically_best(index, queries.vectors, known, k, each, with_values)


def _first_round(index: Index, queries: _Queries, k: int, always: int, each: Each) -> Pairs:
    """Of the patches in the `always` nearest leaves the few of each query with the largest estimates."""
    costs = index.window_width[queries.leaves[:, :always]].sum(1)
    return joined([_promising(index, queries, part, k, always, each) for part in _portions(costs, KEPT)])


def _promising(index: Index, queries: _Queries, part: slice, k: int, always: int, each: Each) -> Pairs:
    """As `_first_round`, of some queries."""
    n, probes = queries.leaves.shape
    leaves = queries.leaves[part, :always].flatten()
    who = torch.arange(n, device=leaves.device)[part].repeat_interleave(always)
    looked = each(lambda group: products_of(index, queries.level, who, group), grouped(index, leaves))
    threshold = torch.full((n,), -torch.inf, device=leaves.device)
    if k <= always:  # as many leaves hold one that reaches it
        best = torch.full((len(leaves),), -torch.inf, device=leaves.device)
        for products in looked:
            best.scatter_reduce_(0, products.visits, products.best.amax(1), "amax")
        promising = min(PROMISING + k - 1 + AND_MORE * (always < probes), always)
        threshold[part] = best.view(-1, always).topk(promising, dim=1).values[:, -1]
    found = each(lambda products: _survivors(products, threshold, FEW + k), looked)
    return few_of_each(joined(found), FEW + k)


def _second_round(index: Index, queries: _Queries, threshold: Tensor, k: int, always: int, each: Each) -> Pairs:
    """Of the patches in the other leaves that reach `to_beat` `(n,)` the few of each query whose estimates do."""
    reaching = queries.reach[:, always:] >= threshold[:, None]
    threshold = threshold - 2 * rounding_slack(4 * index.channels)
    found = []
    for part in _portions(reaching.sum(1), VISITS):
        who, column = reaching[part].nonzero().unbind(1)
        leaves = queries.leaves[part][who, column + always]
        found.append(_visited(index, queries.level, who + part.start, leaves, threshold, 2 * FEW + k, each))
    return joined(found)


def _visited(
    index: Index, level: Tensor, who: Tensor, leaves: Tensor, threshold: Tensor, few: int, each: Each
) -> Pairs:
    """Of the patches in `leaves` `(p,)` that the queries `who` `(p,)` look into the few whose estimates reach
    `to_beat` `(n,)`."""

    def look(group: Group) -> Pairs:
        return _survivors(products_of(index, level, who, group), threshold, few)

    return few_of_each(joined(each(look, grouped(index, leaves))), few)


def nearest_leaves(index: Index, level: Tensor, probes: int) -> tuple[Tensor, Tensor]:
    """The `probes` leaves with the nearest means `(n, probes)`, best first, for the first level `(n, d + 1)` of n
    queries; and what the estimate of the best patch of each may reach, as if a leaf's were normal: `(n, probes)`, or
    `(n, 0)` for so few probes that one round takes them all."""
    cosines = level[:, :-1] @ index.leaf_directions
    some = _largest(cosines, probes)
    cosines, order = cosines.gather(1, some).sort(dim=1, descending=True, stable=True)
    some = some.gather(1, order)
    if probes < 2 * FIRST_ROUND:
        return some, level[:, :0]
    variances = index.leaf_variances
    spread = (level[:, : variances.shape[1]].square() @ variances.T).gather(1, some).sqrt_()
    return some, cosines * index.leaf_lengths[some] + level[:, -1:] * index.leaf_means[some, -1] + REACH * spread


def _largest(values: Tensor, count: int) -> Tensor:
    """The columns `(n, count)` of the largest of each row of `(n, c)`, in any order.

    Where that are few, they are looked for in as many groups of MEMBERS columns: those with the largest maxima.
    """
    columns = values.shape[1]
    if count == columns:
        return torch.arange(columns, device=values.device).expand(len(values), -1)
    groups = columns // MEMBERS
    grouped_columns = groups * MEMBERS
    if 2 * count * MEMBERS > groups:  # several times faster than topk of so many
        return torch.from_numpy(np.argpartition(values.numpy(), -count, axis=1)[:, -count:].copy())
    best = _largest(values[:, :grouped_columns].view(-1, MEMBERS, groups).amax(1), count)
    members = best[:, None] + torch.arange(0, grouped_columns, groups, device=values.device)[:, None]
    others = torch.arange(grouped_columns, columns, device=values.device).expand(len(values), -1)
    some = torch.cat([members.flatten(1), others], dim=1)
    return some.gather(1, _largest(values.gather(1, some), count))


def _survivors(products: Products, threshold: Tensor, at_most: int) -> Pairs:
    """The patches whose products reach what their query has to beat, `(n,)` by query; where that are more than
    `at_most` for each visit on average, of each the largest `at_most`."""
    blocks = products.best.shape[1]
    least = threshold.clamp(min=-2.0)[products.who]
    some = (products.best >= least[:, None]).flatten().nonzero()[:, 0]
    visit = some // blocks
    values = products.values.view(len(products.who) * blocks, -1).index_select(0, some)
    row, column = (values >= least[visit][:, None]).nonzero().unbind(1)
    first_rows = products.first_rows[visit] + some % blocks * values.shape[1]
    found = Pairs(visit[row], column + first_rows[row], values[row, column])
    if len(found) > at_most * len(products.who):
        found = few_of_each(found, at_most)
    return Pairs(products.who[found.who], found.rows, found.scores)
