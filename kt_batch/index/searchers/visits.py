"""Which queries visit which leaves, and the first-level products of all visits, many leaves in one call.

Leaves of one width that are visited by about as many queries make a group, and one batched product. Called leaf by
leaf, the calls cost more than the products, and threads wait for the interpreter instead of computing. Groups have few
shapes: for each, a library of linear algebra may have to prepare itself, which takes as long as fifty such products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kt_batch.index.index import WINDOW, Index

PATCHES = 16384  # of a group's leaves at most, where it has several
PRODUCTS = 1 << 21  # of a group at most, or of a leaf alone before it is filled up, or of a single visit
PADDING = 1.3  # products of a group for each that was asked for, at most,
FILLED = 1 << 17  # unless there are no more than this in excess: as many as the calls for a group take time for


@dataclass(frozen=True)
class Group:
    """B leaves of one width. visits: `(B, m)` numbers of the visits to each; real: `(B, m)`, False where the number of
    any other visit fills a row up; leaves: `(B,)`."""

    visits: Tensor
    real: Tensor
    leaves: Tensor
    width: int


@dataclass(frozen=True)
class Products:
    """First-level products of v visits with the w patches of a leaf's window: `values` `(v, w)`.

    visits: their numbers; who: their queries; first_rows: the row of the index that the first column stands for; each
    `(v,)`. best `(v, b)`: the largest of each of the b blocks that a row's products make, WINDOW in each where w is a
    multiple of it, else all in one; -inf for a row that fills a group up.
    """

    visits: Tensor
    who: Tensor
    first_rows: Tensor
    values: Tensor
    best: Tensor


def grouped(index: Index, leaves: Tensor) -> list[Group]:
    """The visits to `leaves` `(p,)`, visit number i to the leaf `leaves[i]`, in groups."""
    count = index.tree.leaves
    by_leaf = np.argsort(leaves.numpy().astype(np.int16 if count < 1 << 15 else np.int64), kind="stable")
    numbers = torch.from_numpy(by_leaf)
    visited = torch.bincount(leaves, minlength=count)
    most = (PRODUCTS // index.window_width).clamp(min=1)
    parts = (visited + most - 1) // most  # a leaf with many visits is in several groups
    leaf = torch.arange(count, device=leaves.device).repeat_interleave(parts)
    done = (torch.arange(len(leaf), device=leaves.device) - (parts.cumsum(0) - parts)[leaf]) * most[leaf]
    begin, size = (visited.cumsum(0) - visited)[leaf] + done, torch.minimum(most[leaf], visited[leaf] - done)
    order = torch.from_numpy(np.lexsort((size.numpy(), index.window_width[leaf].numpy())))
    leaf, begin, size = leaf[order], begin[order], size[order]
    width = index.window_width[leaf].tolist()
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
    """How leaves sorted by width and size are grouped: those from `start` to `stop`, filled up to be `count`, a power
    of two, with `rows` visits each, one of four numbers between two powers of two.

    As many as a group may have, unless its rows and leaves that fill it up make more than PADDING of its products, and
    more than FILLED.
    """
    ends = np.searchsorted(widths, widths, side="right").tolist()
    before = [0, *np.cumsum(sizes).tolist()]
    found, start = [], 0
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
        found.append((start, stop, count, rows))
        start = stop
    return found


def rounded_up(size: int) -> int:
    """Rounded up to one of four numbers between two powers of two: by a quarter at most. 0 stays 0."""
    step = max(1, 1 << size.bit_length() - 3) if size > 8 else 1
    return -(-size // step) * step


def products_of(index: Index, level: Tensor, who: Tensor, group: Group) -> Products:
    """The products of a group; `level` is the queries' `(n, d + 1)`, and `who` `(p,)` the query of every visit."""
    visits = group.visits.flatten()
    queries = who.index_select(0, visits)
    x = index.window_levels(group.leaves, group.width)
    rows = level.index_select(0, queries).view(len(x), -1, level.shape[1])
    values = torch.bmm(rows, x.transpose(1, 2)).view(-1, group.width)
    block = WINDOW if group.width % WINDOW == 0 else group.width
    best = values.view(len(values), -1, block).amax(2).masked_fill_(~group.real.view(-1, 1), -torch.inf)
    first_rows = index.window_rows[group.leaves].repeat_interleave(group.visits.shape[1])
    return Products(visits, queries, first_rows, values, best)
