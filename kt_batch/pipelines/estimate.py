"""Estimate what an extract or a translation does, and with a pilot its time and output size.

Nothing is written to the library or the run. A pilot does some of the pending images with the worker of the real run,
in a temporary directory that is removed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from statistics import fmean, median
from typing import Any

from kt_batch.config import RunOptions
from kt_batch.pipelines.extract.plan import ExtractRequest, plan_extract
from kt_batch.pipelines.extract.worker import ExtractWorker
from kt_batch.pipelines.inputs import HASH_THREADS
from kt_batch.pipelines.numerics import check_numerics, device_name, fix_numerics, search_device, worker_device
from kt_batch.pipelines.planning import PlannedUnits, earlier_numerics
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.pipelines.translate.placement import placement_of
from kt_batch.pipelines.translate.plan import TranslateRequest, plan_translate
from kt_batch.pipelines.translate.serving import OwnersMemory, expected_owners
from kt_batch.pipelines.translate.worker import TranslateWorker
from kt_batch.pipelines.units import by_image, quarantine
from kt_batch.runners.base import Heartbeat, Runner
from kt_batch.store.attempts import find_rejects
from kt_batch.store.inputs import input_size
from kt_batch.store.locations import open_location
from kt_batch.store.passed_over import Kinds
from kt_batch.store.plans import Item, Unit
from kt_batch.store.receipts import Receipt
from kt_batch.store.scratch import temporary_directory
from kt_batch.store.tables import read_table
from kt_batch.store.units import Ledger

Worker = Callable[[Unit, Heartbeat], Receipt]
WARM_UP = "warm-up"


@dataclass(frozen=True)
class DryRunRequest:
    """The options of a dry run. pilot: How many images to do for real. price: Of one node per hour."""

    pilot: int = 0
    price: float | None = None


@dataclass(frozen=True)
class PilotReject:
    """An input of the pilot that could not be used, as a row of the reject table."""

    uri: str
    reason: str
    message: str


@dataclass(frozen=True)
class Pilot:
    """The measurements of a pilot on this machine with one worker. `images` includes the rejected ones.

    startup_seconds: Until the worker finished a first image, which is done once more as part of the pilot.
    seconds_per_image: Of the images that were not rejected, from their receipts; None when all were rejected.
    wall_seconds_per_image, output_bytes_per_image: Of all images, with tables and rejects.
    """

    images: int
    rejected: int
    rejects: tuple[PilotReject, ...]
    startup_seconds: float
    seconds_per_image_median: float | None
    seconds_per_image_mean: float | None
    wall_seconds_per_image: float
    output_bytes_per_image: int


@dataclass(frozen=True)
class Estimate:
    """The work of a run. An input is a file under a name; an image is processed once per unit that holds it.

    found, done: The inputs that were named, and those of them that are done. to_do: The inputs that the run will
    process, those left by an earlier run included. images_to_do: The images among them. finished, rejected: All inputs
    that are done, and those of them that were rejected. again: Rejected inputs that are tried again; they count as
    neither. unreadable: Pending images that cannot be read now; input_bytes leaves them out. output_bytes_at_most: The
    disk estimate of an extract, which refuses to start when it exceeds free_bytes. publishing: How files get their
    names where there are no hard links (`store.locations.Location.publishing`). changed: Names of pending inputs that
    will be rejected, because other bytes have their outputs.
    owners: The memory that processes which share the index will reserve; None where each worker opens the whole.
    passed_over, passed_over_files: Libraries and runs below the named folders, and files that are no images, by kind.
    unmatched: Of pairs, names that only one of before and after has.
    The estimated_* fields follow from the pilot or are the disk estimate; None where nothing is known.
    """

    place: str
    found: int
    done: int
    to_do: int
    images_to_do: int
    finished: int
    rejected: int
    again: int
    units_to_plan: int
    units_pending: int
    input_bytes: int
    unreadable: int
    output_bytes_at_most: int | None
    free_bytes: int | None
    workers: int
    publishing: str | None = None
    changed: tuple[str, ...] = ()
    owners: OwnersMemory | None = None
    passed_over: tuple[str, ...] = ()
    passed_over_files: Kinds = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()
    pilot: Pilot | None = None
    estimated_output_bytes: int | None = None
    estimated_seconds: float | None = None
    estimated_worker_hours: float | None = None
    price: float | None = None
    estimated_cost: float | None = None

    @property
    def fits(self) -> bool:
        """Tell whether there is enough space for the run to begin."""
        known = self.free_bytes is not None and self.output_bytes_at_most is not None
        return not known or (self.output_bytes_at_most or 0) <= (self.free_bytes or 0)


def estimate_extract(request: ExtractRequest, dry_run: DryRunRequest, runner: Runner, progress: Progress) -> Estimate:
    """Estimate what `extract` does with the same request; `runner` does the pilot.

    Raises what `extract` raises before it begins, except for a lack of space, which the estimate reports.
    """
    plan = plan_extract(request, progress, dry_run=True)
    work = Work(plan.job.library, plan.ledger, plan.items, plan.planned)
    work.check_numerics(request.options, lambda: device_name(worker_device(request.options.gpus)))
    others = plan.job.owned_by_other_unit
    images = [(unit, group) for unit, group in work.images() if (unit.id, group[0].image_id) not in others]
    at_most = plan.bytes_at_most if images else 0

    def worker(folder: str) -> Worker:
        return ExtractWorker(replace(plan.job, library=folder, numerics=None, owned_by_other_unit=frozenset()))

    estimate = replace(
        work.estimate(request.options, len(images)),
        output_bytes_at_most=at_most,
        estimated_output_bytes=at_most,
        passed_over=plan.passed_over,
        passed_over_files=plan.passed_over_files,
    )
    chosen = spread([group for _, group in images], dry_run.pilot)
    pilot = run_pilot(chosen, request.config.digest(), request.options, worker, runner, progress)
    return projected(estimate, pilot, dry_run.price)


def estimate_translate(
    request: TranslateRequest, dry_run: DryRunRequest, runner: Runner, progress: Progress
) -> Estimate:
    """Estimate what `translate` does with the same request; `runner` does the pilot.

    Raises what `translate` raises before it begins.
    """
    owners = expected_owners(request)
    plan = plan_translate(request, progress, dry_run=True)
    work = Work(plan.job.run, plan.ledger, plan.items, plan.planned)
    searcher = request.config.searcher
    work.check_numerics(request.options, lambda: placement_of(plan.job).named(search_device(searcher)))
    images = [group for _, group in work.images()]

    def worker(folder: str) -> Worker:
        none: frozenset[Any] = frozenset()
        job = replace(plan.job, run=folder, numerics=None, name_conflicts=none, already_written=none, changed=none)
        return TranslateWorker(job)

    changed = tuple(sorted({name for _, name in plan.job.changed}))
    estimate = replace(
        work.estimate(request.options, len(images)),
        changed=changed,
        owners=owners if images else None,
        passed_over=plan.passed_over,
        passed_over_files=plan.passed_over_files,
    )
    chosen = spread(images, dry_run.pilot)
    pilot = run_pilot(chosen, request.config.digest(), request.options, worker, runner, progress)
    return projected(estimate, pilot, dry_run.price)


@dataclass(frozen=True)
class Work:
    """The plan as it is, and what a run would add to it."""

    place: str
    ledger: Ledger
    items: Sequence[Item]
    planned: PlannedUnits

    def images(self) -> list[tuple[Unit, list[Item]]]:
        """Return the items to do by unit and image."""
        return [(unit, group) for unit in self.planned.pending for group in by_image(unit)]

    def check_numerics(self, options: RunOptions, device: Callable[[], str] = lambda: "cpu") -> None:
        """Check the numerics class as a local worker does first. Nothing is known here of a cluster's workers.

        `device` says what computes in such a worker.
        """
        earlier = earlier_numerics(self.ledger)
        if self.planned.pending and earlier and options.runner == "local":
            now = fix_numerics(options.threads, device())
            check_numerics(dict(earlier), now, options.mix_numerics)

    def estimate(self, options: RunOptions, images: int) -> Estimate:
        """Return what is known without a pilot."""
        attempts = self.ledger.attempts()
        pending = self.planned.pending
        finished = {(item.image_id, item.name) for unit, receipt in attempts if receipt for item in unit.items}
        finished -= {(item.image_id, item.name) for unit in pending for item in unit.items}
        rejects = find_rejects(self.ledger)
        again = rejects.among(pending)
        rejected = rejects.count - again
        sizes = _sizes([group for _, group in self.images()])
        return Estimate(
            place=self.place,
            found=len(self.items),
            done=sum((item.image_id, item.name) in finished for item in self.items),
            to_do=sum(len(unit.items) for unit in pending),
            images_to_do=images,
            finished=sum(receipt.images for _, receipt in attempts if receipt) + rejected,
            rejected=rejected,
            again=again,
            units_to_plan=len(self.planned.new),
            units_pending=len(pending) - len(self.planned.new),
            input_bytes=sum(size for size in sizes if size is not None),
            unreadable=sizes.count(None),
            output_bytes_at_most=None,
            free_bytes=self.ledger.location.free_bytes(),
            workers=options.workers or 1,
            publishing=self.ledger.location.publishing(),
        )


def _sizes(images: Sequence[Sequence[Item]]) -> list[int | None]:
    """Return the bytes of each image or pair, from the first of its names that has them; None where none has."""

    def size(item: Item) -> int | None:
        files = [input_size(uri) for uri in dict.fromkeys(filter(None, (item.uri, item.after)))]
        known = [each for each in files if each is not None]
        return sum(known) if len(known) == len(files) else None

    def of_group(group: Sequence[Item]) -> int | None:
        return next((found for found in map(size, group) if found is not None), None)

    with ThreadPoolExecutor(HASH_THREADS) as pool:
        return list(pool.map(of_group, images))


def spread(images: Sequence[Sequence[Item]], count: int) -> list[Sequence[Item]]:
    """Choose `count` different images, or all of fewer: in id order, the middle one of each equal stretch."""
    ordered = [group for _, group in sorted({group[0].image_id: group for group in images}.items())]
    count = min(count, len(ordered))
    return [ordered[(2 * number + 1) * len(ordered) // (2 * count)] for number in range(count)]


def run_pilot(
    images: Sequence[Sequence[Item]],
    digest: str,
    options: RunOptions,
    worker: Callable[[str], Worker],
    runner: Runner,
    progress: Progress,
) -> Pilot | None:
    """Process `images` for real in a temporary directory; return None when there are none.

    The first image is done once more before the others, so that what a worker does only once counts as its start.

    Args:
        images: The items of each image.
        digest: The configuration's digest.
        options: Unit size.
        worker: Makes the worker of the real run, for a directory.
        runner: Runs the units.
        progress: Called after every unit.
    """
    if not images:
        return None
    with tempfile.TemporaryDirectory(prefix="kt-batch-pilot-", dir=temporary_directory()) as folder:
        ledger = Ledger(open_location(folder))
        ledger.plan([replace(images[0][0], name=WARM_UP, output="")], 1, {}, digest)
        each = ((item, f"{item.image_id}-{n}") for group in images for n, item in enumerate(group))
        names = [replace(item, name=name, output="") for item, name in each]
        first, *units = ledger.plan(names, options.unit_size, {}, digest)
        marks, done = [time.perf_counter()], 0
        receipts: list[Receipt] = []
        progress(Step("pilot", 0, len(images)))
        for receipt in runner.run(partial(worker, folder), [first, *units], quarantine):
            marks.append(time.perf_counter())
            if receipt.unit != first.id:
                receipts.append(receipt)
                done += len(by_image(units[len(receipts) - 1]))
                progress(Step("pilot", done, len(images), sum(r.rejects for r in receipts)))
        rejects = tuple(reject for receipt in receipts for reject in _rejects(ledger, receipt))
    return measured(units, receipts, rejects, startup=marks[1] - marks[0], working=marks[-1] - marks[1])


def _rejects(ledger: Ledger, receipt: Receipt) -> list[PilotReject]:
    tables = [read_table(ledger.location, table) for table in receipt.tables if table.kind == "rejects"]
    return [PilotReject(row["uri"], row["reason"], row["message"]) for table in tables for row in table.to_pylist()]


def measured(
    units: Sequence[Unit],
    receipts: Sequence[Receipt],
    rejects: tuple[PilotReject, ...],
    startup: float,
    working: float,
) -> Pilot:
    """Summarise the receipts of a pilot's units, in the order of the units; `working` is their wall time in seconds."""
    seconds = {
        item.image_id: spent
        for unit, receipt in zip(units, receipts, strict=True)
        for item, spent in zip(unit.items, receipt.item_seconds, strict=True)
    }
    used = [spent for spent in seconds.values() if spent is not None]
    written = sum(table.bytes for receipt in receipts for table in receipt.tables)
    written += sum(receipt.output_bytes for receipt in receipts)
    return Pilot(
        images=len(seconds),
        rejected=len(seconds) - len(used),
        rejects=rejects,
        startup_seconds=round(startup, 3),
        seconds_per_image_median=round(median(used), 3) if used else None,
        seconds_per_image_mean=round(fmean(used), 3) if used else None,
        wall_seconds_per_image=round(working / len(seconds), 3),
        output_bytes_per_image=round(written / len(seconds)),
    )


def projected(estimate: Estimate, pilot: Pilot | None, price: float | None) -> Estimate:
    """Add to the estimate what follows from a pilot. A pilot whose images were all rejected adds nothing.

    The model: all workers start at once and take equal units in rounds, so the last round may leave some idle. Each is
    paid for from start to end.
    """
    if pilot is None or pilot.seconds_per_image_mean is None:
        return replace(estimate, pilot=pilot, price=price)
    units = estimate.units_to_plan + estimate.units_pending
    turns = ceil(units / estimate.workers)
    seconds = pilot.startup_seconds + turns * pilot.wall_seconds_per_image * estimate.images_to_do / units
    hours = estimate.workers * seconds / 3600
    return replace(
        estimate,
        pilot=pilot,
        estimated_output_bytes=pilot.output_bytes_per_image * estimate.images_to_do,
        estimated_seconds=round(seconds, 1),
        estimated_worker_hours=hours,  # unrounded, so that the cost of a small job is not 0
        price=price,
        estimated_cost=None if price is None else hours * price,
    )
