"""Owners in this process: the reference for owners elsewhere, and a measure of their messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kt_batch.index.index import Index
from kt_batch.index.served import messages
from kt_batch.index.served.messages import Traffic
from kt_batch.index.served.owner import Owner


class LocalOwners:
    """The owners of an index in memory. `traffic` counts the bytes of their messages."""

    def __init__(self, index: Index, shards: Sequence[Sequence[int]]) -> None:
        """Divide an index among owners of these shards, each ascending."""
        self.shards = shards
        self.traffic = Traffic()
        self.owners = [Owner(index.tree, own, [index.shards[number] for number in own]) for own in shards]

    def ask(self, requests: Mapping[int, Sequence[messages.Request]]) -> dict[int, messages.Reply | None]:
        """Return the answers, one after another."""
        return {number: self._asked(number, some) for number, some in requests.items()}

    def _asked(self, number: int, requests: Sequence[messages.Request]) -> messages.Reply | None:
        for request in requests:
            self.traffic.add(request)
        reply = self.owners[number].answer(requests)
        if reply is not None:
            self.traffic.add(reply)
        return reply
