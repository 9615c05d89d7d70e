"""Compute the statistics of the images of one part of patches."""

from __future__ import annotations

import hashlib

import numpy as np

from kt_batch.errors import DamagedError
from kt_batch.kernels.cells import distinct_cells, moments_of
from kt_batch.kernels.moments import Moments
from kt_batch.pipelines.index.plan import PartUnit
from kt_batch.pipelines.numerics import check_numerics, fix_numerics
from kt_batch.pipelines.statistics.plan import StatisticsJob
from kt_batch.runners.base import Heartbeat, no_heartbeat
from kt_batch.store import layout
from kt_batch.store.locations import check_kernel
from kt_batch.store.receipts import Receipt, new_attempt
from kt_batch.store.schemas import from_fixed_binary, patch_vectors
from kt_batch.store.statistics import STATISTICS_FORMAT, moments_table, statistics_location
from kt_batch.store.tables import check_channels, commit_table, read_table
from kt_batch.store.units import Ledger

CONFIG_DIGEST = hashlib.sha256(STATISTICS_FORMAT.encode()).hexdigest()[:16]


class StatisticsWorker:
    """Turns parts of patches into tables of moments."""

    def __init__(self, job: StatisticsJob) -> None:
        self.job = job
        self.library = job.library_location()
        check_kernel(self.library, job.kernel)
        self.numerics = fix_numerics(job.threads)
        check_numerics(dict(job.numerics) if job.numerics else None, self.numerics, job.mix_numerics)

    def __call__(self, unit: PartUnit, beat: Heartbeat = no_heartbeat) -> Receipt:
        """Commit the moments of each image of the part: of its cells, each once, by row and column.

        Raises DamagedError when the part is damaged, or holds NaN or infinity.
        """
        beat("")
        moments = self._moments(unit)
        beat("")
        location = statistics_location(self.library)
        part = commit_table(location, layout.MOMENTS, unit.id, moments_table(moments, self.job.channels))
        receipt = Receipt(
            unit=unit.id,
            attempt=new_attempt(),
            config_digest=CONFIG_DIGEST,
            tables=(part,),
            images=len(moments),
            patches=unit.part.rows,
            numerics=self.numerics,
        )
        return Ledger(location).commit(receipt)

    def _moments(self, unit: PartUnit) -> dict[bytes, Moments]:
        where, channels = f"{self.library.uri}/{unit.part.name}", self.job.channels
        table = read_table(self.library, unit.part, ["image_id", "row", "col", "vector"])
        check_channels(table.schema, channels, where)
        patches = patch_vectors(table, channels)
        if not np.isfinite(patches).all():
            raise DamagedError(f"{where} holds patches with NaN or infinity; allowed are finite values")
        rows, cols = (table[name].to_numpy().astype(np.int64) for name in ("row", "col"))
        ids = from_fixed_binary(table["image_id"], ">u8", ()).astype(np.uint64)
        found = {}
        for image in np.unique(ids):
            chosen = np.flatnonzero(ids == image)
            found[int(image).to_bytes(8, "big")] = moments_of(
                distinct_cells(rows[chosen], cols[chosen], patches[chosen])
            )
        return found
