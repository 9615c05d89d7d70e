"""Groups of leaves with alike directions, so that a query need not be compared with every leaf.

They are made when they are first needed, by a few rounds of spherical k-means over the directions of the leaves. The
first centres are leaves at equal distances: leaves that follow one another are alike, for they lie near in the tree.
Sums are integers, so that the groups of a tree are always the same.
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor

from kt_batch.kernels.fixed_point import round_
from kt_batch.kernels.kmeans import FIXED_POINT, assign, fixed_point_sums
from kt_batch.kernels.tiles import normalise

PER_ROOT = 2  # groups for each unit of the root of the number of leaves
ROUNDS = 5  # of k-means
SAMPLED = 32  # leaves for each group in these rounds
LARGEST = 2  # times the mean size of a group; a larger one is cut
ROWS = 65536  # directions that are copied at a time
GROUPED = 1 << 17  # leaves from which groups of them pay
WIDTH = 64  # leaves; a group is read through a window of a multiple of these, so that products have few shapes


class LeafGroups:
    """G groups of all leaves, in an order in which the leaves of a group are adjacent.

    A group is read through its window: its leaves and those after it that make the width a multiple of WIDTH.

    centres: unit vectors in fixed point and a row of zeros, `(d + 1, G)` float32, for products with first levels.
    start: the place of the first leaf of each group, `(G,)` int64.
    size: leaves of each group, `(G,)` int64, at least 1.
    widths: leaves of the window of each group, `(G,)` int64.
    leaves: the numbers of the leaves, `(leaves,)` int64, ascending within a group.
    directions: of the leaves in this order, in fixed point, a zero each, and WIDTH rows of zeros,
        `(leaves + WIDTH, d + 1)` float32.
    """

    def __init__(self, centres: Tensor, size: Tensor, leaves: Tensor, directions: Tensor) -> None:
        """Take groups as they are kept.

        Args:
            centres: As the attribute.
            size: As the attribute.
            leaves: As the attribute; it may be mapped.
            directions: As the attribute; it may be mapped.
        """
        self.centres = centres
        self.size = size
        self.start = size.cumsum(0) - size
        self.widths = (size + WIDTH - 1) // WIDTH * WIDTH
        self.leaves = leaves
        self.directions = directions
        places = zip(self.start.tolist(), self.size.tolist(), self.widths.tolist(), strict=True)
        self._places: list[tuple[int, int, int]] = list(places)

    def width(self, group: int) -> int:
        """Return the leaves of the window of a group."""
        return self._places[group][2]

    def count(self, group: int) -> int:
        """Return the leaves of a group."""
        return self._places[group][1]

    def window(self, group: int) -> Tensor:
        """Return the directions, and a zero each, of the leaves of a group's window, `(width, d + 1)` float32.

        They are in fixed point.
        """
        start, _, width = self._places[group]
        return self.directions[start : start + width]

    def holding(self, count: int) -> int:
        """Return the number of groups that hold `count` leaves, whichever groups they are; at most all groups."""
        held = self.size.sort().values.cumsum(0)
        return min(int((held < count).sum()) + 1, len(self.size))


def group_leaves(directions: Tensor) -> LeafGroups:
    """Group leaves with directions `(leaves, d)` float32, unit vectors or zero in fixed point.

    The number of groups is about PER_ROOT times the root of the number of leaves.
    """
    count, dim = directions.shape
    wanted = max(1, PER_ROOT * isqrt(count))
    labels, _ = assign(directions, _centres(directions, wanted))
    order = torch.sort(labels, stable=True).indices
    size = _cut(torch.bincount(labels), max(1, LARGEST * count // wanted))
    ordered = directions.new_zeros(count + WIDTH, dim + 1)
    for start in range(0, count, ROWS):
        some = order[start : start + ROWS]
        ordered[start : start + len(some), :-1] = directions.index_select(0, some)
    own = torch.arange(len(size), device=order.device).repeat_interleave(size)
    sums, _ = fixed_point_sums(ordered[:count, :-1], own, len(size))
    centres = directions.new_zeros(dim + 1, len(size))
    centres[:-1] = round_(normalise((sums.double() / FIXED_POINT).float())).T
    return LeafGroups(centres, size, order, ordered)


def _centres(directions: Tensor, count: int) -> Tensor:
    """Return about `count` centres of directions, by k-means over leaves at equal distances."""
    step = max(1, len(directions) // (count * SAMPLED))
    sample = directions[::step].contiguous()
    centres = sample[:: max(1, len(sample) // count)][:count].clone()
    for _ in range(ROUNDS):
        labels, _ = assign(sample, centres)
        sums, counts = fixed_point_sums(sample, labels, len(centres))
        moved = normalise((sums.double() / FIXED_POINT).float())
        centres = torch.where(counts[:, None] > 0, moved, centres)
    return centres


def _cut(sizes: Tensor, most: int) -> Tensor:
    """Return the sizes of groups after those larger than `most` are cut into about equal parts; none is 0."""
    sizes = sizes[sizes > 0]
    parts = (sizes + most - 1) // most
    group = torch.arange(len(sizes), device=sizes.device).repeat_interleave(parts)
    place = torch.arange(len(group), device=sizes.device) - (parts.cumsum(0) - parts)[group]
    return sizes[group] // parts[group] + (place < sizes[group] % parts[group])
