"""The places of the leaves and rows of an index at its owners."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kt_batch.index.served.router import Router


class Places:
    """Owner and number there of every leaf and row of an index.

    owner_of_leaf, leaf_at_owner: `(leaves,)` int64.
    """

    def __init__(self, router: Router, shards: Sequence[Sequence[int]]) -> None:
        """Take the shards of each owner, ascending; every shard has one owner."""
        tree, counts = router.tree, router.shard_counts
        self._ends = counts.cumsum(0)
        self._owner_of_shard = torch.empty(len(counts), dtype=torch.int64, device="cpu")
        self.leaf_at_owner = torch.empty(tree.leaves, dtype=torch.int64, device="cpu")
        self._first_rows: list[tuple[Tensor, Tensor]] = []  # of each owner's shards: at the owner, in the index
        for number, numbers in enumerate(shards):
            own = torch.tensor(list(numbers), device="cpu")
            self._owner_of_shard[own] = number
            leaves = torch.isin(tree.leaf_shard, own).nonzero()[:, 0]
            self.leaf_at_owner[leaves] = torch.arange(len(leaves), device="cpu")
            self._first_rows.append((counts[own].cumsum(0) - counts[own], (self._ends - counts)[own]))
        self.owner_of_leaf = self._owner_of_shard[tree.leaf_shard]

    def by_owner(self, rows: Tensor) -> dict[int, Tensor]:
        """Return the places in rows `(m,)` of the index of those of each owner that has some."""
        owner = self._owner_of_shard[torch.searchsorted(self._ends, rows, right=True)]
        return {number: (owner == number).nonzero()[:, 0] for number in owner.unique().tolist()}

    def rows_of_index(self, owner: int, rows: Tensor) -> Tensor:
        """Return an owner's rows `(m,)` as rows of the index."""
        own, index = self._first_rows[owner]
        shard = torch.searchsorted(own, rows, right=True) - 1
        return rows - own[shard] + index[shard]

    def rows_of_owner(self, owner: int, rows: Tensor) -> Tensor:
        """Return rows `(m,)` of the index, all of one owner, as its rows."""
        own, index = self._first_rows[owner]
        shard = torch.searchsorted(index, rows, right=True) - 1
        return rows - index[shard] + own[shard]
