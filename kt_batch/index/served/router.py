"""The router of an index: what chooses the leaves of a query, without any patches."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kt_batch.index.index import Index
from kt_batch.index.leaf_statistics import LeafStatistics
from kt_batch.index.tree import Tree


class Router:
    """The leaves of an index, as `searchers.leaf_choice.Leaves`, and where their rows are.

    tree: the places of the leaves, the mean and the basis; without nodes.
    statistics: of the leaves.
    shard_counts: patches of each shard, `(shards,)` int64.
    bits: bits of a code; None where patches are float16.
    """

    def __init__(self, tree: Tree, statistics: LeafStatistics, shard_counts: Tensor, bits: int | None) -> None:
        self.tree = without_nodes(tree)
        self.statistics = statistics
        self.shard_counts = shard_counts
        self.bits = bits

    @classmethod
    def of(cls, index: Index) -> Router:
        """Return the router of an index."""
        counts = torch.tensor([shard.count for shard in index.shards], device="cpu")
        return cls(index.tree, index.statistics, counts, index.shards[0].bits)

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
