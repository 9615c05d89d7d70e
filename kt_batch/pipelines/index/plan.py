"""Plan the build of an index: what is built, and the units of each stage, by content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kt_batch.config import PAINTED_SPACE, IndexConfig, RunOptions, ScaleKey
from kt_batch.errors import UsageError
from kt_batch.index.packing import fan_out
from kt_batch.pipelines.numerics import check_numerics, device_name, fix_numerics, worker_device
from kt_batch.process import return_freed_memory
from kt_batch.store import layout
from kt_batch.store.generations import Growth, find_growth
from kt_batch.store.indexes import IndexSummary, index_digest, read_build_receipts, read_index_summary
from kt_batch.store.library import Library
from kt_batch.store.locations import Location, absolute_place, check_kernel, open_location, sole_kernel
from kt_batch.store.opening import open_library
from kt_batch.store.receipts import TableRef

SHARD_PATCHES = 131072  # of a top-level cluster on average; a packing worker holds a whole one in memory
LARGEST_CLUSTER = 1.5  # times SHARD_PATCHES; a cluster that is larger, as estimated from the sample, is split
MOST_UNITS = 768  # of a stage: a packing unit reads a range of the file of every routing unit, 590,000 at most
SAMPLE_PER_SHARD = 128  # sampled patches for each SHARD_PATCHES of a library, where that is more than `config.sample`


@dataclass(frozen=True)
class BuildJob:
    """Everything that the workers of one build need, small enough to send.

    patches: Patches that the build reads.
    numerics: The numerics class of the units committed so far; None when there are none.
    kernel: The only kernel whose processes may write there (`store.locations.sole_kernel`); None where all may.
    gpus: GPUs of a worker, which computes on the first of them; 0: on the processor.
    memory: Bytes that no process of the build should exceed; None sets no limit. The result does not depend on it.
    """

    library: str
    digest: str
    config: IndexConfig
    key: ScaleKey
    patches: int
    channels: int
    threads: int
    numerics: tuple[tuple[str, str], ...] | None = None
    mix_numerics: bool = False
    kernel: str | None = None
    gpus: float = 0.0
    memory: int | None = None

    def fix_numerics(self) -> dict[str, str]:
        """Pin the numerics class of a worker, on its `device`, and keep no freed memory where there is a limit.

        Raises:
            MismatchError: The build began on another one.
            StorageError: This process must not write to the library.
        """
        check_kernel(self.library_location(), self.kernel)
        self._limit_memory()
        now = fix_numerics(self.threads, device_name(self.device()))
        check_numerics(dict(self.numerics) if self.numerics else None, now, self.mix_numerics)
        return now

    def fix_driver(self) -> None:
        """Pin the numerics class of the driver, which computes on the processor. Raises as `fix_numerics`."""
        if not self.gpus:
            self.fix_numerics()
            return
        check_kernel(self.library_location(), self.kernel)
        self._limit_memory()
        fix_numerics(self.threads)

    def _limit_memory(self) -> None:
        """Give freed memory back to the system at once, where there is a limit."""
        if self.memory is not None:
            return_freed_memory()

    def device(self) -> torch.device:
        """Return where a worker computes. Raises UsageError where it has been given a GPU, and torch finds none."""
        return worker_device(self.gpus)

    def library_location(self) -> Location:
        """Return the library."""
        return open_location(self.library)

    def build_location(self) -> Location:
        """Return where the intermediate files of this build are."""
        return open_location(f"{self.library.rstrip('/')}/{layout.build_folder(self.digest)}")


@dataclass(frozen=True)
class BuildPlan:
    """The work of a build.

    parts: The parts that are read: all of the library, or those that a generation does not cover.
    growth: How a generation grows; None where an index is built afresh.
    built: The summary of the finished index, when there is one already.
    """

    library: Library
    job: BuildJob
    parts: tuple[TableRef, ...]
    growth: Growth | None
    built: IndexSummary | None


@dataclass(frozen=True)
class PartUnit:
    """One patches part of the library."""

    id: str
    part: TableRef


@dataclass(frozen=True)
class PartsUnit:
    """Some patches parts of the library."""

    id: str
    parts: tuple[TableRef, ...]


@dataclass(frozen=True)
class PackUnit:
    """Adjacent top-level clusters, `last` included."""

    id: str
    first: int
    last: int


def plan_index(
    place: str, config: IndexConfig, options: RunOptions, key: ScaleKey | None = None, *, fresh: bool = False
) -> BuildPlan:
    """Plan an index of the present snapshot of a library.

    A finished fresh index is not built again. Else the index grows from an earlier one where `find_growth` finds one.

    Args:
        place: The library, a path or URI.
        config: How it is indexed. A match space that it does not set is the key's own: centred where a painting looks
            for forms, else raw.
        options: How the work is run.
        key: Whose patches are indexed; None for the library's base key.
        fresh: Build afresh, even where an earlier index could grow.

    Raises:
        UsageError: The library holds no patch at the key, or is not fully extracted.
        DamagedError: The list of the parts of an earlier index is damaged.
    """
    place = absolute_place(place)
    library = open_library(place)
    if library.committed.ledger.pending():
        raise UsageError(f"'{place}' is not fully extracted; finish it first with kt-batch extract.")
    key = key or library.config.base
    parts, patches = tuple(library.parts_at(key).values()), library.patches_at(key)
    if patches == 0:
        raise UsageError(f"'{place}' holds no patches, so there is nothing to index.")
    config = _in_own_space(config, library, key)
    further = None if key == library.config.base else key
    digest, growth = index_digest(config, library.committed.snapshot, further), None
    built = read_index_summary(library.location, digest)
    if built is None and not fresh and (growth := find_growth(library, config, key)):
        digest = index_digest(config, library.committed.snapshot, further, growth.generation.digest)
        built, parts, patches = read_index_summary(library.location, digest), growth.parts, growth.patches
    job = BuildJob(
        library=place,
        digest=digest,
        config=config,
        key=key,
        patches=patches,
        channels=library.channels_at(key),
        threads=options.threads,
        mix_numerics=options.mix_numerics,
        kernel=sole_kernel(library.location),
        gpus=options.gpus,
    )
    return BuildPlan(library, job, parts, growth, built)


def _in_own_space(config: IndexConfig, library: Library, key: ScaleKey) -> IndexConfig:
    """Return the configuration, in the key's own match space where it sets none."""
    if "match_space" in config.model_fields_set or key != library.config.painted:
        return config
    return config.model_copy(update={"match_space": PAINTED_SPACE})


