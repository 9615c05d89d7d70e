"""Visits of queries to leaves, and their first-level products, many leaves in one call.

A group holds leaves of one width with about as many visits, and takes one batched product. One call per leaf would cost
more than the products, and threads would wait for the interpreter. Groups have few shapes, since a linear algebra
library may compile a kernel for each, which takes as long as fifty such products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kt_batch.index.index import WINDOW, Index
from kt_batch.index.ordering import order_by, stable_order

PATCHES = 16384  # at most, of a group of several leaves
PRODUCTS = 1 << 21  # at most, of a group, of a single leaf before padding, or of a single visit
PADDING = 1.3  # products of a group for each that is needed, at most,
FILLED = 1 << 17  # unless the excess is at most this: as many as the calls for a group take time for


@dataclass(frozen=True)
class Group:
    """B leaves of one width.

    visits: numbers of the visits to each leaf, `(B, m)`.
    real: `(B, m)` bool; False where another visit pads a row.
    leaves: `(B,)`.
    width: patches of a leaf's window.
    """

    visits: Tensor
    real: Tensor
    leaves: Tensor
    width: int


@dataclass(frozen=True)
class Products:
    """First-level products of v visits with the w patches of a leaf's window.

    visits: numbers of the visits, `(v,)`.
    who: their queries, `(v,)`.
    first_rows: rows of the index that belong to the first column, `(v,)`.
    values: the products, `(v, w)`.
    best: the largest product of each block, `(v, b)`; -inf for a row of padding. A block has WINDOW products where w is
        a multiple of WINDOW, else w.
    """

    visits: Tensor
    who: Tensor
    first_rows: Tensor
    values: Tensor
    best: Tensor


def grouped(index: Index, leaves: Tensor) -> list[Group]:
    """Group the visits to `leaves` `(p,)`; visit i is one to leaf `leaves[i]`."""
    count = index.tree.leaves
    numbers = stable_order(leaves, count)
    distinct, visited = leaves[numbers].unique_consecutive(return_counts=True)
    widths = index.window_widths(distinct)
    most = (PRODUCTS // widths).clamp(min=1)
    parts = (visited + most - 1) // most  # a leaf with many visits is in several groups
    which = torch.arange(len(distinct), device=leaves.device).repeat_interleave(parts)
    done = (torch.arange(len(which), device=leaves.device) - (parts.cumsum(0) - parts)[which]) * most[which]
    begin, size = (visited.cumsum(0) - visited)[which] + done, torch.minimum(most[which], visited[which] - done)
    order = order_by(widths[which], size)
    which, begin, size = which[order], begin[order], size[order]
    leaf, width = distinct[which], widths[which].tolist()
    groups = []
    for start, stop, count, rows in _shapes(width, size.tolist()):
        filled_up = torch.arange(start, start + count, device=leaves.device).clamp_(max=stop - 1)
        place = torch.arange(rows, device=leaves.device)
        real = place < size[filled_up, None]
        real[stop - start :] = False
        visits = numbers[(begin[filled_up, None] + place).clamp_(max=len(numbers) - 1)]
        groups.append(Group(visits, real, leaf[filled_up], width[start]))
    return groups


def _shapes(widths: list[int], sizes: list[int]) -> list[tuple[int, int, int, int]]:
    """Return the groups (start, stop, count, rows) of leaves that are sorted by width and size.

    A group holds the leaves from `start` to `stop`, padded to `count`, a power of two, with `rows` visits each (see
    `rounded_up`). It holds as many leaves as allowed, unless padding exceeds both PADDING and FILLED.
    """
    ends = np.searchsorted(widths, widths, side="right").tolist()
    before = [0, *np.cumsum(sizes).tolist()]
    groups, start = [], 0
    while start < len(sizes):
        width, count = widths[start], 1
        stop, rows = start + 1, rounded_up(sizes[start])
        while stop < ends[start]:
            more = min(start + 2 * count, ends[start])
            longer = rounded_up(sizes[more - 1])
            products, visits = 2 * count * longer * width, before[more] - before[start]
            if 2 * count * width > PATCHES or products > min(PRODUCTS, PADDING * visits * width + FILLED):
                break
            stop, rows, count = more, longer, 2 * count
        groups.append((start, stop, count, rows))
        start = stop
    return groups


def rounded_up(size: int) -> int:
    """Round up to one of four numbers between two powers of two, so by at most a quarter; 0 stays 0."""
    step = max(1, 1 << size.bit_length() - 3) if size > 8 else 1
    return -(-size // step) * step


def products_of(index: Index, level: Tensor, who: Tensor, group: Group) -> Products:
    """Compute the products of a group.

    Args:
        index: The index of the leaves.
        level: First levels of the queries, `(n, d + 1)`.
        who: The query of every visit, `(p,)`.
        group: Some of the visits.
    """
    visits = group.visits.flatten()
    queries = who.index_select(0, visits)
    x = index.window_levels(group.leaves, group.width)
    rows = level.index_select(0, queries).view(len(x), -1, level.shape[1])
    values = torch.bmm(rows, x.transpose(1, 2)).view(-1, group.width)
    block = WINDOW if group.width % WINDOW == 0 else group.width
    best = values.view(len(values), -1, block).amax(2).masked_fill_(~group.real.view(-1, 1), -torch.inf)
    first_rows = index.window_rows(group.leaves, group.width).repeat_interleave(group.visits.shape[1])
    return Products(visits, queries, first_rows, values, best)
