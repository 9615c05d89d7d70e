"""Report how an extract or a translate went.

Plan, receipts, reject tables and tables of edits are all that is read, and a log where one is named. Clocks of several
machines may differ slightly. The report shows them; nothing else uses them.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from kt_batch.report.index_owners import OwnerShare, read_owners
from kt_batch.report.plots import throughput_plot
from kt_batch.report.recorded_edits import REVIEW_BELOW, Review, review_edits
from kt_batch.report.rendering import new_environment
from kt_batch.store import attempts
from kt_batch.store.locations import absolute_place
from kt_batch.store.opening import kind_of, open_place
from kt_batch.store.plans import Unit
from kt_batch.store.receipts import Receipt
from kt_batch.store.run import Run

REJECTED = 100  # rejects in a report, by name
TEMPLATE = "run_report.html.j2"
SLOWEST = 10
PAUSE = 60.0  # seconds without a unit in progress that count as a pause
SHOWN_EDITS = 10  # to review, on the page; JSON lists more
SHOWN_WORKERS = 40  # on the page; JSON lists all
BINS = 60  # of the throughput plot
STAGES = {"read": 0, "encode": 1, "search": 2, "swap": 3, "decode": 5, "write": 6}  # in the order of the work
OWN_STAGES = 4  # position of all other stages
SHORTEST = 0.001  # seconds of a unit: a receipt's resolution


@dataclass(frozen=True)
class UnitCounts:
    """Units of the plan: all, with a receipt, and without."""

    planned: int
    done: int
    pending: int


@dataclass(frozen=True)
class ImageCounts:
    """Inputs of the plan, one per name.

    elsewhere: listed again in a later unit, and extracted by an earlier one. An input that was rejected and waits for a
    retry is both pending and rejected.
    """

    planned: int
    done: int
    pending: int
    rejected: int
    elsewhere: int


@dataclass(frozen=True)
class Throughput:
    """Images over working time: the time in which units were in progress.

    Pauses between two sessions are not in it. started, finished: Unix seconds. rates: images per second in equal steps
    of `step` working seconds; a unit's images are spread evenly over its seconds. pauses: (working seconds before it,
    its length).
    """

    started: float
    finished: float
    images: int
    working_seconds: float
    images_per_second: float
    step: float
    rates: tuple[float, ...]
    pauses: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class SlowImage:
    """An image with its seconds from reading to result.

    What a unit writes as a whole is not included.
    """

    name: str
    uri: str
    seconds: float
    unit: str
    worker: str | None


@dataclass(frozen=True)
class Rejects:
    """Rejects with one reason, and the first of them by URI as an example."""

    reason: str
    count: int
    uri: str
    message: str


@dataclass(frozen=True)
class Stage:
    """Worker seconds of one stage, and their share of all."""

    stage: str
    seconds: float
    share: float


@dataclass(frozen=True)
class WorkerShare:
    """The work of one process.

    images_per_second: of its own working time. worker: None for receipts that do not name it.
    """

    worker: str | None
    units: int
    images: int
    seconds: float
    images_per_second: float | None


@dataclass(frozen=True)
class Unrecorded:
    """Finished units whose receipts, of an earlier version, lack a field."""

    finished: int
    worker: int
    item_seconds: int


@dataclass(frozen=True)
class RunReport:
    """The progress of a library (`extract`) or a run (`translate`), and its cost.

    review: None for what records no edits. owners: Of a shared index, where a log is given.
    """

    place: str
    kind: str
    units: UnitCounts
    images: ImageCounts
    throughput: Throughput | None
    stages: tuple[Stage, ...]
    slowest: tuple[SlowImage, ...]
    rejects: tuple[Rejects, ...]
    rejected: tuple[attempts.Reject, ...]
    workers: tuple[WorkerShare, ...]
    unrecorded: Unrecorded
    review: Review | None = None
    owners: tuple[OwnerShare, ...] = ()


def run_report(place: str, review_below: float = REVIEW_BELOW, log: Path | None = None) -> RunReport:
    """Report on the library or the run at a path or URI.

    Args:
        place: The path or URI.
        review_below: Confidence below which an edit is listed for review.
        log: A log of the run that tells of the owners of its index.

    Raises:
        MissingError: there is neither, or no such log.
        UsageError: the log tells of no owners for this run.
        DamagedError: a plan, a receipt, a reject table or a table of edits is damaged.
    """
    opened = open_place(place)
    units = opened.committed.ledger.units()
    done = [(unit, opened.committed.receipts[unit.id]) for unit in units if unit.id in opened.committed.receipts]
    receipts = [receipt for _, receipt in done]
    return RunReport(
        place=opened.location.uri,
        kind=kind_of(opened),
        units=UnitCounts(len(units), len(done), len(units) - len(done)),
        images=image_counts(units, opened.committed.receipts, opened.committed.rejects),
        throughput=throughput(receipts),
        stages=stages(receipts),
        slowest=slowest(done),
        rejects=rejects(opened.committed.rejects),
        rejected=tuple(opened.committed.rejects.listed(REJECTED)),
        workers=workers(receipts),
        unrecorded=Unrecorded(
            finished=sum(receipt.finished is None for receipt in receipts),
            worker=sum(receipt.worker is None for receipt in receipts),
            item_seconds=sum(not receipt.item_seconds for receipt in receipts),
        ),
        review=review_edits(opened, review_below) if isinstance(opened, Run) else None,
        owners=() if log is None else read_owners(log, absolute_place(place)),
    )


def image_counts(units: Sequence[Unit], receipts: Mapping[str, Receipt], rejects: attempts.Rejects) -> ImageCounts:
    """Count the planned inputs by state."""
    pending = [unit for unit in units if unit.id not in receipts]
    waiting = sum(len(unit.items) for unit in pending)
    again = rejects.among(pending)
    planned = sum(len(unit.items) for unit in units) - sum(map(len, rejects.superseded.values())) - again
    done = sum(receipt.images for receipt in receipts.values())
    rejected = rejects.count
    return ImageCounts(planned, done, waiting, rejected, max(0, planned + again - waiting - done - rejected))


def throughput(receipts: Sequence[Receipt]) -> Throughput | None:
    """Return images over working time; None when no receipt has its finishing time.

    A unit was in progress for the seconds of its stages, until it was finished.
    """
    timed = sorted((_began(r.finished, r), r.finished, r.images) for r in receipts if r.finished is not None)
    if not timed:
        return None
    began, ended, images = (np.array(column, np.float64) for column in zip(*timed, strict=True))
    latest = np.maximum.accumulate(ended)
    gaps = np.maximum(began[1:] - latest[:-1], 0.0)
    cut = np.where(gaps > PAUSE, gaps, 0.0)
    left_out = began[0] + np.concatenate([[0.0], np.cumsum(cut)])  # per unit: offset from its clock to working time
    began, ended = began - left_out, ended - left_out
    working = float(ended.max())
    edges = np.linspace(0.0, working, BINS + 1)
    made = [float((images * ((edge - began) / (ended - began)).clip(0.0, 1.0)).sum()) for edge in edges]
    step = working / BINS
    return Throughput(
        started=round(timed[0][0], 3),
        finished=round(float(latest[-1]), 3),
        images=int(images.sum()),
        working_seconds=round(working, 3),
        images_per_second=round(float(images.sum()) / working, 4),
        step=round(step, 6),
        rates=tuple(np.round(np.diff(made) / step, 4).tolist()),
        pauses=tuple((round(float(began[n + 1]), 3), round(float(cut[n]), 3)) for n in np.flatnonzero(cut)),
    )


def _began(finished: float, receipt: Receipt) -> float:
    return min(max(0.0, finished - sum(receipt.timings.values())), finished - SHORTEST)


def stages(receipts: Iterable[Receipt]) -> tuple[Stage, ...]:
    """Return worker seconds by stage, in the order of the work.

    Stages that only one method has come by name.
    """
    total: defaultdict[str, float] = defaultdict(float)
    for receipt in receipts:
        for stage, seconds in receipt.timings.items():
            total[stage] += seconds
    whole = sum(total.values())
    names = sorted(total, key=lambda name: (STAGES.get(name, OWN_STAGES), name))
    return tuple(Stage(name, round(total[name], 3), round(total[name] / whole, 4) if whole else 0.0) for name in names)


def slowest(done: Iterable[tuple[Unit, Receipt]], count: int = SLOWEST) -> tuple[SlowImage, ...]:
    """Return the slowest images, ties by name.

    An image with several names is listed under its first.
    """
    images = (
        SlowImage(item.name, item.uri, seconds, unit.id, receipt.worker)
        for unit, receipt in done
        if receipt.item_seconds
        for number, (item, seconds) in enumerate(zip(unit.items, receipt.item_seconds, strict=True))
        if seconds is not None and (number == 0 or unit.items[number - 1].image_id != item.image_id)
    )
    return tuple(heapq.nsmallest(count, images, key=lambda image: (-image.seconds, image.name)))


def rejects(standing: attempts.Rejects) -> tuple[Rejects, ...]:
    """Return rejects by reason with an example of each, the most frequent first."""
    by_reason: dict[str, list[tuple[str, str]]] = {}
    for row in standing.rows.to_pylist():
        by_reason.setdefault(row["reason"], []).append((row["uri"], row["message"]))
    listed = [Rejects(reason, len(rows), *min(rows)) for reason, rows in by_reason.items()]
    return tuple(sorted(listed, key=lambda entry: (-entry.count, entry.reason)))


def workers(receipts: Iterable[Receipt]) -> tuple[WorkerShare, ...]:
    """Return each worker's share, most units first, unnamed workers last."""
    by_worker: defaultdict[str | None, list[Receipt]] = defaultdict(list)
    for receipt in receipts:
        by_worker[receipt.worker].append(receipt)
    listed = []
    for worker, own in by_worker.items():
        images, seconds = sum(r.images for r in own), sum(sum(r.timings.values()) for r in own)
        rate = round(images / seconds, 4) if seconds else None
        listed.append(WorkerShare(worker, len(own), images, round(seconds, 3), rate))
    return tuple(sorted(listed, key=lambda share: (share.worker is None, -share.units, share.worker or "")))


# ---- the page --------------------------------------------------------------------------------------------------------


def report_page(report: RunReport) -> str:
    """Render the report as one self-contained HTML page without scripts."""
    templates = new_environment()
    templates.filters.update(clock=clock, duration=duration)
    return templates.get_template(TEMPLATE).render(
        report=report,
        plot=_plot(report.throughput) if report.throughput else None,
        shown_workers=SHOWN_WORKERS,
        shown_edits=SHOWN_EDITS,
    )


def _plot(progress: Throughput) -> str:
    return throughput_plot(
        progress.rates,
        progress.working_seconds,
        [(at, f"pause of {duration(length)}") for at, length in progress.pauses],
        duration,
    )


def clock(unix: float) -> str:
    """Format Unix seconds as date and time, UTC."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: float) -> str:
    """Format seconds: `0.05 s`, `42.0 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    for large, small, names in ((86400, 3600, ("d", "h")), (3600, 60, ("h", "min")), (60, 1, ("min", "s"))):
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {names[0]}" + (f" {rest} {names[1]}" if rest else "")
    return f"{whole} s"
