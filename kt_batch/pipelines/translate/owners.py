"""The owners of an index, each in a process of its own, and the index as a translator sees it that asks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from kt_batch.errors import DamagedError, MismatchError, UsageError
from kt_batch.index.index import Index
from kt_batch.index.leaf_statistics import map_leaves
from kt_batch.index.served import messages
from kt_batch.index.served.asked import AnyReply, AnyRequest
from kt_batch.index.served.fetched import in_memory
from kt_batch.index.served.filtered import allowed_by, open_filtered
from kt_batch.index.served.image_messages import Allow, CountAllowed, DescribeLeaves
from kt_batch.index.served.image_owner import OwnerOfImages
from kt_batch.index.served.index import ServedIndex
from kt_batch.index.served.messages import Traffic
from kt_batch.index.served.owner import Owner, part_of_tree
from kt_batch.index.served.router import Router
from kt_batch.index.shards import LEAF_NAMES, open_shard
from kt_batch.index.tree import Tree
from kt_batch.index.turns import waiting
from kt_batch.index.validation import check_fit, check_leaves_fit, check_summary
from kt_batch.pipelines.numerics import differing_numerics, fix_numerics
from kt_batch.pipelines.translate.mapped_index import check_leaf_statistics, check_shard, check_tree, map_file
from kt_batch.redaction import redacted
from kt_batch.runners.base import Service
from kt_batch.store.advice import read_at_random, read_soon
from kt_batch.store.cache import CachePlace
from kt_batch.store.indexes import IndexSummary, read_index_summary
from kt_batch.store.locations import Location, open_location
from kt_batch.store.mapped import MappedFile
from kt_batch.store.shard_files import ShardFiles

COMPUTED = (messages.Queries, messages.Proof, DescribeLeaves)  # what they ask for, or begin, has bits of a class
OF_ONE_PROCESS = ("device", "threads")  # of a numerics class; a search has the same bits on any number of threads


@dataclass(frozen=True)
class IndexPlace:
    """An index in a library, and where its files are staged."""

    library: str
    digest: str
    cache: CachePlace

    def summary(self, location: Location) -> IndexSummary:
        """Return its summary. Raises DamagedError when it is gone."""
        summary = read_index_summary(location, self.digest)
        if summary is None:
            raise DamagedError(f"The index {self.digest} of '{self.library}' is gone.")
        return summary


@dataclass(frozen=True)
class Owned:
    """An index that some parts of a service hold.

    shards: Those of each part, ascending.
    first: The number of its first part in the service.
    allow: Says which images a filter allows; None where all patches are searched.
    fetched: Whether each worker fetches the allowed patches, and asks for nothing more.
    drawn: The images that sources are drawn from, ids concatenated; None for all.
    """

    place: IndexPlace
    service: Service
    shards: tuple[tuple[int, ...], ...]
    first: int = 0
    allow: Allow | None = None
    fetched: bool = False
    drawn: bytes | None = None


@dataclass(frozen=True)
class OfClass:
    """Says of which numerics class a translator is; an owner of another one refuses what follows."""

    numerics: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Opened:
    """Asks an owner to open its shards."""


class IndexOwner:
    """An owner in a process of its own: what a service keeps."""

    def __init__(
        self, place: IndexPlace, numbers: Sequence[int], held: int, mix_numerics: bool, filtered: bool = False
    ) -> None:
        """Open the shards with `numbers`; `held` is how many searches may be under way at a time.

        `filtered` waits to be told which images are allowed, and then holds their patches alone.

        Raises:
            KtBatchError: The index is gone or damaged.
        """
        owner = open_owner(place, numbers, held, in_order=filtered)
        self._owner = OwnerOfImages(owner, numbers, held, filtered=filtered)
        self._mix_numerics = mix_numerics
        self._numerics = fix_numerics(torch.get_num_threads())

    def answer(self, requests: Sequence[Any]) -> AnyReply | None:
        """Answer the last of some requests, after the others, as `OwnerOfImages.answer` does.

        Raises:
            MismatchError: The translator that asks is of another numerics class.
        """
        asked = []
        for request in requests:
            if isinstance(request, OfClass):
                self._check_class(dict(request.numerics))
            elif not isinstance(request, Opened):
                asked.append(request)
        return self._owner.answer(asked) if asked else None

    def _check_class(self, theirs: dict[str, str]) -> None:
        classes = (theirs, self._numerics)
        both = [{name: each[name] for name in each if name not in OF_ONE_PROCESS} for each in classes]
        differing = differing_numerics(*both)
        if differing and not self._mix_numerics:
            raise MismatchError(
                f"A part of the index is held by a process of another numerics class than the worker's ({differing}); "
                "use machines of one kind, or allow the mix with --mix-numerics."
            )


@dataclass(frozen=True)
class OwnerFactory:
    """Makes an owner in the process that calls it. `place` and what follows are as `IndexOwner` takes them.

    owner, owners: Its number among the owners of all indexes, and theirs.
    """

    owner: int
    owners: int
    place: IndexPlace
    shards: tuple[int, ...]
    held: int
    mix_numerics: bool
    filtered: bool

    def __call__(self) -> IndexOwner:
        """Open the shards."""
        return IndexOwner(self.place, self.shards, self.held, self.mix_numerics, self.filtered)

    def __str__(self) -> str:
        """Return what people know the owner by."""
        return f"index owner {self.owner} of {self.owners}, of '{redacted(self.place.library)}'"


def open_owner(place: IndexPlace, numbers: Sequence[int], held: int, *, in_order: bool = False) -> Owner:
    """Map the shards with `numbers` of an index, from the library or from staged copies, and nothing of the others.

    `in_order` says that their rows are copied one after another, and not read here and there.

    Raises:
        KtBatchError: The index is gone or damaged.
    """
    location = open_location(place.library)
    summary = place.summary(location)
    tree, tree_file = _map_tree(place, location, summary)
    with closing(ShardFiles(location, place.cache, check_shard)) as files:
        mapped = files.map_all([summary.shards[number] for number in numbers])
    shards = [open_shard(file.path, file.name, checked=True) for file in mapped]
    check_fit(part_of_tree(tree, numbers), shards, _name(location, summary))
    for shard in shards if not in_order else ():
        read_at_random(tensor for key, tensor in shard.tensors().items() if key not in LEAF_NAMES)
    owner = Owner(tree, numbers, shards, mapped, read_soon, held)  # it copies what it needs of the tree
    tree_file.check()
    return owner


def tell_allowed(owned: Owned, images: bytes, leaf: int) -> Allow:
    """Let the owners of an index hold the patches of some images alone, and return what successors are to be told.

    Args:
        owned: The index, whose owners wait to be told.
        images: The ids of the images, concatenated.
        leaf: Patches of a leaf that neighbouring leaves are joined to.
    """
    parts = range(owned.first, owned.first + len(owned.shards))
    counted = owned.service.ask({part: [CountAllowed(images)] for part in parts})
    allow = allowed_by(images, leaf, owned.shards, [counted[part] for part in parts])
    owned.service.ask_replicas({part: [allow] for part in parts})
    return allow


def open_served(owned: Mapping[int, Owned], numerics: Mapping[str, str]) -> dict[int, Index | ServedIndex | None]:
    """Open what processes share, by number of the library; None for one that has no patch of an allowed image.

    Raises:
        KtBatchError: An index is gone or damaged.
    """
    found = dict[int, Index | ServedIndex | None]()
    for number, each in owned.items():
        if each.allow is not None and not each.allow.counts.any():
            found[number] = None
            continue
        index = open_router(each, numerics)
        every = torch.arange(index.count, device="cpu")
        found[number] = in_memory(index, every, index.tree.leaf_count) if each.fetched else index
    return found


def open_router(owned: Owned, numerics: Mapping[str, str]) -> ServedIndex:
    """Open what chooses the leaves of queries, and no shard of the index; `numerics` are those of this process.

    Raises:
        KtBatchError: The index is gone or damaged.
    """
    place = owned.place
    location = open_location(place.library)
    summary = place.summary(location)
    tree, tree_file = _map_tree(place, location, summary)
    owners = RemoteOwners(owned, numerics)
    if owned.allow is not None:
        router, filtered = open_filtered(tree, owners, owned.allow)
        tree_file.check()
        return ServedIndex(router, filtered)
    if summary.leaf_statistics is None:
        raise no_statistics(place.library, summary)
    leaves_file = map_file(location, summary.leaf_statistics, place.cache, check_leaf_statistics)
    leaves = map_leaves(leaves_file.path)
    check_leaves_fit(tree, leaves, _name(location, summary))
    read_at_random([leaves.variances])
    counts = torch.zeros(len(summary.shards), dtype=torch.int64, device="cpu")
    counts.index_add_(0, tree.leaf_shard, tree.leaf_count)
    index = ServedIndex(Router(tree, leaves, counts), owners, (tree_file, leaves_file), owned.drawn)
    index.check_files()
    return index


def _map_tree(place: IndexPlace, location: Location, summary: IndexSummary) -> tuple[Tree, MappedFile]:
    """Map the tree of an index, and return it with its file. Raises KtBatchError where it is gone or damaged."""
    file = map_file(location, summary.tree, place.cache, check_tree)
    tree = Tree.map(file.path)
    check_summary(tree, summary.channels, summary.leaves, _name(location, summary))
    return tree, file


def _name(location: Location, summary: IndexSummary) -> str:
    return f"{summary.digest} of '{location.uri}'"


def no_statistics(library: str, summary: IndexSummary) -> UsageError:
    """Return the error of an index without a file of its leaves."""
    return UsageError(
        f"The index {summary.digest} of '{library}' is of format {summary.format}, which has no file of its leaves, so "
        "processes cannot share it (--index-memory); run kt-batch index --fresh."
    )


class RemoteOwners:
    """The owners of an index in other processes, as a served search asks them; counts what is sent.

    A thread that waits for them leaves its turn to another one (index.turns).
    """

    def __init__(self, owned: Owned, numerics: Mapping[str, str]) -> None:
        self.shards = owned.shards
        self._service, self._first = owned.service, owned.first
        self._class = OfClass(tuple(numerics.items()))
        self._counts: dict[int, dict[str, float]] = {}

    def ask(self, requests: Mapping[int, Sequence[AnyRequest]]) -> Mapping[int, AnyReply | None]:
        """Return the answers of the owners."""
        asked = {self._first + owner: self._introduced(some) for owner, some in requests.items()}
        with waiting():
            answers = self._service.ask(asked)
        replies = {owner: answers[self._first + owner] for owner in requests}
        for owner, some in requests.items():
            reply = replies[owner]
            self._count(owner, some, reply)
        return replies

    def tell(self, requests: Mapping[int, Sequence[AnyRequest]]) -> None:
        """Send requests that have no answer."""
        self._service.tell({self._first + owner: some for owner, some in requests.items()})

    def settle(self) -> None:
        """Report what was counted since the last call."""
        counts, self._counts = self._counts, {}
        with waiting():
            self._service.note(counts)

    def _introduced(self, requests: Sequence[AnyRequest]) -> list[Any]:
        return [self._class, *requests] if any(isinstance(each, COMPUTED) for each in requests) else list(requests)

    def _count(self, owner: int, requests: Sequence[AnyRequest], reply: AnyReply | None) -> None:
        counts = self._counts.setdefault(self._first + owner, {"queries": 0, "visits": 0, "bytes": 0})
        traffic = Traffic()
        for request in requests:
            traffic.add(request)
            if isinstance(request, messages.Queries):
                counts["queries"] += len(request.last_bits)
            elif isinstance(request, messages.Proof):
                counts["queries"] += len(request.corners)
            elif isinstance(request, messages.Visits | messages.Further):
                counts["visits"] += messages.length(request.leaves)
        if reply is not None:
            traffic.add(reply)
        counts["bytes"] += traffic.total()
