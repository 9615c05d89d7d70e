"""Extract one unit of pairs: read both pictures, check that they are one, and commit what fitting needs of them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kt_batch.errors import Reason, RejectError
from kt_batch.kernels.alignment import TOLERANCE, align
from kt_batch.kernels.clipping import newly_clipped
from kt_batch.kernels.descriptors import describe
from kt_batch.kernels.quadratic import moments
from kt_batch.kernels.synthetic_befores import Variation, synthetic_before
from kt_batch.pipelines.inputs import read_finished, read_pair
from kt_batch.pipelines.numerics import check_numerics, fix_numerics
from kt_batch.pipelines.pairs.plan import PairsJob
from kt_batch.pipelines.units import UnitLog, by_image, check_quarantined, rejects_table
from kt_batch.runners.base import Heartbeat, no_heartbeat
from kt_batch.store import layout
from kt_batch.store.images.file_bytes import Data
from kt_batch.store.images.files import WorkingImage, resized, thumbnail
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.locations import check_kernel, open_location
from kt_batch.store.plans import Item, Unit
from kt_batch.store.receipts import Receipt
from kt_batch.store.schemas import PAIRS
from kt_batch.store.tables import commit_table
from kt_batch.store.units import Ledger

SYNTHETIC = "synthetic"  # tag of pairs whose picture before was computed
STAGES = ("read", "measure", "write")
MOST_ASPECT = 0.01  # by which the ratios of the sides may differ; rounding to a few hundred pixels stays below
LEAST_CHANGE = 0.5 / 255  # mean absolute difference of an edit


class PairsWorker:
    """Turns units of pairs into committed tables."""

    def __init__(self, job: PairsJob) -> None:
        self.job = job
        self.location = open_location(job.library)
        check_kernel(self.location, job.kernel)
        self.numerics = fix_numerics(job.threads)
        check_numerics(dict(job.numerics) if job.numerics else None, self.numerics, job.mix_numerics)
        self.decoder = ImageReaderProcess()
        self.ledger = Ledger(self.location)

    def __call__(self, unit: Unit, beat: Heartbeat = no_heartbeat) -> Receipt:
        """Extract one unit and commit it. What is no pair, or cannot be read, costs one reject row per name."""
        log = UnitLog.of_stages(STAGES)
        rows: list[dict[str, Any]] = []
        for items in by_image(unit):
            beat(items[0].image_id)
            started = time.perf_counter()
            try:
                check_quarantined(unit, items[0].image_id)
                read = self._read(items)
                log.add({"read": time.perf_counter() - started})
                measuring = time.perf_counter()
                rows.append(self._row(items, read))
                log.add({"measure": time.perf_counter() - measuring})
            except RejectError as error:
                log.reject(items, error.with_traceback(None))
                continue
            log.item_seconds[items[0].image_id] = time.perf_counter() - started
        beat("")
        started = time.perf_counter()
        tables = []
        if rows:
            table = pa.Table.from_pylist(rows, schema=PAIRS)
            tables.append(commit_table(self.location, layout.PAIRS, unit.id, table))
        if log.rejects:
            tables.append(commit_table(self.location, layout.REJECTS, unit.id, rejects_table(log.rejects)))
        log.add({"write": time.perf_counter() - started})
        receipt = log.receipt(unit, self.job.config.digest(), self.numerics, tuple(tables), images=len(rows))
        return self.ledger.commit(receipt)

    def _read(self, items: list[Item]) -> tuple[WorkingImage, WorkingImage | Variation]:
        """Return the pictures before and after, or the finished picture and the variation that makes a before of it."""

        def decode(data: Data) -> WorkingImage:
            return self.decoder.decode(data, self.job.config.size)

        return read_finished(items, decode) if self.job.config.synthetic else read_pair(items, decode)

    def _row(self, items: list[Item], read: tuple[WorkingImage, WorkingImage | Variation]) -> dict[str, Any]:
        config, item = self.job.config, items[0]
        before, after = read
        if isinstance(after, Variation):
            first, second = synthetic_before(before.pixels, after), before.pixels
        else:
            first, second = check_pair(before, after)
        found = moments(first, second)
        own = {tag for each in items for tag in each.tags} | ({SYNTHETIC} if config.synthetic else set())
        return {
            "image_id": bytes.fromhex(item.image_id),
            "name": item.name,
            "before": item.uri,
            "after": item.after,
            "original_width": before.original_width,
            "original_height": before.original_height,
            "width": first.shape[1],
            "height": first.shape[0],
            "tags": [*config.tags, *sorted(own - set(config.tags))],
            "license": config.license,
            "attribution": config.attribution,
            "descriptors": _bytes(describe(first)),
            "gram": _bytes(found.gram),
            "cross": _bytes(found.cross),
            "power": _bytes(found.power),
            "clipped": _bytes(np.array(newly_clipped(first, second))),
            "preview_before": thumbnail(first),
            "preview_after": thumbnail(second),
        }


def check_pair(before: WorkingImage, after: WorkingImage) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return both pictures `(H, W, 3)` at the size of the smaller one.

    Raises:
        RejectError: They are not one picture before and after an edit: their shapes differ, the picture was cropped,
            turned or shifted, or it was not changed at all.
    """
    ratios = [image.original_width / image.original_height for image in (before, after)]
    if (
        abs(np.log(ratios[0] / ratios[1])) > MOST_ASPECT
        and abs(before.width - after.width) + abs(before.height - after.height) > 2
    ):
        raise RejectError(
            Reason.NOT_A_PAIR,
            f"the picture before has {before.original_width} x {before.original_height} pixels, the one after "
            f"{after.original_width} x {after.original_height}; allowed is one ratio of the sides, nothing cropped",
        )
    small = min(before, after, key=lambda image: image.width * image.height)
    first, second = (resized(image.pixels, small.width, small.height) for image in (before, after))
    found = align(first, second)
    if found.blocks == 0:
        raise RejectError(
            Reason.NOT_A_PAIR,
            "neither before nor after has detail, so nothing shows that they are one picture",
        )
    if not found.one_picture:
        raise RejectError(
            Reason.NOT_A_PAIR,
            f"before and after do not show one picture: their structure has a correlation of {found.likeness:.2f}; "
            "cropped and turned pictures cannot be learned from",
        )
    if not found.aligned:
        raise RejectError(
            Reason.NOT_A_PAIR,
            f"before and after do not lie over each other: parts are shifted by up to {max(found.shifts)} of "
            f"{max(small.width, small.height)} pixels; allowed are {TOLERANCE}",
        )
    change = float(np.abs(first - second).mean())
    if change < LEAST_CHANGE:
        raise RejectError(
            Reason.NOT_A_PAIR,
            f"before and after are equal: they differ by {255 * change:.2f} of 255 on average, and an edit by "
            f"{255 * LEAST_CHANGE} or more",
        )
    return first, second


def _bytes(values: NDArray[np.float64]) -> bytes:
    return np.ascontiguousarray(values, "<f8").tobytes()
