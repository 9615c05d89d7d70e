"""Units of images: run them, commit them, and turn what fails into rejects."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from kt_batch.errors import Reason, RejectError
from kt_batch.events import log_event
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.runners.base import Heartbeat, ReportsParts, Runner
from kt_batch.store.images.files import WorkingImage
from kt_batch.store.locations import Location, one_host_error
from kt_batch.store.plans import Item, Unit
from kt_batch.store.receipts import PictureSizes, Receipt, TableRef, join_sizes, new_attempt, this_worker
from kt_batch.store.schemas import REJECTS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")
REJECTS_LISTED = 100  # in a summary


def by_image(unit: Unit) -> list[list[Item]]:
    """Return the items of a unit, one list per image id, in id order."""
    return [list(items) for _, items in groupby(unit.items, key=lambda item: item.image_id)]


def quarantine(unit: Unit, image: str, reason: str) -> Unit:
    """Return the unit with `image` to be rejected unread."""
    return replace(unit, quarantined={**unit.quarantined, image: reason})


def check_quarantined(unit: Unit, image: str) -> None:
    """Raise RejectError for an image in quarantine."""
    if image in unit.quarantined:
        raise RejectError(Reason.FATAL, f"The image was given up: {unit.quarantined[image]}.")


def reject_row(item: Item, stage: str, error: RejectError) -> dict[str, str]:
    """Build one row of the reject table and log it."""
    fields = {"image": item.image_id, "uri": item.uri, "stage": stage, "reason": str(error.reason)}
    log_event("image_rejected", error.message, logging.WARNING, **fields)
    return {"uri": item.uri, "stage": stage, "reason": str(error.reason), "message": error.message}


def rejects_table(rows: list[dict[str, str]]) -> pa.Table:
    """Return the reject table of a unit."""
    return pa.Table.from_pylist(rows, schema=REJECTS)


@dataclass
class UnitLog:
    """The record of one unit while a worker does it: seconds by stage and by image, and rejects.

    seconds: Stage -> seconds. item_seconds: Image id -> seconds from reading it to its result.
    sizes: Name of an item -> sizes of its output and its input.
    sources: Image id -> the single source that it got.
    """

    seconds: dict[str, float]
    item_seconds: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, PictureSizes] = field(default_factory=dict)
    rejects: list[dict[str, str]] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_stages(cls, stages: Iterable[str]) -> UnitLog:
        """Start a log with no second spent in any stage."""
        return cls(dict.fromkeys(stages, 0.0))

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds by stage."""
        for stage, spent in seconds.items():
            self.seconds[stage] += spent

    def pictures(self, working: WorkingImage, size: tuple[int, int], items: Sequence[Item]) -> None:
        """Record the size (width, height) of the outputs of one image."""
        self.sizes.update({item.name: picture_sizes(working, size) for item in items})

    def reject(self, items: Sequence[Item], error: RejectError) -> None:
        """Add one reject row per item, which then has no output."""
        for item in items:
            self.sizes.pop(item.name, None)
        self.rejects += [reject_row(item, "decode", error) for item in items]

    def sources_of(self, unit: Unit, made: Container[str]) -> tuple[str | None, ...]:
        """Return the single source of each item whose output, by name, was made; none where images have no such."""
        if not self.sources:
            return ()
        return tuple(self.sources.get(item.image_id) if item.name in made else None for item in unit.items)

    def receipt(
        self, unit: Unit, config_digest: str, numerics: dict[str, str], tables: tuple[TableRef, ...], **counts: Any
    ) -> Receipt:
        """Return the receipt of the unit, finished now; `counts` are further fields of Receipt."""
        return Receipt(
            unit=unit.id,
            attempt=new_attempt(),
            config_digest=config_digest,
            tables=tables,
            rejects=len(self.rejects),
            numerics=numerics,
            timings=self.seconds,
            finished=time.time(),
            worker=this_worker(),
            sizes=join_sizes(self.sizes.values()),
            item_seconds=tuple(self.item_seconds.get(item.image_id) for item in unit.items),
            **counts,
        )


def picture_sizes(working: WorkingImage, size: tuple[int, int]) -> PictureSizes:
    """Return the sizes of an output (width, height) and of the image that it was made from."""
    width, height = size
    original = (working.original_width, working.original_height)
    reduced = 1 if width * height < original[0] * original[1] else 0
    return PictureSizes(smallest=(width, height), largest=(width, height), input=original, reduced=reduced)


