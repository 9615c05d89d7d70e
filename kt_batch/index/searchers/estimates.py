"""Search by estimates: first-level products in the nearest leaves, whole patches of the best, canonical scores.

A first-level product (kernels.principal) reads 128 values of a patch instead of D. Here it is an estimate; in
`certified` it is a bound. The first round reads whole the patches with the largest estimates in the nearest leaves. The
second round looks into those of the next leaves that may hold a better patch than the first round found.
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

FIRST_ROUND = 16  # leaves of every query; a second round pays from twice as many probes
PROMISING = 4  # leaves of the first round; the best estimate of the last of them is the threshold for reading
AND_MORE = 2  # more such leaves before a second round, whose work falls with the quality of the first matches
REACH = 5.0  # standard deviations from a leaf's mean product to the assumed product of its best patch
REST_SHARE = 0.6  # of the product of the lengths of rests, as the estimate of the product of rests
FEW = 10  # patches beyond k that a query reads whole in the first round; twice as many in the second
PREPARED = 1024  # queries that a thread prepares at a time
CHOOSING = 256  # queries that a thread chooses leaves for at a time
VISITS = 1 << 21  # to leaves in a second round, at a time
MEMBERS = 8  # leaves of a group whose largest cosine is compared first
KEPT = 1 << 26  # products of the first round at a time; a single query may have more


@dataclass(frozen=True)
class _Queries:
    """n queries.

    vectors: keys `(n, D)`.
    level: first levels `(n, d + 1)`, the length of the rest scaled for estimates.
    prepared_queries: `(n, a)`, as `Index.products` takes them.
    leaves, reach: `(n, probes)`, from `nearest_leaves`.
    """

    vectors: Tensor
    level: Tensor
    prepared_queries: Tensor
    leaves: Tensor
    reach: Tensor


def search_fast(index: Index, vectors: Tensor, k: int, probes: int, with_values: bool = False) -> Best:
    """Return the k best patches of the nearest leaves, as far as estimates find them.

    Args:
        index: The index.
        vectors: Keys of the queries, `(n, D)` float32.
        k: Matches per query.
        probes: Leaves per query; as many leaves always hold k patches.
        with_values: Return the raw patches too.
    """
    always = max(FIRST_ROUND, index.leaves_holding(k)) if probes >= 2 * FIRST_ROUND else probes
    with parallel_map() as each, quick_products():
        level, prepared_queries = prepare_estimates(index, vectors, each)
        leaves, reach = _columns(each(lambda some: nearest_leaves(index, some, probes), level.split(CHOOSING)))
        return _fast(index, _Queries(vectors, level, prepared_queries, leaves, reach), k, always, each, with_values)


def prepare_estimates(index: Index, vectors: Tensor, each: Each) -> tuple[Tensor, Tensor]:
    """Prepare queries with keys `(n, D)`.

    Returns:
        First levels `(n, d + 1)` whose products with those of patches are estimates, and the queries as
        `Index.products` takes them, `(n, a)`.
    """

    def estimates(some: Tensor) -> tuple[Tensor, Tensor]:
        level = first_level(some, index.tree.directions)
        level[:, -1] *= REST_SHARE
        return level, index.prepare_queries(some, level)

    return _columns(each(estimates, vectors.split(PREPARED)))


def _columns(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Concatenate the first tensors of all pairs, and the second ones."""
    return torch.cat([first for first, _ in parts]), torch.cat([second for _, second in parts])


def _portions(costs: Tensor, most: int) -> Iterator[slice]:
    """Yield slices of consecutive items whose costs `(n,)` sum to at most `most`, or that are one item."""
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
    """Return the few patches of each query with the largest estimates in its `always` nearest leaves."""
    costs = index.window_width[queries.leaves[:, :always]].sum(1)
    return joined([_promising(index, queries, part, k, always, each) for part in _portions(costs, KEPT)])


def _promising(index: Index, queries: _Queries, part: slice, k: int, always: int, each: Each) -> Pairs:
    """As `_first_round`, for some of the queries."""
    n, probes = queries.leaves.shape
    leaves = queries.leaves[part, :always].flatten()
    who = torch.arange(n, device=leaves.device)[part].repeat_interleave(always)
    looked = each(lambda group: products_of(index, queries.level, who, group), grouped(index, leaves))
    threshold = torch.full((n,), -torch.inf, device=leaves.device)
    if k <= always:  # so that k leaves hold a patch that reaches the threshold
        best = torch.full((len(leaves),), -torch.inf, device=leaves.device)
        for products in looked:
            best.scatter_reduce_(0, products.visits, products.best.amax(1), "amax")
        promising = min(PROMISING + k - 1 + AND_MORE * (always < probes), always)
        threshold[part] = best.view(-1, always).topk(promising, dim=1).values[:, -1]
    survivors = each(lambda products: _survivors(products, threshold, FEW + k), looked)
    return few_of_each(joined(survivors), FEW + k)


def _second_round(index: Index, queries: _Queries, threshold: Tensor, k: int, always: int, each: Each) -> Pairs:
    """Return the few patches of each query, in the other leaves, whose estimates reach `threshold` `(n,)`."""
    reaching = queries.reach[:, always:] >= threshold[:, None]
    threshold = threshold - 2 * rounding_slack(4 * index.channels)
    visited = []
    for part in _portions(reaching.sum(1), VISITS):
        who, column = reaching[part].nonzero().unbind(1)
        leaves = queries.leaves[part][who, column + always]
        visited.append(_visited(index, queries.level, who + part.start, leaves, threshold, 2 * FEW + k, each))
    return joined(visited)


def _visited(
    index: Index, level: Tensor, who: Tensor, leaves: Tensor, threshold: Tensor, few: int, each: Each
) -> Pairs:
    """Return the few patches whose estimates reach `threshold` `(n,)`, of visits of `who` `(p,)` to `leaves` `(p,)`."""

    def look(group: Group) -> Pairs:
        return _survivors(products_of(index, level, who, group), threshold, few)

    return few_of_each(joined(each(look, grouped(index, leaves))), few)


def nearest_leaves(index: Index, level: Tensor, probes: int) -> tuple[Tensor, Tensor]:
    """Return the leaves with the nearest means for queries with first levels `(n, d + 1)`.

    Returns:
        Leaves `(n, probes)`, best first, and the assumed largest estimate in each `(n, probes)`, for normally
        distributed estimates. The latter is `(n, 0)` where one round takes all leaves.
    """
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
    """Return the columns `(n, count)` of the largest values of each row of `(n, c)`, in any order.

    Few columns are searched in the `count` groups of MEMBERS columns that have the largest maxima.
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
    """Return the patches whose products reach the `threshold` `(n,)` of their query.

    Where these are more than `at_most` per visit on average, the largest `at_most` of each visit are returned.
    """
    blocks = products.best.shape[1]
    least = threshold.clamp(min=-2.0)[products.who]
    some = (products.best >= least[:, None]).flatten().nonzero()[:, 0]
    visit = some // blocks
    values = products.values.view(len(products.who) * blocks, -1).index_select(0, some)
    row, column = (values >= least[visit][:, None]).nonzero().unbind(1)
    first_rows = products.first_rows[visit] + some % blocks * values.shape[1]
    pairs = Pairs(visit[row], column + first_rows[row], values[row, column])
    if len(pairs) > at_most * len(products.who):
        pairs = few_of_each(pairs, at_most)
    return Pairs(products.who[pairs.who], pairs.rows, pairs.scores)
