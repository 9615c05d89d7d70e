"""The router of an index: what chooses the leaves of a query, without any patches."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from kt_batch.index.index import Index
from kt_batch.index.leaf_groups import LeafGroups, group_leaves
from kt_batch.index.tree import Tree
from kt_batch.kernels.fixed_point import round_


class Router:
    """The leaves of an index, as `searchers.leaf_choice.Leaves`, and where their rows are.

    tree: the places of the leaves, the mean and the basis; without nodes.
    leaf_means, leaf_variances, leaf_lengths: as in `Index`.
    shard_counts: patches of each shard, `(shards,)` int64.
    bits: bits of a code; None where patches are float16.
    """

    def __init__(
        self, tree: Tree, leaf_means: Tensor, leaf_variances: Tensor, shard_counts: Tensor, bits: int | None
    ) -> None:
        self.tree = without_nodes(tree)
        self.leaf_means = leaf_means
        self.leaf_variances = leaf_variances
        self.leaf_lengths = leaf_means[:, :-1].norm(dim=1).clamp(min=1e-12)
        self.shard_counts = shard_counts
        self.bits = bits

    @classmethod
    def of(cls, index: Index) -> Router:
        """Return the router of an index."""
        counts = torch.tensor([shard.count for shard in index.shards])
        return cls(index.tree, index.leaf_means, index.leaf_variances, counts, index.shards[0].bits)

    @cached_property
    def leaf_directions(self) -> Tensor:
        """The directions of the mean first levels of the leaves, in fixed point, `(d, leaves)`."""
        return round_(self.leaf_means[:, :-1] / self.leaf_lengths[:, None]).T

    @cached_property
    def leaf_groups(self) -> LeafGroups:
        """The leaves in groups of alike directions."""
        return group_leaves(self.leaf_means[:, :-1] / self.leaf_lengths[:, None])

    @property
    def count(self) -> int:
        """Number of kept patches."""
        return int(self.shard_counts.sum())

    def leaves_holding(self, k: int) -> int:
        """Return the number of leaves that hold k patches, whichever leaves they are."""
        held = self.tree.leaf_count.sort().values.cumsum(0)
        return min(int((held < k).sum()) + 1, self.tree.leaves)


def without_nodes(tree: Tree) -> Tree:
    """Return the leaves and statistics of a tree, without its nodes, whose centres take most of its memory."""
    none = tree.leaf[:0]
    return replace(tree, centres=tree.centres[:0].clone(), first_child=none, child_count=none, leaf=none)
