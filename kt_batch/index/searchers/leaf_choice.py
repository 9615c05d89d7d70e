"""The choice of the leaves that a query looks into: those whose mean first levels have the nearest directions.

An index of few leaves compares every query with all of them. In a larger one, alike leaves are in groups
(index.leaf_groups): a query is compared with the centres of all groups, and with the leaves of the nearest groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from kt_batch.index.leaf_groups import GROUPED, LeafGroups
from kt_batch.index.leaf_statistics import LeafStatistics
from kt_batch.index.ordering import largest_columns, largest_of_rank, stable_order
from kt_batch.index.searchers.candidates import Pairs, best_few, joined
from kt_batch.index.searchers.visits import rounded_up
from kt_batch.index.threads import Each, in_turn
from kt_batch.index.tree import Tree
from kt_batch.kernels.fixed_point import SHRINK, rounded_queries

FIRST_ROUND = 16  # leaves of every query; a second round pays from twice as many probes
REACH = 5.0  # standard deviations from a leaf's mean product to the assumed product of its best patch
CHOOSING = 256  # queries that a thread chooses leaves for at a time
MEMBERS = 8  # columns whose largest value is compared first
VISITED = 48  # groups of every query, or as many as it probes leaves
NEAREST = 4  # of these, whose products are kept; more for many probes
PRODUCTS = 1 << 25  # that are kept at a time; a single query may have more
PAGE = 1 << 20  # products in one piece of memory
LEAST = -2.0  # below any product of a leaf of a group


@dataclass(frozen=True)
class _Visits:
    """Visits of queries to some groups; those to a group are adjacent.

    who: the query of each visit, `(v,)`.
    group: the group of each visit, `(v,)`.
    groups: the groups, ascending.
    visits: the number of visits to each of them.
    """

    who: Tensor
    group: Tensor
    groups: list[int]
    visits: list[int]


@dataclass(frozen=True)
class _Page:
    """Products of visits of queries to some groups; the rows of a group are adjacent.

    who: the query of each visit, `(v,)`.
    group: the group of each visit, `(v,)`.
    begin: the place of each visit's first product in `values`, `(v,)`.
    values: all products, `(m,)` float32.
    best: the largest of every MEMBERS products of each visit, `(v, b)`: number j of a group of width w is that of
        columns j, j + w / MEMBERS, ...; -inf beyond w / MEMBERS.
    """

    who: Tensor
    group: Tensor
    begin: Tensor
    values: Tensor
    best: Tensor


class Leaves(Protocol):
    """The parts of an index that the choice of leaves reads.

    tree: the places of the leaves; its nodes are not read.
    statistics: of the leaves; their directions and groups are in fixed point.
    """

    tree: Tree

    @property
    def statistics(self) -> LeafStatistics:
        """The statistics of the leaves."""


def nearest_leaves(index: Leaves, level: Tensor, probes: int, each: Each = in_turn) -> tuple[Tensor, Tensor]:
    """Return the leaves with the nearest means for queries with first levels `(n, d + 1)`.

    An index of at least GROUPED leaves looks for them in the nearest groups alone.

    Returns:
        Leaves `(n, probes)`, best first, and the assumed largest estimate in each `(n, probes)`, for normally
        distributed estimates. The latter is `(n, 0)` where one round takes all leaves.
    """
    if index.tree.leaves < GROUPED:
        return columns(each(lambda some: _of_all(index, some, probes), level.split(CHOOSING)))
    return leaves_in_groups(index, level, probes, max(VISITED, probes), each)


def columns(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Concatenate the first tensors of all pairs, and the second ones."""
    return torch.cat([first for first, _ in parts]), torch.cat([second for _, second in parts])


def _of_all(index: Leaves, level: Tensor, probes: int) -> tuple[Tensor, Tensor]:
    """As `nearest_leaves`, comparing every query with all leaves."""
    cosines = rounded_queries(level)[:, :-1] @ index.statistics.directions.T
    some = largest(cosines, probes)
    cosines, order = cosines.gather(1, some).sort(dim=1, descending=True, stable=True)
    some = some.gather(1, order)
    if probes < 2 * FIRST_ROUND:
        return some, level[:, :0]
    return some, _reach(index, level, some, cosines)


