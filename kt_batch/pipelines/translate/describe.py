"""Describe the photographs of one unit: whether photographs are a series, and their edit, follow from it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa

from kt_batch.errors import RejectError
from kt_batch.kernels.descriptors import describe
from kt_batch.methods.retouch.series import COLOURS
from kt_batch.pipelines.numerics import check_numerics, fix_numerics, search_device
from kt_batch.pipelines.reading import Reader
from kt_batch.pipelines.translate.placement import placement_of
from kt_batch.pipelines.translate.plan import TranslateJob
from kt_batch.pipelines.units import UnitLog
from kt_batch.runners.base import Heartbeat, no_heartbeat
from kt_batch.store import layout
from kt_batch.store.images.files import WorkingImage
from kt_batch.store.locations import check_kernel, open_location
from kt_batch.store.plans import Unit
from kt_batch.store.receipts import Receipt
from kt_batch.store.schemas import DESCRIBED
from kt_batch.store.series import described_location
from kt_batch.store.tables import commit_table
from kt_batch.store.units import Ledger

STAGES = ("read", "describe", "write")


class DescribeWorker:
    """Describes units of photographs. What cannot be read is recorded with its reason, and rejected when its turn to be
    translated comes.
    """

    def __init__(self, job: TranslateJob) -> None:
        self.job = job
        run = open_location(job.run)
        check_kernel(run, job.kernel)
        self.location = described_location(run)
        device = placement_of(job).named(search_device(job.config.searcher))  # that of the run, which goes on from here
        self.numerics = fix_numerics(job.threads, device)
        check_numerics(dict(job.numerics) if job.numerics else None, self.numerics, job.mix_numerics)
        self.reader = Reader()
        self.ledger = Ledger(self.location)

    def __call__(self, unit: Unit, beat: Heartbeat = no_heartbeat) -> Receipt:
        """Describe one unit and commit it."""
        log = UnitLog.of_stages(STAGES)
        rows: list[dict[str, Any]] = []
        for read in self.reader.images(unit, self.job.config.working_size, beat, metadata=True):
            log.add({"read": read.seconds})
            started = time.perf_counter()
            rows.append({"image_id": bytes.fromhex(read.items[0].image_id), **_facts(read.result)})
            log.add({"describe": time.perf_counter() - started})
        beat("")
        started = time.perf_counter()
        table = commit_table(self.location, layout.DESCRIBED, unit.id, pa.Table.from_pylist(rows, schema=DESCRIBED))
        log.add({"write": time.perf_counter() - started})
        receipt = log.receipt(unit, self.job.config.digest(), self.numerics, (table,), images=len(rows))
        return self.ledger.commit(receipt)


def _facts(result: WorkingImage | RejectError) -> dict[str, Any]:
    if isinstance(result, RejectError):
        return {"reason": str(result.reason), "message": result.message}
    colours = result.pixels.reshape(-1, 3)
    sample = np.rint(colours[:: max(1, len(colours) // COLOURS)] * 255).astype(np.uint8)
    return {
        "descriptors": np.ascontiguousarray(describe(result.pixels), "<f8").tobytes(),
        "colours": sample.tobytes(),
        "taken": result.blocks.capture_time,
    }
