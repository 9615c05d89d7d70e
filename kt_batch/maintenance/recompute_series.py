"""Make the series of a run once more: an edit that photographs share must follow from what they show."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from kt_batch.errors import MissingError
from kt_batch.pipelines.translate.describe import DescribeWorker
from kt_batch.pipelines.translate.plan import TranslateJob
from kt_batch.pipelines.translate.series import series_rows
from kt_batch.pipelines.translate.series_edits import key_of
from kt_batch.store.locations import open_location
from kt_batch.store.plans import Item, make_units
from kt_batch.store.run import Run
from kt_batch.store.series import (
    Described,
    FrozenSeries,
    Key,
    SeriesRow,
    read_colours,
    read_described,
    read_described_receipts,
    read_series,
)

COEFFICIENT_STEP = 1e-6  # how far a coefficient of another numerics class may be off


class SeriesCheck:
    """Compares the series of a run with those that follow from its photographs."""

    def __init__(self, run: Run, job: TranslateJob) -> None:
        """Take a run, and the job that does its work again in another place."""
        self._run, self._job = run, job
        self._frozen = FrozenSeries(run.location)
        self._worker = DescribeWorker(job)
        self._receipts = read_described_receipts(run.location)

    def holds(self, item: Item) -> bool:
        """Tell whether a photograph is described as it looks, and has the edit that follows from the descriptions."""
        key = key_of(item)
        (row,) = self._frozen.find({key}).values()
        again = self._again.get(key)
        return again is not None and _same_edit(row, again) and self._is_described(item)

    @cached_property
    def _again(self) -> dict[Key, SeriesRow]:
        """Return the row of every photograph, from the descriptions alone."""
        job, location = replace(self._job, run=self._run.location.uri), self._run.location
        made: dict[Key, SeriesRow] = {}
        earlier: list[SeriesRow] = []
        for number, plan in enumerate(self._run.committed.ledger.plans()):
            receipts = [self._receipts[unit.id] for unit in plan.units if unit.id in self._receipts]
            if len(receipts) < len(plan.units):
                break
            for row in series_rows(plan, receipts, earlier, location, job):
                made.update({Key(member, row.folder): row for member in row.members})
            earlier += read_series(location, number)
        return made

    def _is_described(self, item: Item) -> bool:
        """Tell whether one of the descriptions of a photograph is what it gives now."""
        (unit,) = make_units([item], 1)
        place = open_location(self._job.run)
        now = [self._worker(unit)]
        wanted = read_described(place, now)[item.image_id], read_colours(place, now)[item.image_id]
        if wanted[0].reject:
            raise MissingError(wanted[0].reject.message)
        planned = self._run.committed.ledger.units()
        units = [unit.id for unit in planned if item.image_id in {each.image_id for each in unit.items}]
        for receipt in (self._receipts[unit] for unit in units if unit in self._receipts):
            there = read_described(self._run.location, [receipt])[item.image_id]
            colours = read_colours(self._run.location, [receipt])[item.image_id]
            if _same_facts(there, wanted[0]) and _near(colours, wanted[1], 1):
                return True
        return False


def _same_edit(one: SeriesRow, other: SeriesRow) -> bool:
    if one.coefficients is None or other.coefficients is None:
        return one.coefficients is other.coefficients and one.series == other.series
    same = (one.series, one.shares and list(one.shares)) == (other.series, other.shares and list(other.shares))
    return same and _near(one.coefficients, other.coefficients, COEFFICIENT_STEP)


def _same_facts(one: Described, other: Described) -> bool:
    if one.descriptors is None or other.descriptors is None:
        return False
    return one.taken == other.taken and _near(one.descriptors, other.descriptors, COEFFICIENT_STEP)


def _near(one: np.ndarray, other: np.ndarray, step: float) -> bool:
    return one.shape == other.shape and bool((np.abs(one.astype(np.float64) - other) <= step).all())