def check_hosts(location: Location, kernel: str | None, runner: Runner) -> None:
    """Raise StorageError when workers may run on several hosts, but only one may write to a location.

    Args:
        location: The library or the run.
        kernel: As `store.locations.sole_kernel` returns it.
        runner: Runs the units. A host that joins later is refused by `store.locations.check_kernel`.
    """
    if kernel is not None and runner.hosts() > 1:
        raise one_host_error(location)


def run_units(
    runner: Runner,
    factory: Callable[[], Callable[[Unit, Heartbeat], Receipt]],
    units: Sequence[Unit],
    stage: str,
    progress: Progress,
) -> list[Receipt]:
    """Run image units and report how many images are done, within units where the runner tells."""
    count = _Count(units, stage, progress)
    receipts: list[Receipt] = []
    count.show()
    if isinstance(runner, ReportsParts):
        runner.on_part = count.begins
    try:
        for receipt in runner.run(factory, units, quarantine):
            receipts.append(receipt)
            log_committed(receipt)
            count.finished(receipt)
    finally:
        if isinstance(runner, ReportsParts):
            runner.on_part = None
    return receipts


class _Count:
    """Counts the images that are done, those of unfinished units included."""

    def __init__(self, units: Sequence[Unit], stage: str, progress: Progress) -> None:
        self._units = {unit.id: unit for unit in units}
        self._total = sum(len(unit.items) for unit in units)
        self._stage = stage
        self._progress = progress
        self._done = self._rejects = self._shown = 0
        self._before: dict[str, dict[str, int]] = {}  # unit under way -> image -> items before it
        self._within: dict[str, int] = {}  # unit under way -> items done

    def show(self) -> None:
        """Report the images that are done; a unit that is done again reports none twice."""
        self._shown = max(self._shown, self._done + sum(self._within.values()))
        self._progress(Step(self._stage, self._shown, self._total, self._rejects))

    def begins(self, unit: str, part: str) -> None:
        """Take notice that a worker begins an image of a unit: the items before it are done."""
        if unit not in self._units:
            return
        if unit not in self._before:
            images = [item.image_id for item in self._units[unit].items]
            self._before[unit] = {image: number for number, image in reversed(list(enumerate(images)))}
        before = self._before[unit].get(part, 0)
        if before > self._within.get(unit, 0):
            self._within[unit] = before
            self.show()

    def finished(self, receipt: Receipt) -> None:
        """Count a finished unit."""
        self._done += len(self._units.pop(receipt.unit).items)
        self._rejects += receipt.rejects
        self._before.pop(receipt.unit, None)
        self._within.pop(receipt.unit, None)
        self.show()


def log_committed(receipt: Receipt) -> None:
    """Log the commit of a unit."""
    log_event(
        "unit_committed",
        unit=receipt.unit,
        attempt=receipt.attempt,
        worker=receipt.worker,
        seconds=round(sum(receipt.timings.values()), 3) if receipt.timings else None,
        images=receipt.images,
        patches=receipt.patches,
        rejects=receipt.rejects,
    )


def log_summary(summary: S) -> S:
    """Log the summary of a pipeline and return it."""
    content = {name: value for name, value in asdict(summary).items() if name != "rejects"}  # they are events
    log_event("summary", of=type(summary).__name__.removesuffix("Summary").lower(), **content)
    return summary


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Counts and rates of one call of a pipeline, from the receipts of the units that it committed."""

    new_images: int
    new_rejected: int
    seconds: float
    images_per_second: float
    patches_per_second: float
    stage_seconds: dict[str, float]


def throughput(fresh: Sequence[Receipt], seconds: float) -> Throughput:
    """Return what the units committed in the last `seconds` amount to."""
    images, patches = sum(r.images for r in fresh), sum(r.patches for r in fresh)
    return Throughput(
        new_images=images,
        new_rejected=sum(r.rejects for r in fresh),
        seconds=round(seconds, 3),
        images_per_second=round(images / seconds, 3),
        patches_per_second=round(patches / seconds, 1),
        stage_seconds=sum_timings(fresh),
    )


def sum_timings(receipts: Sequence[Receipt]) -> dict[str, float]:
    """Return the seconds per stage over all receipts."""
    total: dict[str, float] = {}
    for receipt in receipts:
        for stage, seconds in receipt.timings.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return {stage: round(seconds, 3) for stage, seconds in total.items()}
