"""What an extract or a translate would do, and with a pilot how long it will take and how much it will write.

Nothing is written to the library or the run. A pilot does some of the images still to do with the worker of the real
run, into a temporary directory that is removed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from statistics import fmean, median

from kt_batch.config import ExtractConfig, RunOptions
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.common import (
    HASH_THREADS,
    Heartbeat,
    Progress,
    Runner,
    Step,
    by_image,
    plan_items,
    quarantined,
)
from kt_batch.pipelines.extract.worker import (
    ExtractJob,
    ExtractWorker,
    disk_estimate,
    image_owners,
    images_to_do,
    other_uris,
    owned_elsewhere,
)
from kt_batch.pipelines.numerics import check_numerics, fix_numerics, search_device
from kt_batch.pipelines.translate.worker import TranslateJob, TranslateWorker, check_outputs, exclude_outputs
from kt_batch.store.attempts import find_rejects, find_retry
from kt_batch.store.inputs import input_size, list_inputs
from kt_batch.store.locations import absolute_place, open_location
from kt_batch.store.receipts import Receipt
from kt_batch.store.tables import read_table
from kt_batch.store.units import Item, Ledger, Unit

Worker = Callable[[Unit, Heartbeat], Receipt]
WARM_UP = "warm-up"


@dataclass(frozen=True)
class DryRunRequest:
    """What a dry run is asked for. pilot: images to be really done. price: of one node per hour."""

    pilot: int = 0
    price: float | None = None


@dataclass(frozen=True)
class PilotReject:
    """An input of the pilot that could not be used, as the table of rejects would say it."""

    uri: str
    reason: str
    message: str


@dataclass(frozen=True)
class Pilot:
    """What was measured, on this machine and with one worker. Rejected images are among `images`.

    startup_seconds: until the worker had done a first image, which is done again as one of the pilot.
    seconds_per_image: of an image that was not rejected, as its receipt has them; None when all were.
    wall_seconds_per_image, output_bytes_per_image: of all together, tables and rejected images included.
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
    """What a run would do. An input is a file under a name; an image is worked on once for each unit it is in.

    found, done: inputs that were named, and those of them that are done. to_do: inputs that the run would do, those
    that an earlier one planned and left included; images_to_do: the images that it would work on for them.
    finished, rejected: inputs that are done, named or not, and those of them that were rejected. again: inputs to do
    that were rejected; they count as neither.
    unreadable: images to do that cannot be had now; they are not in input_bytes.
    output_bytes_at_most: extract's disk estimate; the run refuses when it is more than free_bytes.
    All that is called estimated follows from the pilot, or is the disk estimate; None where nothing is known.
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
    pilot: Pilot | None = None
    estimated_output_bytes: int | None = None
    estimated_seconds: float | None = None
    estimated_worker_hours: float | None = None
    price: float | None = None
    estimated_cost: float | None = None

    @property
    def fits(self) -> bool:
        """Whether the run would begin, as far as space is concerned."""
        known = self.free_bytes is not None and self.output_bytes_at_most is not None
        return not known or (self.output_bytes_at_most or 0) <= (self.free_bytes or 0)


def estimate_extract(
    arguments: Sequence[str],
    library: str,
    config: ExtractConfig,
    source: EncoderSource,
    options: RunOptions,
    asked: DryRunRequest,
    runner: Runner,
    progress: Progress,
) -> Estimate:
    """What `extract` would do with the same arguments; `runner` does the pilot.

    Raises what `extract` would raise before it begins, except that a lack of space is told by the estimate.
    """
    library = absolute_place(library)
    ledger = Ledger(open_location(library))
    items = plan_items(list_inputs(arguments), progress)
    retry = find_retry(ledger, items) if options.retry_rejected else None
    new = ledger.would_plan(items, options.unit_size, config.model_dump(mode="json"), config.digest(), retry)
    work = _Work(library, ledger, items, new, ledger.pending())
    work.check_numerics(options)
    elsewhere = owned_elsewhere(work.units, image_owners(ledger, new))
    images = [(unit, group) for unit, group in work.images() if (unit.id, group[0].image_id) not in elsewhere]
    at_most = disk_estimate(images_to_do(ledger, items), config, source) if images else 0
    others = other_uris(work.units, [*ledger.units(), *new])

    def worker(folder: str) -> Worker:
        return ExtractWorker(
            ExtractJob(folder, config, source, options.threads, numerics=None, mix_numerics=False, others=others)
        )

    estimate = replace(
        work.estimate(options, len(images)), output_bytes_at_most=at_most, estimated_output_bytes=at_most
    )
    chosen = spread([group for _, group in images], asked.pilot)
    return projected(estimate, run_pilot(chosen, config.digest(), options, worker, runner, progress), asked.price)


def estimate_translate(
    arguments: Sequence[str],
    job: TranslateJob,
    options: RunOptions,
    asked: DryRunRequest,
    runner: Runner,
    progress: Progress,
) -> Estimate:
    """What `translate` would do with the same arguments; `runner` does the pilot.

    Raises what `translate` would raise before it begins.
    """
    location = open_location(job.run)
    ledger = Ledger(location)
    items = plan_items(exclude_outputs(list_inputs(arguments), location), progress)
    check_outputs(ledger, items, job.config.format)
    config, digest = job.config.model_dump(mode="json"), job.config.digest()
    retry = find_retry(ledger, items) if options.retry_rejected else None
    new = ledger.would_plan(items, options.unit_size, config, digest, retry)
    work = _Work(job.run, ledger, items, new, ledger.pending())
    work.check_numerics(options, job.config.search.searcher)
    images = [group for _, group in work.images()]

    def worker(folder: str) -> Worker:
        return TranslateWorker(replace(job, run=folder, numerics=None, name_conflicts=frozenset()))

    estimate = work.estimate(options, len(images))
    pilot = run_pilot(spread(images, asked.pilot), digest, options, worker, runner, progress)
    return projected(estimate, pilot, asked.price)


@dataclass(frozen=True)
class _Work:
    """The plan as it is, and what a run would add to it."""

    place: str
    ledger: Ledger
    items: Sequence[Item]
    new: Sequence[Unit]
    pending: Sequence[Unit]

    @property
    def units(self) -> list[Unit]:
        """All that a run would do, in its order."""
        return [*self.pending, *self.new]

    def images(self) -> list[tuple[Unit, list[Item]]]:
        """The items to do by unit and image."""
        return [(unit, group) for unit in self.units for group in by_image(unit)]

    def check_numerics(self, options: RunOptions, searcher: str = "tree") -> None:
        """As a worker that searches with `searcher` does first of all. Of a cluster's workers nothing is known here."""
        receipts = self.ledger.receipts().values()
        if self.units and receipts and options.runner == "local":
            now = fix_numerics(options.threads, search_device(searcher))
            check_numerics(next(iter(receipts)).numerics, now, options.mix_numerics)

    def estimate(self, options: RunOptions, images: int) -> Estimate:
        """What can be told without a pilot."""
        attempts = self.ledger.attempts()
        finished = {(item.image_id, item.name) for unit, receipt in attempts if receipt for item in unit.items}
        finished -= {(item.image_id, item.name) for unit in self.units for item in unit.items}
        rejects = find_rejects(self.ledger)
        again = rejects.among(self.units)
        rejected = rejects.count - again
        sizes = _sizes([group for _, group in self.images()])
        return Estimate(
            place=self.place,
            found=len(self.items),
            done=sum((item.image_id, item.name) in finished for item in self.items),
            to_do=sum(len(unit.items) for unit in self.units),
            images_to_do=images,
            finished=sum(receipt.images for _, receipt in attempts if receipt) + rejected,
            rejected=rejected,
            again=again,
            units_to_plan=len(self.new),
            units_pending=len(self.pending),
            input_bytes=sum(size for size in sizes if size is not None),
            unreadable=sizes.count(None),
            output_bytes_at_most=None,
            free_bytes=self.ledger.location.free_bytes(),
            workers=options.workers or 1,
        )


