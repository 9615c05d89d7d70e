"""Do some images of a library or a run once more, with the worker that made them, and compare.

Receipts and hashes show damage. They cannot show that somebody who may write to a place planted a receipt with foreign
pictures: whoever can write there can make everything agree. Doing the work again can.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kt_batch.config import Config
from kt_batch.errors import MissingError, Reason
from kt_batch.maintenance.made_with import AS_RECORDED, MadeWith, job_of
from kt_batch.maintenance.recompute_series import SeriesCheck
from kt_batch.maintenance.verify import rows_digest
from kt_batch.pipelines.encoders import library_encoder
from kt_batch.pipelines.extract.plan import ExtractJob, image_owners
from kt_batch.pipelines.extract.worker import ExtractWorker
from kt_batch.pipelines.pairs.plan import PairsJob
from kt_batch.pipelines.pairs.worker import PairsWorker
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.pipelines.translate.worker import TranslateWorker
from kt_batch.report.sources import follows
from kt_batch.store import layout
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.library import Library
from kt_batch.store.locations import open_location
from kt_batch.store.opening import open_place, open_run
from kt_batch.store.paired import PairedLibrary
from kt_batch.store.plans import Item, Unit
from kt_batch.store.receipts import Receipt
from kt_batch.store.run import Run, provenance_of, read_output
from kt_batch.store.schemas import IMAGE_ID, PAIRS, patch_vectors
from kt_batch.store.scratch import temporary_directory
from kt_batch.store.tables import read_table
from kt_batch.store.units import Ledger

GONE = (Reason.UNREADABLE, Reason.CHANGED)  # an input that nobody can do again; any other reject is a difference
SAME_MATCHES = 0.999  # share of best matches that another numerics class finds too
VECTOR = "vector"
VECTOR_STEP = 1e-2  # of the largest value: how far a patch of another numerics class may be off
STEP = 1.0 / 255  # how far a picture of another numerics class may be off
WHEREABOUTS = ("library", "source_uri")  # columns of provenance that say where sources are, and not what they are

Compare = Callable[[Item], bool | None]  # True: equal, False: different, None: equal within STEP


@dataclass(frozen=True)
class Recompute:
    """The request: how many images, which, and with what they were made."""

    count: int
    seed: int = 0
    made: MadeWith = AS_RECORDED


@dataclass
class RecomputeSummary:
    """The result. Each list holds names of inputs.

    seed: Of the choice. close: Made on another numerics class, and within one step of 255 (a library: within rounding).
    different: Also an input that is rejected now and has a result there. absent: Inputs that cannot be
    read any more, or whose bytes are others; the next ones were taken in their place.
    """

    place: str
    seed: int
    equal: list[str] = field(default_factory=list)
    close: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @property
    def checked(self) -> int:
        """Return the number of images that were compared."""
        return len(self.equal) + len(self.close) + len(self.different)


def recompute(place: str, request: Recompute, progress: Progress) -> RecomputeSummary:
    """Do `request.count` images of a place once more in a temporary directory, and compare. Nothing is written there.

    Which images follows from the seed and their ids.

    Raises:
        MissingError: There is neither a library nor a run, or the library of a run is gone.
        MismatchError: What the run names is not what is there.
        WeightsError: Weights are missing.
    """
    opened = open_place(place)
    summary = RecomputeSummary(opened.location.uri, request.seed)
    with tempfile.TemporaryDirectory(prefix="kt-batch-verify-", dir=temporary_directory()) as folder:
        if isinstance(opened, Run):
            items, compare = _of_run(opened, request, folder)
        elif isinstance(opened, PairedLibrary):
            items, compare = _of_pairs(opened, folder)
        else:
            items, compare = _of_library(opened, request, folder)
        progress(Step("recompute", 0, request.count))
        for item in _ordered(items, request.seed):
            if summary.checked == request.count:
                break
            _judge(summary, item, compare)
            progress(Step("recompute", summary.checked, request.count))
    return summary


def _judge(summary: RecomputeSummary, item: Item, compare: Compare) -> None:
    """Compare one item; an input in a store that the caller did not name is not asked for."""
    if not follows(open_location(summary.place), item.uri):
        summary.absent.append(item.name)
        return
    try:
        equal = compare(item)
    except MissingError:
        summary.absent.append(item.name)
        return
    (summary.close if equal is None else summary.equal if equal else summary.different).append(item.name)


def _ordered(items: Sequence[Item], seed: int) -> list[Item]:
    """Return the items in an order that follows from the seed and their ids alone."""

    def key(item: Item) -> tuple[bytes, str]:
        return hashlib.sha256(f"{seed}:{item.image_id}".encode()).digest(), item.name

    return sorted(items, key=key)


# ---- a run -----------------------------------------------------------------------------------------------------------


def _of_run(run: Run, request: Recompute, folder: str) -> tuple[list[Item], Compare]:
    """Return the inputs of all outputs, and the function that makes one again and compares it."""
    outputs = {(output.image_id, output.input_name): output for output in run.outputs.values()}
    numerics = {
        (item.image_id, item.name): receipt.numerics
        for unit, receipt in run.committed.attempts
        for item, output in zip(unit.items, receipt.outputs if receipt else (), strict=False)
        if receipt and output
    }
    items = [Item(output.image_id, output.uri, output.input_name, output.name) for output in outputs.values()]
    job = job_of(run, request.made, folder, threads_of(run.committed.receipts.values()))
    worker, again = TranslateWorker(job), Ledger(open_location(folder))
    series = SeriesCheck(run, job) if job.series else None

    def compare(item: Item) -> bool | None:
        there = outputs[item.image_id, item.name]
        if series and not series.holds(item):
            return False
        receipt = _do(again, worker, item, job.config)
        made = receipt.outputs[0]
        if made is None:
            return _rejected_now(again, receipt)
        (part,) = (table for table in receipt.tables if table.kind == layout.PROVENANCE)
        provenance = read_table(again.location, part), provenance_of(run, there)
        if receipt.numerics == numerics[item.image_id, item.name]:
            return made[0] == there.sha256 and _same_rows(*provenance)
        here = open_run(folder)
        pictures = read_output(here, here.outputs[there.name]), read_output(run, there)
        close = _close(*pictures, job.config.working_size)
        return None if close and _agreement(*provenance) >= SAME_MATCHES else False

    return items, compare


def _rejected_now(again: Ledger, receipt: Receipt) -> bool:
    """Return that an image with a result is different when it is rejected now, unless its bytes are gone.

    Raises:
        MissingError: The input cannot be read any more, or its bytes are others.
    """
    (part,) = (table for table in receipt.tables if table.kind == layout.REJECTS)
    row = read_table(again.location, part).to_pylist()[0]
    if row["reason"] in GONE:
        raise MissingError(row["message"])
    return False


def _agreement(one: pa.Table, other: pa.Table) -> float:
    """Return the share of equal best matches, or of a method without matches, whether sources and shares agree.

    Of a method with levels, that is the share at the level where it is smallest.
    """
    if "rank" not in one.column_names or "rank" not in other.column_names:
        return float(_same_rows(one, other))
    if ("level" in one.column_names) != ("level" in other.column_names):
        return 0.0
    first, second = (_best(table) for table in (one, other))
    return min(
        (len(first[level] & second[level]) / max(len(first[level]), len(second[level]), 1) for level in first | second),
        default=0.0,
    )


def _best(provenance: pa.Table) -> dict[str, set[tuple[object, ...]]]:
    """Return the best matches by level; those of a method without levels under the empty name."""
    columns = ["row", "col", "source_image_id", "source_row", "source_col"]
    best = provenance.filter(pc.equal(provenance["rank"], 0))
    levels = best["level"].to_pylist() if "level" in best.column_names else [""] * best.num_rows
    found: defaultdict[str, set[tuple[object, ...]]] = defaultdict(set)
    for level, row in zip(levels, best.select(columns).to_pylist(), strict=True):
        found[level].add(tuple(row.values()))
    return found


def _same_rows(one: pa.Table, other: pa.Table) -> bool:
    kept = [name for name in one.column_names if name not in WHEREABOUTS]
    return set(kept) <= set(other.column_names) and (
        rows_digest(layout.PROVENANCE, one.select(kept)) == rows_digest(layout.PROVENANCE, other.select(kept))
    )


def _close(one: bytes, other: bytes, size: int) -> bool:
    """Tell whether two picture files differ by at most one step of 255 in every sample."""
    with ImageReaderProcess() as reader:
        first, second = reader.decode(one, size).pixels, reader.decode(other, size).pixels
    return first.shape == second.shape and bool(np.abs(first - second).max(initial=0.0) <= STEP + 1e-6)


# ---- a library -------------------------------------------------------------------------------------------------------


def _of_library(library: Library, request: Recompute, folder: str) -> tuple[list[Item], Compare]:
    """Return the images of a library, and the function that extracts one again and compares its patches."""
    owners = image_owners(library.committed.ledger)
    units = {unit.id: unit for unit in library.committed.ledger.units() if unit.id in library.committed.receipts}
    items = {
        item.image_id: item for unit in units.values() for item in unit.items if owners.get(item.image_id) == unit.id
    }
    source, _ = library_encoder(library, request.made.encoder_weights)
    threads = threads_of(library.committed.receipts.values())
    job = ExtractJob(library=folder, config=library.config, encoder=source, threads=threads)
    worker, again = ExtractWorker(job), Ledger(open_location(folder))

    def compare(item: Item) -> bool | None:
        receipt = _do(again, worker, item, job.config)
        made = [table for table in receipt.tables if table.kind not in (layout.IMAGES, layout.REJECTS)]
        if not made:
            return _rejected_now(again, receipt)
        first = library.committed.receipts[owners[item.image_id]]
        there = {table.kind: table for table in first.tables}
        image = pa.scalar(bytes.fromhex(item.image_id), IMAGE_ID)
        verdicts = set()
        for table in made:
            if table.kind not in there:
                return False
            rows, now = read_table(library.location, there[table.kind]), read_table(again.location, table)
            same = receipt.numerics == first.numerics
            verdicts.add(_compared(table.kind, rows.filter(pc.equal(rows["image_id"], image)), now, same))
        return False if False in verdicts else None if None in verdicts else True

    rejected = {item.image_id for _, item in library.committed.rejects.standing}
    return [item for image, item in items.items() if image not in rejected], compare


def _compared(kind: str, one: pa.Table, other: pa.Table, same_numerics: bool) -> bool | None:
    """Compare the rows of one image: True for equal, None for close on another numerics class, False for different."""
    if same_numerics or kind == layout.WORKING:
        return rows_digest(kind, one) == rows_digest(kind, other)
    return None if _close_patches(one, other) else False


def _of_pairs(library: PairedLibrary, folder: str) -> tuple[list[Item], Compare]:
    threads = threads_of(library.committed.receipts.values())
    worker = PairsWorker(PairsJob(folder, library.config, threads))
    again = Ledger(open_location(folder))
    items = {item.image_id: item for unit in library.committed.ledger.units() for item in unit.items}
    there = library.table(PAIRS.names)

    def compare(item: Item) -> bool | None:
        receipt = _do(again, worker, item, library.config)
        if receipt.rejects:
            return _rejected_now(again, receipt)
        (made,) = (table for table in receipt.tables if table.kind == layout.PAIRS)
        pair = pa.scalar(bytes.fromhex(item.image_id), IMAGE_ID)
        rows, now = there.filter(pc.equal(there["image_id"], pair)), read_table(again.location, made)
        return rows_digest(layout.PAIRS, rows) == rows_digest(layout.PAIRS, now)

    rejected = {item.image_id for _, item in library.committed.rejects.standing}
    return [item for pair, item in items.items() if pair not in rejected], compare


def _close_patches(one: pa.Table, other: pa.Table) -> bool:
    """Tell whether two tables hold the same patches, and vectors that differ by rounding alone."""
    plain = [name for name in one.column_names if name != VECTOR]
    if one.num_rows != other.num_rows or not one.select(plain).equals(other.select(plain)):
        return False
    channels = other.schema.field(VECTOR).type.byte_width // 8
    first, second = (patch_vectors(table, channels).astype(np.float32) for table in (one, other))
    largest = float(np.abs(first).max(initial=0.0))
    return bool(np.abs(first - second).max(initial=0.0) <= VECTOR_STEP * largest)


def threads_of(receipts: Iterable[Receipt]) -> int:
    """Return the threads that the first receipt records: the same number gives the same bytes."""
    recorded = next((receipt.numerics.get("threads", "") for receipt in receipts), "")
    return int(recorded) if recorded.isdecimal() and 0 < int(recorded) <= 256 else 1


def _do(ledger: Ledger, worker: Callable[[Unit], Receipt], item: Item, config: Config) -> Receipt:
    """Do one item as a unit of its own."""
    return worker(ledger.plan([item], 1, config.model_dump(mode="json"), config.digest())[-1])
