"""The places of the leaves and rows of an index at its owners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kt_batch.index.served.router import Router


class Places:
    """Owner and number there of every leaf and row of an index. The patches of a leaf may have several owners.

    owner_of_leaf, leaf_at_owner: `(leaves,)` int64, the first owner of each leaf, and the number of the leaf there.
    holders: The owners that hold a patch, ascending.
    """

    def __init__(self, router: Router, shards: Sequence[Sequence[int]]) -> None:
        """Take the shards of each owner, ascending; every shard has one owner."""
        counts = router.shard_counts
        self._ends = counts.cumsum(0)
        self._owner_of_shard = torch.empty(len(counts), dtype=torch.int64, device="cpu")
        self.owner_of_leaf = torch.full((router.tree.leaves,), -1, device="cpu")
        self.leaf_at_owner = torch.empty_like(self.owner_of_leaf)
        self._at_further: dict[int, tuple[Tensor, Tensor]] = {}  # of each owner: leaves that have an earlier one too
        self._first_rows: list[tuple[Tensor, Tensor]] = []  # of each owner's shards: at the owner, in the index
        self.holders: list[int] = []
        for number, (numbers, leaves) in enumerate(zip(shards, router.leaves_of_owners(shards), strict=True)):
            own = torch.tensor(list(numbers), device="cpu")
            self._owner_of_shard[own] = number
            self._place(number, leaves)
            self._first_rows.append((counts[own].cumsum(0) - counts[own], (self._ends - counts)[own]))

    def _place(self, owner: int, leaves: Tensor) -> None:
        """Note that the leaves of an owner are `leaves` `(l,)` of the index, ascending."""
        if len(leaves):
            self.holders.append(owner)
        here = torch.arange(len(leaves), device="cpu")
        new = self.owner_of_leaf[leaves] < 0
        self.owner_of_leaf[leaves[new]] = owner
        self.leaf_at_owner[leaves[new]] = here[new]
        if not bool(new.all()):
            self._at_further[owner] = leaves[~new], here[~new]

    def visits(self, leaves: Tensor, wanted: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield each owner of some of the `wanted` `(n, c)` of `leaves` `(n, c)` of the index.

        With it come the rows, the columns and the owner's numbers of its leaves, `(p,)` each.
        """
        first, number = torch.where(wanted, self.owner_of_leaf[leaves], -1), self.leaf_at_owner[leaves]
        for owner in self.holders:
            here, own = first == owner, number
            if owner in self._at_further:
                further, numbers = self._at_further[owner]
                place = torch.searchsorted(further, leaves.contiguous()).clamp(max=len(further) - 1)
                there = wanted & (further[place] == leaves)
                here, own = here | there, torch.where(there, numbers[place], number)
            row, column = here.nonzero().unbind(1)
            if len(row):
                yield owner, row, column, own[row, column]

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