def _sizes(images: Sequence[Sequence[Item]]) -> list[int | None]:
    """The bytes of each image, from the first of its URIs that has it."""

    def size(group: Sequence[Item]) -> int | None:
        found = (input_size(item.uri) for item in group)
        return next((number for number in found if number is not None), None)

    with ThreadPoolExecutor(HASH_THREADS) as pool:
        return list(pool.map(size, images))


def spread(images: Sequence[Sequence[Item]], count: int) -> list[Sequence[Item]]:
    """`count` different images, or all where there are fewer: in id order each from the middle of an equal stretch."""
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
    """Do `images` with the worker that `worker` makes for a directory, which is removed; None when there are none.

    The first image is done once before the others: what a worker does only once counts as its start.
    """
    if not images:
        return None
    with tempfile.TemporaryDirectory(prefix="kt-batch-pilot-") as folder:
        ledger = Ledger(open_location(folder))
        ledger.plan([replace(images[0][0], name=WARM_UP)], 1, {}, digest)
        names = (replace(item, name=f"{item.image_id}-{n}") for group in images for n, item in enumerate(group))
        first, *units = ledger.plan(list(names), options.unit_size, {}, digest)
        marks, done = [time.perf_counter()], 0
        receipts: list[Receipt] = []
        progress(Step("pilot", 0, len(images)))
        for receipt in runner.run(partial(worker, folder), [first, *units], quarantined):
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
    """What the receipts of a pilot's units tell, in the order of the units; `working` seconds were spent on them."""
    seconds = {
        item.image_id: spent
        for unit, receipt in zip(units, receipts, strict=True)
        for item, spent in zip(unit.items, receipt.item_seconds, strict=True)
    }
    used = [spent for spent in seconds.values() if spent is not None]
    written = sum(table.bytes for receipt in receipts for table in receipt.tables)
    written += sum(output[1] for receipt in receipts for output in receipt.outputs if output)
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
    """The estimate with what follows from a pilot. One whose images were all rejected tells nothing of the rest.

    Workers start at once and take equal units in turns, so the last turn may leave some idle; each is paid for from
    beginning to end.
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
        estimated_worker_hours=hours,  # not rounded: a small job's cost would be lost by it
        price=price,
        estimated_cost=None if price is None else hours * price,
    )