def earlier_build_numerics(build: Location) -> tuple[tuple[str, str], ...] | None:
    """Return the numerics class of the units of a build so far; None when there are none."""
    numerics = next((receipt.numerics for receipt in read_build_receipts(build).values()), None)
    return tuple(numerics.items()) if numerics else None


def sample_units(parts: Sequence[TableRef], size: int) -> list[PartsUnit]:
    """Return the units that offer their share of a sample of `size` patches."""
    return _part_units(f"sample {size}", parts)


def route_units(parts: Sequence[TableRef], top_sha256: str) -> list[PartsUnit]:
    """Return the units that route their patches to the clusters of a fitted top level."""
    return _part_units(f"route records {top_sha256}", parts)


def _part_units(stage: str, parts: Sequence[TableRef]) -> list[PartsUnit]:
    """Return one unit per patches part, or per some parts of a large library."""
    units = [tuple(parts[first : last + 1]) for first, last in adjacent([part.rows for part in parts])]
    return [PartsUnit(build_unit_id(stage, " ".join(part.name for part in unit)), unit) for unit in units]


def pack_units(sizes: Sequence[int], clusters_sha256: str) -> list[PackUnit]:
    """Return one unit per top-level cluster, or per some adjacent ones where clusters are small.

    Args:
        sizes: Patches of each cluster.
        clusters_sha256: Names the routed patches.
    """
    stage = f"pack records {clusters_sha256}"
    return [PackUnit(build_unit_id(stage, f"{first} {last}"), first, last) for first, last in adjacent(sizes)]


def adjacent(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Cut things of these sizes into groups of neighbours, the first and the last number of each.

    Each group but the last has at least 1 / MOST_UNITS of the whole, so there are at most MOST_UNITS + 1.
    """
    least, groups, first, size = sum(sizes) / MOST_UNITS, [], 0, 0
    for number, each in enumerate(sizes):
        size += each
        if size >= max(least, 1) or number == len(sizes) - 1:
            groups.append((first, number))
            first, size = number + 1, 0
    return groups


def build_unit_id(stage: str, content: str) -> str:
    """Return 16 hex digits that name a stage's work on `content`, itself a name by content."""
    return hashlib.sha256(f"{stage}:{content}".encode()).hexdigest()[:16]


def top_clusters(patches: int, config: IndexConfig) -> int:
    """Return how many top-level clusters `patches` patches get, before large ones are split."""
    return max(fan_out(patches, 0, config), -(-patches // SHARD_PATCHES))


def sample_size(patches: int, config: IndexConfig) -> int:
    """Return on how many of `patches` patches the top level is fitted: `config.sample`, or more for a large library."""
    return min(patches, max(config.sample, SAMPLE_PER_SHARD * (patches // SHARD_PATCHES)))
