"""Run a merge to its end: plan, units, summary."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from kt_batch.config import ExtractConfig
from kt_batch.errors import MismatchError
from kt_batch.pipelines.extract.plan import check_space
from kt_batch.pipelines.merge.plan import MergeUnit, plan_merge
from kt_batch.pipelines.merge.sources import common_config, open_sources
from kt_batch.pipelines.merge.worker import take_unit
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.pipelines.units import log_committed, log_summary
from kt_batch.store.library import write_library_summary
from kt_batch.store.locations import absolute_place, open_location
from kt_batch.store.opening import refuse_other_kind
from kt_batch.store.units import Ledger


@dataclass(frozen=True)
class MergeRequest:
    """The request of a caller.

    libraries: Paths or URIs of the libraries to join, owners first. into: That of the new library. mix_numerics: Join
    libraries whose patches were computed on different kinds of machines. dry_run: Write nothing.
    """

    libraries: Sequence[str]
    into: str
    mix_numerics: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class MergeSummary:
    """The summary of a merge.

    library: The new library. images: Different images of the merge. shared: Those of them in several of the libraries.
    patches: Of the base key; None in a dry run. rejected: Rejects that count. units: Of the merge. new_units: Those
    that were not done before. bytes: Those of their parts, which the new library takes at most. dry_run: Whether
    nothing was written.
    """

    library: str
    libraries: tuple[str, ...]
    images: int
    shared: int
    patches: int | None
    rejected: int
    units: int
    new_units: int
    bytes: int
    seconds: float
    dry_run: bool


def merge(request: MergeRequest, progress: Progress) -> MergeSummary:
    """Join libraries into a new one without encoding again, or continue where an earlier call stopped.

    Raises:
        UsageError: A library is named twice, or not finished; or the new one is a run or a paired library.
        MismatchError: The libraries differ in a setting, or the new one is another library.
        StorageError: A library is missing or damaged, or there is too little space.
    """
    started = time.perf_counter()
    into = absolute_place(request.into)
    libraries = open_sources(list(map(absolute_place, request.libraries)), into, mix_numerics=request.mix_numerics)
    ledger = Ledger(open_location(into))
    refuse_other_kind(ledger, "library")
    config, plan = common_config(libraries), plan_merge(libraries)
    _check_same_merge(ledger, config, plan.units)
    committed = ledger.receipts()
    pending = [part for part in plan.units if part.unit.id not in committed]
    size = sum(table.bytes for part in pending for table in part.receipt.tables)
    rejected = sum(len(part.rejects) for part in plan.units)
    if not request.dry_run:
        check_space(ledger.location, size, progress)
        ledger.plan_exactly([part.unit for part in plan.units], config.model_dump(mode="json"), config.digest())
        _check_same_merge(ledger, config, plan.units)  # another driver may have been first
        _take_units(ledger, config, pending, progress)
        rejected = write_library_summary(ledger.location, ledger, config)
    return log_summary(
        MergeSummary(
            library=into,
            libraries=tuple(library.location.uri for library in libraries),
            images=plan.images,
            shared=plan.shared,
            patches=None if request.dry_run else sum(receipt.patches for receipt in ledger.receipts().values()),
            rejected=rejected,
            units=len(plan.units),
            new_units=len(pending),
            bytes=size,
            seconds=round(time.perf_counter() - started, 3),
            dry_run=request.dry_run,
        )
    )


def _check_same_merge(ledger: Ledger, config: ExtractConfig, parts: Sequence[MergeUnit]) -> None:
    """Raise MismatchError unless the first plan of the new library is the one of this merge, or there is none."""
    plans = ledger.plans()
    if plans and (plans[0].config_digest != config.digest() or plans[0].units != tuple(part.unit for part in parts)):
        raise MismatchError(
            f"'{ledger.location.uri}' is a library already, and not the one that these libraries make in this order "
            "and in their present state; name a new folder for --into."
        )


def _take_units(ledger: Ledger, config: ExtractConfig, parts: Sequence[MergeUnit], progress: Progress) -> None:
    """Take over the units that have no receipt yet."""
    progress(Step("merge", 0, len(parts)))
    for number, part in enumerate(parts, 1):
        log_committed(take_unit(ledger, config.digest(), part))
        progress(Step("merge", number, len(parts)))
