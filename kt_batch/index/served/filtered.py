"""The router and the owners of an index of which some images are allowed, as a translator sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from kt_batch.index.leaf_statistics import LeafStatistics
from kt_batch.index.served.asked import AnyReply, AnyRequest, Owners
from kt_batch.index.served.image_messages import Allow, AllowedCounts, DescribeLeaves, LeavesOfOwner, NotAllowed
from kt_batch.index.served.messages import wide
from kt_batch.index.served.router import Router
from kt_batch.index.shards import leaf_statistics
from kt_batch.index.tree import Tree


class FilteredOwners:
    """Owners of allowed patches. The successor of a lost one is told which they are."""

    def __init__(self, owners: Owners, allow: Allow) -> None:
        self.shards = owners.shards
        self._owners = owners
        self._allow = allow

    def ask(self, requests: Mapping[int, Sequence[AnyRequest]]) -> Mapping[int, AnyReply | None]:
        """Return the answers of the owners."""
        found = dict(self._owners.ask(requests))
        while lost := [owner for owner, reply in found.items() if isinstance(reply, NotAllowed)]:
            found |= self._owners.ask({owner: [self._allow, *requests[owner]] for owner in lost})
        return found

    def tell(self, requests: Mapping[int, Sequence[AnyRequest]]) -> None:
        """Send requests that have no answer."""
        self._owners.tell(requests)

    def settle(self) -> None:
        """Take note that a request is answered."""
        self._owners.settle()


def allowed_by(images: bytes, leaf: int, shards: Sequence[Sequence[int]], counted: Sequence[object]) -> Allow:
    """Return the message that says which images are allowed.

    Args:
        images: Their ids, concatenated.
        leaf: As in `Allow`.
        shards: Those of each owner.
        counted: The answer of each owner to `CountAllowed`.
    """
    counts = torch.zeros(sum(map(len, shards)), dtype=torch.int64, device="cpu")
    for own, reply in zip(shards, counted, strict=True):
        if not isinstance(reply, AllowedCounts):
            raise TypeError(f"An owner answered {type(reply).__name__} instead of the counts of its shards.")
        counts[torch.tensor(list(own), device="cpu")] = wide(reply.counts)
    return Allow(images, counts.numpy(), leaf)


def open_filtered(tree: Tree, owners: Owners, allow: Allow) -> tuple[Router, Owners]:
    """Return the router and the owners of allowed patches, of which there are some, given the owners of all."""
    filtered = FilteredOwners(owners, allow)
    every = range(len(owners.shards))
    found = filtered.ask({owner: [DescribeLeaves()] for owner in every})
    leaves = [reply for owner in every if isinstance(reply := found[owner], LeavesOfOwner)]
    return filtered_router(tree, torch.from_numpy(allow.counts.copy()), leaves), filtered


def filtered_router(tree: Tree, counts: Tensor, leaves: Sequence[LeavesOfOwner]) -> Router:
    """Return the router of the allowed patches.

    Args:
        tree: That of the whole index.
        counts: Allowed patches of each shard, `(shards,)`; some are above 0.
        leaves: Those of each owner.
    """
    numbers = [wide(own.numbers) for own in leaves]
    distinct, held = torch.cat(numbers).unique(return_inverse=True)
    owned = list(held.split([len(own) for own in numbers]))
    leaf_count = torch.zeros(len(distinct), dtype=torch.int64, device="cpu")
    for own, places in zip(leaves, owned, strict=True):
        leaf_count.index_add_(0, places, wide(own.counts))
    means, variances = _statistics(leaves, owned, len(distinct))
    none = torch.zeros_like(leaf_count)
    flat = {"leaf_node": none, "leaf_shard": none, "leaf_start": leaf_count.cumsum(0) - leaf_count}
    allowed = Tree(**{**vars(tree), **flat, "leaf_count": leaf_count})
    return Router(allowed, LeafStatistics.of(means, variances), counts, owned)


def _statistics(leaves: Sequence[LeavesOfOwner], owned: Sequence[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Return means and variances of the leaves; those of several owners are made of all their rows."""
    some = next(own for own in leaves if len(own.means))
    means = torch.empty(count, some.means.shape[1], device="cpu")
    variances = torch.empty(count, some.variances.shape[1], device="cpu")
    for own, places in zip(leaves, owned, strict=True):
        if len(places):
            means[places] = torch.from_numpy(own.means.copy())
            variances[places] = torch.from_numpy(own.variances.copy())
    owners = torch.bincount(torch.cat(list(owned)), minlength=count)
    parts: dict[int, list[tuple[int, Tensor]]] = {}
    for own, places in zip(leaves, owned, strict=True):
        for leaf, place, levels in _runs(own):
            if owners[places[leaf]] > 1:
                parts.setdefault(int(places[leaf]), []).append((place, levels))
    for leaf, found in parts.items():
        levels = torch.cat([part for _, part in sorted(found, key=lambda part: part[0])])
        mean, variance = leaf_statistics(levels, torch.tensor([len(levels)], device="cpu"))
        means[leaf], variances[leaf] = mean[0], variance[0]
    return means, variances


def _runs(own: LeavesOfOwner) -> Iterator[tuple[int, int, Tensor]]:
    """Yield the leaf, the place and the first levels of each run of an owner."""
    leaves, counts = wide(own.run_leaves).tolist(), wide(own.run_counts).tolist()
    levels = torch.from_numpy(own.run_levels.copy()).split(counts)
    yield from zip(leaves, own.run_places.tolist(), levels, strict=True)
