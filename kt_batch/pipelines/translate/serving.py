"""Decide whether processes share the index of a translation, and start the owners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from kt_batch.config import MethodConfig, SearchConfig
from kt_batch.errors import UsageError
from kt_batch.events import log_event
from kt_batch.index.restricted import mean_leaf
from kt_batch.index.search import check_served
from kt_batch.index.served.image_messages import Allow
from kt_batch.index.served.placement import divide_shards
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.pipelines.translate.libraries import index_digests
from kt_batch.pipelines.translate.owners import IndexPlace, Opened, Owned, OwnerFactory, no_statistics, tell_allowed
from kt_batch.pipelines.translate.placement import index_sizes
from kt_batch.pipelines.translate.plan import TranslateJob, TranslateRequest
from kt_batch.pipelines.translate.resources import IN_MEMORY_BYTES
from kt_batch.runners.base import Runner, Serves, Service
from kt_batch.store.cache import CachePlace
from kt_batch.store.locations import open_location

OWN_BYTES = 400 << 20  # of a process that holds shards, beside them: the interpreter, torch, and one search
SEARCH_BYTES = 256 << 20  # at all owners together, of each further search under way: queries, and first products
HELD = 8  # searches that an owner holds at least
HELD_OF_WORKER = 2  # one under way, and one of a worker that was lost


@dataclass(frozen=True)
class OwnerUsage:
    """The use of one owner of an index, all its replicas together.

    queries: Sent to it; of each photograph those that look into its shards. visits: Leaves that they look into there.
    bytes: Of all messages to and from it, without what frames them. seconds: For which workers waited for it, added
    up; while they wait for others too, the same seconds count for each. lost: Requests that were lost with a process,
    and sent again. index_bytes: Of its shards.
    """

    queries: int
    visits: int
    bytes: int
    seconds: float
    lost: int
    index_bytes: int


@dataclass(frozen=True)
class SharedIndex:
    """An index that processes share.

    library: The number of its library. shards: Of each owner, ascending. sizes: Bytes of each owner's shards.
    patches: All that are kept. leaf: Those of a leaf on average, rounded up.
    """

    library: int
    place: IndexPlace
    shards: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    patches: int
    leaf: int

    def bytes_of(self, allow: Allow) -> int:
        """Return the bytes of the allowed patches, about."""
        return sum(self.sizes) * int(allow.counts.sum()) // self.patches


@dataclass(frozen=True)
class Division:
    """The indexes that processes share; every worker opens those of the other libraries.

    room: Bytes that a worker may hold beside these. replicas: Processes that hold the shards of each owner.
    """

    shared: tuple[SharedIndex, ...]
    room: int
    replicas: int = 1

    @property
    def sizes(self) -> list[int]:
        """Bytes of the shards of each owner, those of all indexes."""
        return [size for each in self.shared for size in each.sizes]


@dataclass(frozen=True)
class OwnersMemory:
    """The memory that the owners of indexes reserve on their nodes, beside that of the workers.

    replicas: Processes of each owner. bytes: Of all processes. largest_bytes: Of the largest of them.
    """

    owners: int
    replicas: int
    bytes: int
    largest_bytes: int


def plan_division(request: TranslateRequest, runner: Runner) -> Division | None:
    """Return how processes share the indexes; None where a process may hold all of them, or no limit is given.

    Raises:
        UsageError: The limit has no effect, or the indexes are larger and cannot be shared.
    """
    return _divided(request, shares=isinstance(runner, Serves))


def expected_owners(request: TranslateRequest) -> OwnersMemory | None:
    """Return the memory that owners would reserve with the runner that the options name; None without owners.

    Raises what `plan_division` raises.
    """
    division = _divided(request, shares=request.options.runner == "ray")
    if division is None:
        return None
    each = reserved(division, request.options.workers or 1)
    return OwnersMemory(len(each), division.replicas, division.replicas * sum(each), max(each))


def _divided(request: TranslateRequest, *, shares: bool) -> Division | None:
    """Return what `plan_division` returns. shares: Whether the runner can share an index."""
    config, sources, most = request.config, request.sources, request.index_memory
    if most is None:
        if request.index_replicas > 1:
            raise UsageError(
                f"--index-replicas {request.index_replicas} has no effect without --index-memory, "
                "which lets processes share an index."
            )
        return None
    if sources.library is None or config.index_digest is None:
        raise UsageError(f"The method {config.method} searches no index, so --index-memory has no effect.")
    sizes = index_sizes(config, sources)
    if sum(sizes) <= most:
        return None
    check_served(_search_of(config))
    places = [
        IndexPlace(place, digest, CachePlace(sources.cache, sources.cache_bytes))
        for place, digest in zip((sources.library, *sources.further), index_digests(config), strict=True)
    ]
    shared = [_shared(number, places[number], most) for number in too_large(sizes, most)]
    if not shares:
        named = "', '".join(each.place.library for each in shared)
        subject, them = f"index of '{named}' has", "it"
        if len(shared) > 1:
            subject, them = f"indexes of '{named}' have", "them"
        size = sum(sizes[each.library] for each in shared) / 1e9
        raise UsageError(
            f"The {subject} {size:.3g} GB, more than --index-memory, and only --runner ray shares {them} among "
            "processes; with --runner local leave --index-memory out, and the index is mapped."
        )
    whole = sum(sizes) - sum(sizes[each.library] for each in shared)
    return Division(tuple(shared), most - whole, request.index_replicas)


def too_large(sizes: Sequence[int], most: int) -> list[int]:
    """Return the numbers of the libraries whose indexes do not fit in one process, ascending.

    The smallest indexes stay whole, as many as fit together; of equal ones the first.

    Args:
        sizes: Bytes of each index.
        most: Bytes that a process may hold.
    """
    held, shared = 0, []
    for number in sorted(range(len(sizes)), key=lambda number: (sizes[number], number)):
        if held + sizes[number] <= most:
            held += sizes[number]
        else:
            shared.append(number)
    return sorted(shared)


def _shared(library: int, place: IndexPlace, most: int) -> SharedIndex:
    """Return how processes share the index of a library. Raises UsageError where it cannot be shared."""
    summary = place.summary(open_location(place.library))
    if summary.leaf_statistics is None:
        raise no_statistics(place.library, summary)
    sizes = [shard.bytes for shard in summary.shards]
    if max(sizes) > most:
        raise UsageError(
            f"--index-memory {most / 1e9:.3g}GB is less than the largest shard of the index {summary.digest} of "
            f"'{place.library}', which has {max(sizes) / 1e9:.3g} GB and stays whole; give as many or more."
        )
    shards = divide_shards(sizes, most)
    held = tuple(sum(sizes[shard] for shard in own) for own in shards)
    return SharedIndex(
        library, place, tuple(map(tuple, shards)), held, summary.kept, mean_leaf(summary.kept, summary.leaves)
    )


def _search_of(config: MethodConfig) -> SearchConfig:
    search: SearchConfig = getattr(config, "search", SearchConfig())
    return search


def reserved(division: Division, workers: int) -> list[int]:
    """Return the bytes of memory that each owner reserves; each of the workers may have a search under way.

    A replica reserves as many, since it may be the last one.
    """
    owners = [len(each.shards) for each in division.shared for _ in each.shards]
    further = SEARCH_BYTES * (workers - 1)
    return [held + OWN_BYTES + further // count for held, count in zip(division.sizes, owners, strict=True)]


@contextmanager
def served(job: TranslateJob, division: Division | None, runner: Runner, progress: Progress) -> Iterator[TranslateJob]:
    """Yield the job with owners of its indexes that have opened their shards; they end with the block.

    Without a division it is the job as it is.

    Raises:
        KtBatchError: The cluster has no room, or an index is damaged.
    """
    if division is None or not isinstance(runner, Serves):
        yield job
        return
    sizes = division.sizes
    replicas = division.replicas
    times = f", {replicas} times" if replicas > 1 else ""
    note = (
        f"{sum(sizes) / 1e9:.3g} GB of the index in {len(sizes)} processes{times}, the largest with "
        f"{max(sizes) / 1e9:.3g} GB"
    )
    progress(Step("index", 0, len(sizes), note=f"Opening {note}."))
    searches = max(HELD, HELD_OF_WORKER * runner.workers)
    filtered = bool(job.sources.allowed) and not job.config.draw  # a source is drawn from all patches
    every = [(each.place, own) for each in division.shared for own in each.shards]
    factories = [
        OwnerFactory(number, len(every), place, own, searches, job.mix_numerics, filtered)
        for number, (place, own) in enumerate(every)
    ]
    service = runner.serve(factories, reserved(division, runner.workers), replicas)
    try:
        service.ask_replicas({number: [Opened()] for number in range(len(sizes))})
        owned = _owned(job, division, service, filtered=filtered)
        progress(Step("index", len(sizes), len(sizes)))
        log_event("index_shared", owners=len(sizes), replicas=replicas, bytes=sum(sizes))
        yield replace(job, owned=owned)
    finally:
        service.close()


def _owned(job: TranslateJob, division: Division, service: Service, *, filtered: bool) -> dict[int, Owned]:
    """Return the indexes that a service holds, by number of the library, and tell its parts what a filter allows.

    Of few allowed patches, each worker holds all, as it holds an index of that size.
    """
    owned, first, room = {}, 0, min(division.room, IN_MEMORY_BYTES)
    for each in division.shared:
        images = job.sources.allowed[each.library] if job.sources.allowed else None
        own = Owned(each.place, service, each.shards, first, drawn=images if job.config.draw else None)
        if filtered and images is not None:
            allow = tell_allowed(own, images, each.leaf)
            size = each.bytes_of(allow)
            own = replace(own, allow=allow, fetched=size <= room)
            room -= size if own.fetched else 0
        owned[each.library] = own
        first += len(each.shards)
    return owned


def usage(job: TranslateJob, division: Division | None) -> tuple[OwnerUsage, ...]:
    """Return what was asked of each owner so far, while they are there; nothing without owners."""
    if not job.owned or division is None:
        return ()
    service = next(iter(job.owned.values())).service
    found = tuple(
        OwnerUsage(
            queries=int(counts.get("queries", 0)),
            visits=int(counts.get("visits", 0)),
            bytes=int(counts.get("bytes", 0)),
            seconds=round(counts.get("waited", 0.0), 3),
            lost=int(counts.get("lost", 0)),
            index_bytes=held,
        )
        for counts, held in zip(service.noted(), division.sizes, strict=False)
    )
    for number, each in enumerate(found):
        log_event("index_owner", run=job.run, owner=number, **asdict(each))
    return found
