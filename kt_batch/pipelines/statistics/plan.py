"""Plan the statistics of a library: one unit per part of patches, by content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kt_batch.config import RunOptions, ScaleKey
from kt_batch.errors import UsageError
from kt_batch.pipelines.index.plan import PartUnit, build_unit_id, earlier_build_numerics
from kt_batch.store.library import Library
from kt_batch.store.locations import Location, absolute_place, open_location, sole_kernel
from kt_batch.store.opening import open_library
from kt_batch.store.receipts import TableRef
from kt_batch.store.statistics import statistics_location


@dataclass(frozen=True)
class StatisticsJob:
    """Everything that a worker needs, small enough to send.

    numerics: The numerics class of the units committed so far; None when there are none.
    kernel: The only kernel whose processes may write there (`store.locations.sole_kernel`); None where all may.
    """

    library: str
    key: ScaleKey
    channels: int
    threads: int
    numerics: tuple[tuple[str, str], ...] | None = None
    mix_numerics: bool = False
    kernel: str | None = None

    def library_location(self) -> Location:
        """Return the library."""
        return open_location(self.library)


def plan_statistics(
    place: str, options: RunOptions, key: ScaleKey | None = None
) -> tuple[Library, StatisticsJob, list[PartUnit]]:
    """Return a library, the job of its statistics at a key (None: its base key), and all units of it.

    Raises:
        UsageError: The library holds no patch at the key, or is not fully extracted.
    """
    place = absolute_place(place)
    library = open_library(place)
    key = key or library.config.base
    if library.committed.ledger.pending():
        raise UsageError(f"'{place}' is not fully extracted; finish it first with kt-batch extract.")
    if library.patches_at(key) == 0:
        raise UsageError(f"'{place}' holds no patches, so there are no statistics of it.")
    job = StatisticsJob(
        library=place,
        key=key,
        channels=library.channels_at(key),
        threads=options.threads,
        numerics=earlier_build_numerics(statistics_location(library.location)),
        mix_numerics=options.mix_numerics,
        kernel=sole_kernel(library.location),
    )
    return library, job, part_units(list(library.parts_at(key).values()))


def part_units(parts: Sequence[TableRef]) -> list[PartUnit]:
    """Return one unit per part of patches."""
    return [PartUnit(build_unit_id("statistics", part.name), part) for part in parts]
