"""The queries of one search, and what their owners hold of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar
from uuid import uuid4

import torch
from torch import Tensor

from kt_batch.index.ordering import stable_order
from kt_batch.index.served import image_messages, messages
from kt_batch.index.served.encoding import encoded
from kt_batch.index.served.messages import Array, items, narrow
from kt_batch.index.tree import Tree

R = TypeVar("R")
AnyRequest = messages.Request | image_messages.Request
AnyReply = messages.Reply | image_messages.Reply


class Owners(Protocol):
    """The owners of an index."""

    @property
    def shards(self) -> Sequence[Sequence[int]]:
        """The shards of each owner, ascending; every shard has one owner."""

    def ask(self, requests: Mapping[int, Sequence[AnyRequest]]) -> Mapping[int, AnyReply | None]:
        """Return the answer of each owner to the last of its requests.

        A lost owner is replaced, and its successor has forgotten all queries.
        """

    def tell(self, requests: Mapping[int, Sequence[AnyRequest]]) -> None:
        """Send requests that have no answer, and do not wait for them."""

    def settle(self) -> None:
        """Take note that a request of a translator is answered."""


class Asked:
    """n queries of one search. An owner numbers those that it holds, and their cells, in the order of their arrival."""

    def __init__(self, owners: Owners, levels: Tensor, patches: Tensor, tree: Tree) -> None:
        """Take first levels `(n, d + 1)` in fixed point, raw patches `(n, 4, C)`, and the tree of the index.

        Owners score rounded patches; `errors` `(n,)` bounds what that does to scores.
        """
        self.token = uuid4().hex
        self._owners = owners
        self._encoded = encoded(patches, levels, tree.mean, tree.directions)
        self.errors = self._encoded.errors
        self._held: dict[int, Tensor] = {}  # queries of each owner, in its order
        self._number: dict[int, Tensor] = {}  # of every query at each owner; -1 where it is not held
        self._cells: dict[int, Tensor] = {}  # as _number, of every cell
        self._sent: dict[int, list[messages.Request]] = {}  # to be sent again to the successor of a lost owner

    @property
    def owners(self) -> list[int]:
        """The owners that hold queries."""
        return list(self._sent)

    def send(self, owner: int, who: Tensor) -> list[messages.Request]:
        """Return what lets an owner hold queries `who` `(m,)`: a message, or none where it holds them."""
        all_, known = self._encoded, self._number.get(owner)
        if known is None:
            known = self._number[owner] = torch.full((len(all_.corners),), -1, device="cpu")
            self._cells[owner] = torch.full((len(all_.cells),), -1, device="cpu")
        new = numbered(known, who)
        if len(new) == 0:
            return []
        before = self._held.get(owner, new[:0])
        self._held[owner] = torch.cat([before, new])
        cells = numbered(self._cells[owner], all_.corners[new].flatten())
        far = all_.far[new].nonzero()[:, 0]
        return self.noted(
            owner,
            messages.Queries(
                token=self.token,
                before=len(before),
                most=len(known),
                cells=all_.cells[cells].numpy(),
                scales=all_.scales[cells].numpy(),
                corners=narrow(self._cells[owner][all_.corners[new]].flatten()),
                last_bits=all_.last_bits[new].numpy(),
                rests=all_.levels[new, -1].numpy(),
                far=narrow(far),
                levels=all_.levels[new[far]].numpy(),
            ),
        )

    def noted(self, owner: int, message: messages.Request) -> list[messages.Request]:
        """Return a message in a list, and note that the successor of a lost owner needs it too."""
        self._sent.setdefault(owner, []).append(message)
        return [message]

    def in_order(self, owner: int, who: Tensor) -> tuple[Tensor, Array]:
        """Return the order `(m,)` of items of queries `who` `(m,)` in an owner's order, and their counts `(q,)`."""
        numbers, held = self._number[owner][who], len(self._held[owner])
        return stable_order(numbers, held), narrow(torch.bincount(numbers, minlength=held))

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
        self._owners.tell({owner: [messages.Done(self.token)] for owner in self._sent})


def numbered(known: Tensor, some: Tensor) -> Tensor:
    """Number those of `some` `(m,)` that have none, -1, in `known` `(n,)`, after the largest there; return them."""
    new = torch.zeros(len(known), dtype=torch.bool, device="cpu")
    new[some] = True
    found = (new & (known < 0)).nonzero()[:, 0]
    first = int(known.max()) + 1
    known[found] = torch.arange(first, first + len(found), device="cpu")
    return found
