"""The queries of one search, and what their owners hold of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar
from uuid import uuid4

import torch
from torch import Tensor

from kt_batch.index.served import messages
from kt_batch.index.served.messages import Array, distinct_cells, items, narrow
from kt_batch.kernels.fixed_point import STEP

R = TypeVar("R")


class Owners(Protocol):
    """The owners of an index."""

    @property
    def shards(self) -> Sequence[Sequence[int]]:
        """The shards of each owner, ascending; every shard has one owner."""

    def ask(self, requests: Mapping[int, Sequence[messages.Request]]) -> Mapping[int, messages.Reply | None]:
        """Return the answer of each owner to the last of its requests.

        A lost owner is replaced, and its successor has forgotten all queries.
        """


class Asked:
    """n queries of one search. An owner numbers those that it holds in the order in which they arrived."""

    def __init__(self, owners: Owners, levels: Tensor, patches: Tensor) -> None:
        """Take first levels `(n, d + 1)` in fixed point, and raw patches `(n, 4, C)`."""
        self.token = uuid4().hex
        self._owners = owners
        self._levels = (levels / STEP).short()
        self._cells, self._corners = distinct_cells(patches)
        self._held: dict[int, Tensor] = {}  # queries of each owner, in its order
        self._number: dict[int, Tensor] = {}  # of every query at each owner; -1 where it is not held
        self._with_patch: dict[int, Tensor] = {}  # whether each owner holds the patch of every query
        self._sent: dict[int, list[messages.Request]] = {}  # to be sent again to the successor of a lost owner

    @property
    def owners(self) -> list[int]:
        """The owners that hold queries."""
        return list(self._sent)

    def send(self, owner: int, who: Tensor) -> list[messages.Request]:
        """Return what lets an owner hold queries `who` `(m,)`: a message, or none where it holds them."""
        n = len(self._levels)
        known = self._number.setdefault(owner, torch.full((n,), -1, device="cpu"))
        new = who[known[who] < 0].unique()
        if len(new) == 0:
            return []
        held = self._held.get(owner, new[:0])
        known[new] = torch.arange(len(held), len(held) + len(new), device="cpu")
        self._held[owner] = torch.cat([held, new])
        self._with_patch.setdefault(owner, torch.zeros(n, dtype=torch.bool, device="cpu"))
        return self.noted(owner, messages.Queries(self.token, self._levels[new].numpy(), len(held)))

    def send_patches(self, owner: int, who: Tensor) -> list[messages.Request]:
        """Return what lets an owner have the patches of queries `who` `(m,)` that it holds."""
        there = self._with_patch[owner]
        new = who[~there[who]].unique()
        if len(new) == 0:
            return []
        there[new] = True
        some, corners = self._corners[new].unique(return_inverse=True)
        numbers = narrow(self._number[owner][new])
        return self.noted(owner, messages.Patches(self.token, numbers, self._cells[some].numpy(), narrow(corners)))

    def noted(self, owner: int, message: messages.Request) -> list[messages.Request]:
        """Return a message in a list, and note that the successor of a lost owner needs it too."""
        self._sent.setdefault(owner, []).append(message)
        return [message]

    def in_order(self, owner: int, who: Tensor) -> tuple[Tensor, Array]:
        """Return the order `(m,)` of items of queries `who` `(m,)` in an owner's order, and their counts `(q,)`."""
        numbers = self._number[owner][who]
        counts = torch.bincount(numbers, minlength=len(self._held[owner]))
        return torch.sort(numbers, stable=True).indices, narrow(counts)

    def queries_of(self, owner: int, counts: Array) -> Tensor:
        """Return the query `(m,)` of each item of an answer with `counts` `(q,)`."""
        return self._held[owner][items(counts)]

    def of_each(self, owner: int, values: Tensor) -> Array:
        """Return the values of an owner's queries in its order, `(q,)`, of `values` `(n,)`."""
        array: Array = values[self._held[owner]].numpy()
        return array

    def ask(self, requests: Mapping[int, Sequence[messages.Request]], kind: type[R]) -> dict[int, R]:
        """Return the answers to the last request of each owner, all of one kind.

        Where an owner has forgotten the queries, it is told all about them again.
        """
        replies = dict(self._owners.ask(requests))
        while lost := [owner for owner, reply in replies.items() if isinstance(reply, messages.Forgotten)]:
            again = {owner: [*self._sent[owner], requests[owner][-1]] for owner in lost}
            replies |= self._owners.ask(again)
        return {owner: reply for owner, reply in replies.items() if isinstance(reply, kind)}

    def end(self) -> None:
        """Let the owners forget the queries."""
        self._owners.ask({owner: [messages.Done(self.token)] for owner in self._sent})
