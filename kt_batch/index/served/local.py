"""Owners in this process: the reference for owners elsewhere, and a measure of their messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kt_batch.index.index import Index
from kt_batch.index.served.asked import AnyReply, AnyRequest
from kt_batch.index.served.image_owner import OwnerOfImages
from kt_batch.index.served.messages import Traffic
from kt_batch.index.served.owner import Owner


class LocalOwners:
    """The owners of an index in memory. `traffic` counts the bytes of their messages."""

    def __init__(self, index: Index, shards: Sequence[Sequence[int]], *, filtered: bool = False) -> None:
        """Divide an index among owners of these shards, each ascending; `filtered` ones wait for a filter."""
        self.shards = shards
        self.traffic = Traffic()
        self._index, self._filtered = index, filtered
        self.owners = [self.new_owner(number) for number in range(len(shards))]

    def new_owner(self, number: int) -> OwnerOfImages:
        """Return an owner as it is in the beginning."""
        own = self.shards[number]
        owner = Owner(self._index.tree, own, [self._index.shards[shard] for shard in own])
        return OwnerOfImages(owner, own, filtered=self._filtered)

    def ask(self, requests: Mapping[int, Sequence[AnyRequest]]) -> dict[int, AnyReply | None]:
        """Return the answers, one after another."""
        return {number: self._asked(number, some) for number, some in requests.items()}

    def tell(self, requests: Mapping[int, Sequence[AnyRequest]]) -> None:
        """Send requests that have no answer."""
        self.ask(requests)

    def settle(self) -> None:
        """Do nothing."""

    def _asked(self, number: int, requests: Sequence[AnyRequest]) -> AnyReply | None:
        for request in requests:
            self.traffic.add(request)
        reply = self.owners[number].answer(requests)
        if reply is not None:
            self.traffic.add(reply)
        return reply
