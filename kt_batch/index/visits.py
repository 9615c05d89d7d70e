"""Which queries visit which leaves, and the first-level products of all visits, many leaves in one call.

Leaves of one width that are visited by about as many queries make a group, and one batched product. Called leaf by
leaf, the calls cost more than the products, and threads wait for the interpreter instead of computing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kt_batch.index.index import Index

PATCHES = 16384  # of a group's leaves at most, where it has several
PRODUCTS = 1 << 21  # of a group at most; a single visit to a leaf that cannot be split may have more
PADDING = 1.3  # rows of a group for each visit, at most: leaves with fewer visits are filled up


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

    visits: their numbers; who: their queries; first_rows: the row of the index that the first column stands for; best:
    the largest product, -inf for a row that fills a group up; each `(v,)`.
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
    leaf = torch.arange(count).repeat_interleave(parts)
    done = (torch.arange(len(leaf)) - (parts.cumsum(0) - parts)[leaf]) * most[leaf]
    begin, size = (visited.cumsum(0) - visited)[leaf] + done, torch.minimum(most[leaf], visited[leaf] - done)
    order = torch.from_numpy(np.lexsort((size.numpy(), index.window_width[leaf].numpy())))
    leaf, begin, size = leaf[order], begin[order], size[order]
    groups, start = [], 0
    for stop in _ends(index.window_width[leaf].tolist(), size.tolist()):
        place = torch.arange(int(size[stop - 1]))
        real = place < size[start:stop, None]
        visits = numbers[(begin[start:stop, None] + place).clamp_(max=len(numbers) - 1)]
        groups.append(Group(visits, real, leaf[start:stop], int(index.window_width[leaf[start]])))
        start = stop
    return groups


def _ends(widths: list[int], sizes: list[int]) -> list[int]:
    """Where groups end, of leaves sorted by width and number of visits."""
    ends, start, visits = [], 0, 0
    for i, (width, size) in enumerate(zip(widths, sizes, strict=True)):
        rows = (i + 1 - start) * size
        if i > start and (
            width != widths[start]
            or rows > PADDING * (visits + size)
            or (i + 1 - start) * width > PATCHES
            or rows * width > PRODUCTS
        ):
            ends.append(i)
            start, visits = i, 0
        visits += size
    return [*ends, len(sizes)] if sizes else []


def products_of(index: Index, level: Tensor, who: Tensor, group: Group) -> Products:
    """The products of a group; `level` is the queries' `(n, d + 1)`, and `who` `(p,)` the query of every visit."""
    visits = group.visits.flatten()
    queries = who.index_select(0, visits)
    x = index.window_levels(group.leaves, group.width)
    rows = level.index_select(0, queries).view(len(x), -1, level.shape[1])
    values = torch.bmm(rows, x.transpose(1, 2)).view(-1, group.width)
    best = values.amax(1).masked_fill_(~group.real.flatten(), -torch.inf)
    first_rows = index.window_rows[group.leaves].repeat_interleave(group.visits.shape[1])
    return Products(visits, queries, first_rows, values, best)
