"""Run the statistics of a library to their end: parts, then the whole."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from kt_batch.config import RunOptions, ScaleKey
from kt_batch.errors import MissingError
from kt_batch.kernels.moments import MomentSums
from kt_batch.pipelines.index.plan import PartUnit
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.pipelines.statistics.plan import StatisticsJob, plan_statistics
from kt_batch.pipelines.statistics.worker import StatisticsWorker
from kt_batch.pipelines.units import check_hosts, log_committed, log_summary
from kt_batch.runners.base import Runner
from kt_batch.store.indexes import read_build_receipts
from kt_batch.store.library import Library
from kt_batch.store.receipts import Receipt
from kt_batch.store.statistics import (
    StatisticsSummary,
    find_statistics,
    read_moments,
    statistics_location,
    write_statistics,
)


@dataclass(frozen=True)
class StatisticsResult:
    """The summary of the command. made: False when the statistics existed. count: Cells, each once."""

    library: str
    statistics: str
    key: str
    made: bool
    images: int
    count: int
    channels: int
    seconds: float


def build_statistics(
    place: str, options: RunOptions, runner: Runner, progress: Progress, key: ScaleKey | None = None
) -> StatisticsResult:
    """Compute the statistics of what a library holds now at a key, or continue where an earlier call stopped.

    Args:
        place: The library, a path or URI.
        options: How the work is run.
        runner: Runs the units.
        progress: Called with every step.
        key: Whose cells they are of; None for the library's base key.

    Raises:
        UsageError: The library holds no patch, or is not fully extracted.
        MismatchError: Earlier parts were done on another numerics class.
    """
    started = time.perf_counter()
    library, job, units = plan_statistics(place, options, key)
    check_hosts(library.location, job.kernel, runner)
    try:
        summary, made = find_statistics(library, job.key), False
    except MissingError:
        summary, made = _combine(library, job, units, _run(job, units, runner, progress)), True
    return log_summary(
        StatisticsResult(
            library=job.library,
            statistics=summary.digest,
            key=str(job.key),
            made=made,
            images=summary.images,
            count=summary.count,
            channels=summary.channels,
            seconds=round(time.perf_counter() - started, 3),
        )
    )


def _run(job: StatisticsJob, units: list[PartUnit], runner: Runner, progress: Progress) -> dict[str, Receipt]:
    """Run the units that have no receipt; return the receipts of all."""
    done = read_build_receipts(statistics_location(job.library_location()))
    pending = [unit for unit in units if unit.id not in done]
    count = len(units) - len(pending)
    progress(Step("statistics", count, len(units)))
    for receipt in runner.run(partial(StatisticsWorker, job), pending):
        done[receipt.unit] = receipt
        log_committed(receipt)
        count += 1
        progress(Step("statistics", count, len(units)))
    return done


def _combine(
    library: Library, job: StatisticsJob, units: list[PartUnit], receipts: dict[str, Receipt]
) -> StatisticsSummary:
    """Add up the images of all parts, each once, and commit the result."""
    location, sums, seen = statistics_location(library.location), MomentSums(job.channels), set()
    for unit in units:
        for part in receipts[unit.id].tables:
            for image, moments in read_moments(location, part, job.channels):
                if image not in seen:
                    seen.add(image)
                    sums.add(moments)
    numerics = receipts[units[0].id].numerics
    ids = tuple(unit.id for unit in units)
    return write_statistics(library, job.key, sums.total(), sums.images, ids, numerics)
