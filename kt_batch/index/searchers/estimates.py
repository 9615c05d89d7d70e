"""Search by estimates: first-level products in the nearest leaves, whole patches of the best, canonical scores.

A first-level product (kernels.principal) reads 128 values of a patch instead of D. Here it is an estimate; in
`certified` it is a bound. The first round reads whole the patches with the largest estimates in the nearest leaves. The
second round looks into those of the next leaves that may hold a better patch than the first round found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kt_batch.index.index import Index
from kt_batch.index.ordering import largest_columns
from kt_batch.index.searchers.candidates import Best, Pairs, canonically_best, few_of_each, joined, kth_best, scored
from kt_batch.index.searchers.leaf_choice import FIRST_ROUND, columns, nearest_leaves
from kt_batch.index.searchers.visits import Group, Products, grouped, products_of
from kt_batch.index.threads import Each, parallel_map
from kt_batch.kernels.bounds import rounding_slack
from kt_batch.kernels.fixed_point import SHRINK, rounded_queries
from kt_batch.kernels.principal import first_level
from kt_batch.models.precision import quick_products

PROMISING = 4  # leaves of the first round; the best estimate of the last of them is the threshold for reading
AND_MORE = 2  # more such leaves before a second round, whose work falls with the quality of the first matches
REST_SHARE = 0.6  # of the product of the lengths of rests, as the estimate of the product of rests
FEW = 10  # patches beyond k that a query reads whole in the first round; twice as many in the second
BLOCKS = 8  # of a visit, whose best patches are counted
PREPARED = 1024  # queries that a thread prepares at a time
VISITS = 1 << 21  # to leaves in a second round, at a time
KEPT = 1 << 26  # products of the first round at a time; a single query may have more


@dataclass(frozen=True)
class _Queries:
    """n queries.

    level: first levels `(n, d + 1)` in fixed point, the length of the rest scaled for estimates.
    prepared_queries: `(n, a)`, as `Index.products` takes them.
    leaves, reach: `(n, probes)`, from `leaf_choice.nearest_leaves`.
    few: patches beyond k that a query reads whole in the first round; twice as many in the second.
    """

    level: Tensor
    prepared_queries: Tensor
    leaves: Tensor
    reach: Tensor
    few: int


def search_fast(index: Index, vectors: Tensor, k: int, probes: int, with_values: bool = False, few: int = FEW) -> Best:
    """Return the k best patches of the nearest leaves, as far as estimates find them.

    Args:
        index: The index.
        vectors: Keys of the queries, `(n, D)` float32.
        k: Matches per query.
        probes: Leaves per query; as many leaves always hold k patches.
        with_values: Return the raw patches too.
        few: Patches beyond k that a query reads whole; fewer where other indexes are searched beside this one.
    """
    with parallel_map() as each, quick_products(index.device.type):
        return canonically_best(index, vectors, candidates(index, vectors, k, probes, few, each), k, each, with_values)


def candidates(index: Index, vectors: Tensor, k: int, probes: int, few: int, each: Each) -> Pairs:
    """Return the patches that `search_fast` reads whole, with their float32 scores."""
    always = max(FIRST_ROUND, index.leaves_holding(k)) if probes >= 2 * FIRST_ROUND else probes
    level, prepared_queries = prepare_estimates(index, vectors, each)
    leaves, reach = nearest_leaves(index, level, probes, each)
    queries = _Queries(rounded_queries(level), prepared_queries, leaves, reach, few)
    known = scored(index, prepared_queries, _first_round(index, queries, k, always, each), each)
    if always == probes:
        return known
    fresh = _second_round(index, queries, kth_best(known, len(vectors), k), k, always, each)
    return joined([known, scored(index, prepared_queries, fresh, each)])


def prepare_estimates(index: Index, vectors: Tensor, each: Each) -> tuple[Tensor, Tensor]:
    """Prepare queries with keys `(n, D)`.

    Returns:
        First levels `(n, d + 1)` whose products with those of patches are estimates, and the queries as
        `Index.products` takes them, `(n, a)`.
    """

    def estimates(some: Tensor) -> tuple[Tensor, Tensor]:
        level = estimate_level(some, index.tree.directions)
        return level, index.prepare_queries(some, level)

    return columns(each(estimates, vectors.split(PREPARED)))


def estimate_level(vectors: Tensor, directions: Tensor) -> Tensor:
    """Return first levels `(n, d + 1)` of queries with keys `(n, D)`, whose products with patches are estimates."""
    level = first_level(vectors, directions)
    level[:, -1] *= REST_SHARE
    return level


def portions(costs: Tensor, most: int) -> Iterator[slice]:
    """Yield slices of consecutive items whose costs `(n,)` sum to at most `most`, or that are one item."""
    ends = costs.cumsum(0)
    start = 0
    while start < len(costs) or start == 0:
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(ends, before + most, right=True)))
        yield slice(start, stop)
        start = stop


def _first_round(index: Index, queries: _Queries, k: int, always: int, each: Each) -> Pairs:
    """Return the few patches of each query with the largest estimates in its `always` nearest leaves."""
    costs = index.window_widths(queries.leaves[:, :always]).sum(1)
    return joined([_promising(index, queries, part, k, always, each) for part in portions(costs, KEPT)])


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
        threshold[part] = first_threshold(best.view(-1, always), k, always < probes)
        if looked and all_promising(always, k, always < probes):
            threshold[part] = torch.maximum(threshold[part], best_blocks(looked, len(leaves), always, queries.few + k))
    left = each(lambda products: survivors(products, threshold, queries.few + k), looked)
    return few_of_each(joined(left, leaves.device), queries.few + k)


def first_threshold(best: Tensor, k: int, second_round: bool) -> Tensor:
    """Return the estimates `(n,)` from which patches of the first round are read whole.

    best: the largest estimate of each leaf of the first round, `(n, leaves)`; at least k leaves.
    second_round: whether a second round follows.
    """
    promising = min(_promising_leaves(k, second_round), best.shape[1])
    return best.topk(promising, dim=1).values[:, -1]


def _promising_leaves(k: int, second_round: bool) -> int:
    return PROMISING + k - 1 + AND_MORE * second_round


def all_promising(leaves: int, k: int, second_round: bool) -> bool:
    """Return whether patches of all leaves of a first round reach its threshold, so that there may be very many."""
    return leaves <= _promising_leaves(k, second_round)


def best_blocks(looked: Sequence[Products], visits: int, leaves: int, few: int) -> Tensor:
    """Return an estimate `(n,)` that at least `few` patches of each query reach; -inf where it is not known.

    It is the largest of the block that is number `few`, the best first: no patch below it is among the few best.

    Args:
        looked: The products of all visits.
        visits: Their number: each query has `leaves` visits, one after another.
        leaves: Visits of a query.
        few: A number of patches.
    """
    best = torch.full((visits, BLOCKS), -torch.inf, device=looked[0].best.device)
    for products in looked:
        real = (products.best[:, 0] > -torch.inf).nonzero()[:, 0]  # others are padding
        some = products.best[real]
        if some.shape[1] > BLOCKS:  # a larger block has the largest value of several
            some = some[:, : some.shape[1] // BLOCKS * BLOCKS].view(len(some), BLOCKS, -1).amax(2)
        best[products.visits[real], : some.shape[1]] = some
    blocks = best.view(-1, leaves * BLOCKS)
    if blocks.shape[1] < few:
        return blocks.new_full((len(blocks),), -torch.inf)
    return blocks.gather(1, largest_columns(blocks, few)).amin(1)


def _second_round(index: Index, queries: _Queries, threshold: Tensor, k: int, always: int, each: Each) -> Pairs:
    """Return the few patches of each query, in the other leaves, whose estimates reach `threshold` `(n,)`."""
    reaching = queries.reach[:, always:] >= threshold[:, None]
    threshold = second_threshold(threshold, 4 * index.channels)
    visited = []
    for part in portions(reaching.sum(1), VISITS):
        who, column = reaching[part].nonzero().unbind(1)
        leaves = queries.leaves[part][who, column + always]
        visited.append(_visited(index, queries.level, who + part.start, leaves, threshold, 2 * queries.few + k, each))
    return joined(visited)


def second_threshold(scores: Tensor, dim: int) -> Tensor:
    """Return the estimates `(n,)` from which patches of the second round are read whole, given k-th best scores."""
    return (scores - 2 * rounding_slack(dim)) * SHRINK


def _visited(
    index: Index, level: Tensor, who: Tensor, leaves: Tensor, threshold: Tensor, few: int, each: Each
) -> Pairs:
    """Return the few patches whose estimates reach `threshold` `(n,)`, of visits of `who` `(p,)` to `leaves` `(p,)`."""

    def look(group: Group) -> Pairs:
        return survivors(products_of(index, level, who, group), threshold, few)

    return few_of_each(joined(each(look, grouped(index, leaves)), leaves.device), few)


def survivors(products: Products, threshold: Tensor, at_most: int) -> Pairs:
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
