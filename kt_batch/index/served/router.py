"""The router of an index: what chooses the leaves of a query, without any patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """

    def __init__(
        self, tree: Tree, statistics: LeafStatistics, shard_counts: Tensor, owned: Sequence[Tensor] | None = None
    ) -> None:
        """Take the parts; `owned` are the leaves of each owner, where these are not the leaves of its shards."""
        self.tree = without_nodes(tree)
        self.statistics = statistics
        self.shard_counts = shard_counts
        self._owned = owned

    @classmethod
    def of(cls, index: Index) -> Router:
        """Return the router of an index."""
        counts = torch.tensor([shard.count for shard in index.shards], device="cpu")
        return cls(index.tree, index.statistics, counts)

    @property
    def count(self) -> int:
        """Number of kept patches."""
        return int(self.shard_counts.sum())

    def leaves_of_owners(self, shards: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Yield the leaves `(l,)` of each owner, ascending, as the owner numbers them, given the shards of each."""
        for number, own in enumerate(shards):
            if self._owned is not None:
                yield self._owned[number]
            else:
                yield torch.isin(self.tree.leaf_shard, torch.tensor(list(own), device="cpu")).nonzero()[:, 0]

    def leaves_holding(self, k: int) -> int:
        """Return the number of leaves that hold k patches, whichever leaves they are."""
        smallest = self.tree.leaf_count.topk(min(k, self.tree.leaves), largest=False).values  # every leaf holds one
        return min(int((smallest.cumsum(0) < k).sum()) + 1, self.tree.leaves)

    def leaves_to_probe(self, wanted: int, k: int) -> int:
        """Return `wanted`, or more where so few leaves may hold fewer than k patches; at most all leaves."""
        return min(max(wanted, self.leaves_holding(k)), self.tree.leaves)


def without_nodes(tree: Tree) -> Tree:
    """Return the leaves and statistics of a tree, without its nodes, whose centres take most of its memory."""
    none = tree.leaf[:0]
    return replace(tree, centres=tree.centres[:0].clone(), first_child=none, child_count=none, leaf=none)
