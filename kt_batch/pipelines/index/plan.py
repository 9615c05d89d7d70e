"""Plan the build of an index: what is built, and the units of each stage, by content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from kt_batch.config import PAINTED_SPACE, IndexConfig, RunOptions, ScaleKey
from kt_batch.errors import UsageError
from kt_batch.index.packing import fan_out
from kt_batch.pipelines.numerics import check_numerics, fix_numerics
from kt_batch.store import layout
from kt_batch.store.generations import Growth, find_growth
from kt_batch.store.indexes import IndexSummary, index_digest, read_build_receipts, read_index_summary
from kt_batch.store.library import Library
from kt_batch.store.locations import Location, absolute_place, check_kernel, open_location, sole_kernel
from kt_batch.store.opening import open_library
from kt_batch.store.receipts import Receipt, TableRef

SHARD_PATCHES = 131072  # a packing worker holds a whole top-level cluster in memory


@dataclass(frozen=True)
class BuildJob:
    """Everything that the workers of one build need, small enough to send.

    patches: Patches that the build reads.
    numerics: The numerics class of the units committed so far; None when there are none.
    kernel: The only kernel whose processes may write there (`store.locations.sole_kernel`); None where all may.
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

    def fix_numerics(self) -> dict[str, str]:
        """Pin this process's numerics class.

        Raises:
            MismatchError: The build began on another one.
            StorageError: This process must not write to the library.
        """
        check_kernel(self.library_location(), self.kernel)
        now = fix_numerics(self.threads)
        check_numerics(dict(self.numerics) if self.numerics else None, now, self.mix_numerics)
        return now

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
class PackUnit:
    """One top-level cluster and all routed parts."""

    id: str
    cluster: int
    routed: tuple[TableRef, ...]


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


def sample_units(parts: Sequence[TableRef]) -> list[PartUnit]:
    """Return one unit per patches part, which offers its share of the sample."""
    return [PartUnit(build_unit_id("sample", part.name), part) for part in parts]


def route_units(parts: Sequence[TableRef], top_sha256: str) -> list[PartUnit]:
    """Return one unit per patches part, which routes its patches to the clusters of a fitted top level."""
    return [PartUnit(build_unit_id(f"route {top_sha256}", part.name), part) for part in parts]


def pack_units(clusters: int, routed: Sequence[Receipt], top_sha256: str) -> list[PackUnit]:
    """Return one unit per top-level cluster."""
    tables = tuple(table for receipt in routed for table in receipt.tables)
    return [PackUnit(build_unit_id(f"pack {top_sha256}", str(c)), c, tables) for c in range(clusters)]


def build_unit_id(stage: str, content: str) -> str:
    """Return 16 hex digits that name a stage's work on `content`, itself a name by content."""
    return hashlib.sha256(f"{stage}:{content}".encode()).hexdigest()[:16]


def top_clusters(patches: int, config: IndexConfig) -> int:
    """Return how many top-level clusters, and so at most how many shards, `patches` patches get."""
    return max(fan_out(patches, 0, config), -(-patches // SHARD_PATCHES))
