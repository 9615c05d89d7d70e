"""Series of photographs that share an edit: described by units of work, frozen by the driver, looked up by workers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np

from kt_batch.errors import DamagedError
from kt_batch.methods.retouch.fit import Fit
from kt_batch.methods.retouch.method import RetouchConfig
from kt_batch.methods.retouch.series import (
    Gathered,
    Photograph,
    SharedEdit,
    colour_step,
    gather_bursts,
    gather_folders,
    share_edit,
)
from kt_batch.pipelines.pairs.fit import load_fit
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.pipelines.translate.describe import DescribeWorker
from kt_batch.pipelines.translate.plan import TranslateJob, TranslatePlan
from kt_batch.pipelines.translate.series_edits import edit_of
from kt_batch.pipelines.units import run_units
from kt_batch.runners.base import Runner
from kt_batch.store import layout
from kt_batch.store.locations import Location, open_location
from kt_batch.store.plans import Plan
from kt_batch.store.receipts import Receipt
from kt_batch.store.series import (
    Described,
    Key,
    SeriesRow,
    folder_of,
    put_series,
    read_colours,
    read_described,
    read_described_receipts,
    read_series,
    series_numbers,
)

BATCH = 4096  # photographs whose colours are in memory at a time


def with_series(plan: TranslatePlan, runner: Runner, progress: Progress) -> TranslateJob:
    """Return the job of a plan with the place of its series, which are made for each plan file that lacks them.

    Raises:
        DamagedError: A series file is damaged, or is gone after photographs were translated with it.
    """
    job, run = replace(plan.job, series=plan.job.run), plan.ledger.location
    made = set(series_numbers(run))
    receipts = plan.ledger.receipts()
    for number, planned in enumerate(_planned(plan)):
        if number in made:
            continue
        if any(unit.id in receipts for unit in planned.units):
            raise DamagedError(f"{run.uri}/{layout.series_path(number)} is gone, and photographs were edited after it")
        described = _describe(planned, job, runner, progress)
        job = replace(job, numerics=job.numerics or tuple(described[0].numerics.items()))
        progress(Step("series", number, number + 1))
        earlier = _freeze(number, planned, described, job)
        progress(Step("series", number + 1, number + 1, note=_found(read_series(run, number), earlier)))
    return job


def _planned(plan: TranslatePlan) -> Iterator[Plan]:
    """Yield the plan files of a plan, without those that other drivers added since."""
    units = len(plan.planned.units)
    for planned in plan.ledger.plans():
        units -= len(planned.units)
        if units < 0:
            return
        yield planned


def _describe(planned: Plan, job: TranslateJob, runner: Runner, progress: Progress) -> list[Receipt]:
    """Describe the photographs of a plan file; return the receipts of its units, in their order."""
    run = open_location(job.run)
    done = read_described_receipts(run)
    first = next(iter(done.values()), None)
    job = replace(job, numerics=job.numerics or (tuple(first.numerics.items()) if first else None))
    pending = [unit for unit in planned.units if unit.id not in done]
    run_units(runner, partial(DescribeWorker, job), pending, "describe", progress)
    done = read_described_receipts(run)  # those of other drivers count where they were first
    return [done[unit.id] for unit in planned.units]


def _freeze(number: int, planned: Plan, receipts: Sequence[Receipt], job: TranslateJob) -> set[str]:
    """Make the series of a plan file: they follow from it, from the earlier files and from what is described.

    Returns:
        The series of the earlier files.
    """
    run = open_location(job.run)
    earlier = [row for before in range(number) for row in read_series(run, before)]
    rows = series_rows(planned, receipts, earlier, run, job)
    put_series(run, number, sorted(rows, key=_order), job.config.digest())
    return {row.series for row in earlier if row.series}


def _found(rows: Sequence[SeriesRow], earlier: Collection[str]) -> str:
    """Return how many new photographs share edits, with one another or with those of earlier series, in a sentence."""
    adopted = sum(len(row.members) for row in rows if row.series in earlier)
    sizes = [len(row.members) for row in rows if row.series not in {"", *earlier} and len(row.members) > 1]
    others = sum(len(row.members) for row in rows if row.reject is None) - sum(sizes) - adopted
    joined = f"{adopted} have the edit of an earlier series, " if earlier else ""
    return f"Series: {sum(sizes)} photographs share {len(sizes)} new edits, {joined}{others} share none."


def _order(row: SeriesRow) -> tuple[str, str, tuple[str, ...]]:
    return row.folder, row.series, row.members


def series_rows(
    planned: Plan, receipts: Sequence[Receipt], earlier: Sequence[SeriesRow], run: Location, job: TranslateJob
) -> list[SeriesRow]:
    """Return the rows of the series file of a plan file, in no order.

    Args:
        planned: The plan file.
        receipts: Of its units, which are described.
        earlier: The rows of all earlier series files.
        run: Where the photographs are described.
        job: What the run is made with.
    """
    described = read_described(run, receipts)
    placed = {Key(member, row.folder) for row in earlier if row.reject is None for member in row.members}
    keys = sorted({Key(item.image_id, folder_of(item.uri)) for unit in planned.units for item in unit.items} - placed)
    if missing := [key.image_id for key in keys if key.image_id not in described]:
        raise DamagedError(f"{run.uri}/{layout.series_build_folder()} does not describe the image {missing[0]}")
    rejected = [
        SeriesRow("", key.folder, (key.image_id,), ("",), reject=reject)
        for key in keys
        if (reject := described[key.image_id].reject)
    ]
    gathered, alone = _gather(keys, described, earlier, job)
    return [*_edited(gathered, earlier, planned, receipts, run, job), *_with_own_edits(alone), *rejected]


def _gather(
    keys: Sequence[Key], described: Mapping[str, Described], earlier: Sequence[SeriesRow], job: TranslateJob
) -> tuple[list[Gathered], list[Photograph]]:
    """Return the series of new photographs, and those in none."""
    known: dict[tuple[str, str], Gathered] = {}
    for row in earlier:
        if row.descriptors is not None:
            begun = known.setdefault((row.series, row.folder), Gathered(row.series, row.folder, row.descriptors))
            times = (*begun.taken, *filter(None, row.times))
            known[row.series, row.folder] = replace(begun, taken=times)
    new = [
        Photograph(key.image_id, key.folder, facts.taken, facts.descriptors)
        for key in keys
        if (facts := described[key.image_id]).descriptors is not None
    ]
    if cast("RetouchConfig", job.config).series == "folder":
        return gather_folders(list(known.values()), new), []
    return gather_bursts(list(known.values()), new)


def _edited(
    gathered: Sequence[Gathered],
    earlier: Sequence[SeriesRow],
    planned: Plan,
    receipts: Sequence[Receipt],
    run: Location,
    job: TranslateJob,
) -> Iterator[SeriesRow]:
    """Yield the rows of series: with the edit that they have, or with a new one."""
    first = {row.series: row for row in reversed(earlier) if row.series}
    unit_of = {item.image_id: unit.id for unit in planned.units for item in unit.items}
    receipt_of = {receipt.unit: receipt for receipt in receipts}
    for group in gathered:
        if group.frozen:
            yield _row(group, edit_of(first[group.series]))
    new = [group for group in gathered if not group.frozen]
    fit = load_fit(job.sources.library or "", job.config.fit_digest or "") if new else None
    for batch in _batches(new):
        units = sorted({unit_of[member.image_id] for group in batch for member in group.members})
        read_step = colour_step(len(batch[0].members)) if len(batch) == 1 else 1  # a large series is thinned at once
        colours = read_colours(run, [receipt_of[unit] for unit in units], read_step)
        for group in batch:
            members = sorted(group.members, key=lambda each: each.image_id)
            descriptors = np.array([each.descriptors for each in members])
            step = colour_step(len(members)) // read_step
            sample = np.concatenate([colours[each.image_id][::step] for each in members]) / 255
            yield _row(group, share_edit(cast("Fit", fit), group.series, descriptors, sample))


def _batches(groups: Sequence[Gathered]) -> Iterator[list[Gathered]]:
    """Yield series in groups whose colours fit into memory; one series alone may be larger."""
    batch: list[Gathered] = []
    members = 0
    for group in groups:
        if batch and members + len(group.members) > BATCH:
            yield batch
            batch, members = [], 0
        batch.append(group)
        members += len(group.members)
    if batch:
        yield batch


def _row(group: Gathered, edit: SharedEdit) -> SeriesRow:
    return SeriesRow(
        series=group.series,
        folder=group.folder,
        members=tuple(member.image_id for member in group.members),
        times=tuple(member.taken for member in group.members),
        descriptors=group.reference,
        coefficients=edit.coefficients,
        confidence=edit.confidence,
        guard=edit.guard,
        shares=edit.shares,
    )


def _with_own_edits(alone: Iterable[Photograph]) -> list[SeriesRow]:
    """Return a row for each folder of photographs in no series."""
    folders: dict[str, list[str]] = {}
    for photograph in alone:
        folders.setdefault(photograph.folder, []).append(photograph.image_id)
    return [SeriesRow("", folder, tuple(members), ("",) * len(members)) for folder, members in folders.items()]