def _reach(index: Leaves, level: Tensor, leaves: Tensor, cosines: Tensor) -> Tensor:
    """Return the assumed largest estimates `(n, probes)` in `leaves`, whose products are `cosines`, pair by pair."""
    variances = index.statistics.variances
    variances = variances.index_select(0, leaves.flatten()).view(*leaves.shape, variances.shape[1])
    spread = variances.mul_(level[:, None, : variances.shape[2]].square()).sum(2).sqrt_()
    along = cosines / SHRINK * index.statistics.lengths[leaves]
    reach: Tensor = along + level[:, -1:] * index.statistics.rests[leaves] + REACH * spread
    return reach


def leaves_in_groups(
    index: Leaves, level: Tensor, probes: int, visited: int, each: Each = in_turn
) -> tuple[Tensor, Tensor]:
    """As `nearest_leaves`, from the `visited` nearest groups of every query, or more where these hold few leaves."""
    groups = index.statistics.groups
    visited = min(max(visited, groups.holding(probes)), len(groups.size))

    def nearest_groups(some: Tensor) -> Tensor:
        cosines = some @ groups.centres
        best = largest(cosines, visited)
        return best.gather(1, cosines.gather(1, best).sort(dim=1, descending=True, stable=True).indices)

    rounded = rounded_queries(level)
    nearest = torch.cat(each(nearest_groups, rounded.split(CHOOSING)))
    together = max(1, PRODUCTS // (NEAREST * int(groups.widths.max())))
    parts = zip(level.split(together), rounded.split(together), nearest.split(together), strict=True)
    return columns([_of_groups(index, some, short, theirs, probes, each) for some, short, theirs in parts])


def _of_groups(
    index: Leaves, level: Tensor, rounded: Tensor, visited: Tensor, probes: int, each: Each
) -> tuple[Tensor, Tensor]:
    """As `nearest_leaves`, from the groups `visited` `(n, v)`, the nearest first; `rounded` is `level` in fixed point.

    The nearest few say which products are worth a look in the others, whose products are not kept.
    """
    groups = index.statistics.groups
    few = max(NEAREST, probes // NEAREST)
    near, others = visited[:, :few], visited[:, few:]
    pages = each(lambda page: _multiplied(groups, rounded, page), _pages(groups, near))
    threshold = _threshold(pages, near, probes, each)
    found = each(lambda page: _reaching(groups, page, threshold), pages)
    far = _pages(groups, others)
    found += each(lambda page: _reaching(groups, _multiplied(groups, rounded, page, others=True), threshold), far)
    leaves, cosines = _best(joined(found, level.device), len(level), probes)
    if probes < 2 * FIRST_ROUND:
        return leaves, level[:, :0]

    def reach(some: slice) -> Tensor:
        return _reach(index, level[some], leaves[some], cosines[some])

    parts = [slice(start, start + CHOOSING) for start in range(0, max(1, len(level)), CHOOSING)]
    return leaves, torch.cat(each(reach, parts))


def _pages(groups: LeafGroups, visited: Tensor) -> list[_Visits]:
    """Return the visits of queries to groups, by group, in pages of about PAGE products.

    visited: the groups that each query visits, `(n, v)`.
    """
    order = stable_order(visited.flatten(), len(groups.size))
    who, group = order // max(1, visited.shape[1]), visited.flatten()[order]
    distinct, counts = group.unique_consecutive(return_counts=True)
    products = (counts * groups.widths[distinct]).cumsum(0)
    page = torch.searchsorted(products, torch.arange(0, int(products[-1:].sum()), PAGE, device=who.device))
    pages, ends = [], [0, *counts.cumsum(0).tolist()]
    for start, stop in pairwise([*page.unique_consecutive().tolist(), len(distinct)]):
        some = slice(ends[start], ends[stop])
        pages.append(_Visits(who[some], group[some], distinct[start:stop].tolist(), counts[start:stop].tolist()))
    return pages


def _multiplied(groups: LeafGroups, level: Tensor, page: _Visits, others: bool = False) -> _Page:
    """Multiply the first levels `(n, d + 1)` of queries, in fixed point, with the windows of the groups of a page.

    Products with leaves of other groups in a window are -inf, unless `others`.
    """
    widths = [groups.width(group) for group in page.groups]
    rounded = [rounded_up(visits) for visits in page.visits]
    sizes = [rows * width for rows, width in zip(rounded, widths, strict=True)]
    values = level.new_empty(sum(sizes))
    best = level.new_full((len(page.who), max(widths) // MEMBERS), -torch.inf)
    rows = level.index_select(0, torch.cat([page.who, page.who[:1].expand(max(rounded))]))  # also for padding
    parts = zip(page.groups, widths, page.visits, rounded, values.split(sizes), best.split(page.visits), strict=True)
    begin = 0
    for group, width, visits, padded, room, maxima in parts:
        products = torch.mm(rows[begin : begin + padded], groups.window(group).T, out=room.view(padded, width))
        if groups.count(group) < width and not others:
            products[:, groups.count(group) :] = -torch.inf
        blocks = products[:visits].view(visits, MEMBERS, -1)
        torch.amax(blocks, 1, out=maxima[:, : width // MEMBERS])
        begin += visits
    return _Page(page.who, page.group, _begin(page.visits, widths, sizes, level.device), values, best)


def _begin(visits: list[int], widths: list[int], sizes: list[int], device: torch.device) -> Tensor:
    """Return the place of each visit's first product, `(v,)`; groups have `sizes` products."""
    counts, width, size = torch.tensor([visits, widths, sizes], device=device)
    first = size.cumsum(0) - size - (counts.cumsum(0) - counts) * width
    first, width = torch.stack([first, width]).repeat_interleave(counts, dim=1)
    places: Tensor = first + width * torch.arange(len(width), device=device)
    return places


def _threshold(pages: list[_Page], visited: Tensor, probes: int, each: Each) -> Tensor:
    """Return a value `(n,)` that the `probes` largest products of every query reach, and few others."""
    n, visits = visited.shape
    width = max((page.best.shape[1] for page in pages), default=MEMBERS)
    best = torch.full((n * visits, width), -torch.inf, device=visited.device)
    order = stable_order(visited.flatten(), int(visited.max()) + 1 if visited.numel() else 1)
    for page, places in zip(pages, order.split([len(page.who) for page in pages]), strict=True):
        best[places, : page.best.shape[1]] = page.best
    if probes > visits * width:
        return best.new_full((n,), LEAST)
    parts = best.view(n, visits * width).split(CHOOSING)
    return torch.cat(each(lambda some: largest_of_rank(some, probes).clamp_(min=LEAST), parts))


def _reaching(groups: LeafGroups, page: _Page, threshold: Tensor) -> Pairs:
    """Return the leaves whose products reach the `threshold` `(n,)` of their query."""
    visit, block = (page.best >= threshold[page.who][:, None]).nonzero().unbind(1)
    group = page.group[visit]
    stride = groups.widths[group] // MEMBERS
    column = block[:, None] + stride[:, None] * torch.arange(MEMBERS, device=block.device)
    values = page.values[page.begin[visit][:, None] + column]
    who = page.who[visit]
    own = column < groups.size[group][:, None]
    row, member = ((values >= threshold[who][:, None]) & own).nonzero().unbind(1)
    leaves = groups.leaves[groups.start[group[row]] + column[row, member]]
    return Pairs(who[row], leaves, values[row, member])


def _best(pairs: Pairs, n: int, probes: int) -> tuple[Tensor, Tensor]:
    """Return the leaves with the largest products of each of n queries, and these, `(n, probes)`, the largest first.

    Every query has at least `probes` pairs. Of equal products, the leaf of the smaller number comes first.
    """
    best = best_few(pairs.at(torch.sort(pairs.rows).indices), probes)
    return best.rows.view(n, probes), best.scores.view(n, probes)


def largest(values: Tensor, count: int) -> Tensor:
    """Return the columns `(n, count)` of the largest values of each row of `(n, c)`, in any order.

    They are searched in the `count` groups of MEMBERS columns that have the largest maxima, which takes a third of the
    time, unless these are more than half of all groups.
    """
    columns = values.shape[1]
    if count == columns:
        return torch.arange(columns, device=values.device).expand(len(values), -1)
    groups = columns // MEMBERS
    grouped_columns = groups * MEMBERS
    if 2 * count > groups:
        return largest_columns(values, count)
    best = largest(values[:, :grouped_columns].view(-1, MEMBERS, groups).amax(1), count)
    members = best[:, None] + torch.arange(0, grouped_columns, groups, device=values.device)[:, None]
    others = torch.arange(grouped_columns, columns, device=values.device).expand(len(values), -1)
    some = torch.cat([members.flatten(1), others], dim=1)
    return some.gather(1, largest(values.gather(1, some), count))
