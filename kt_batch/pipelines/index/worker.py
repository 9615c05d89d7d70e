"""Do one unit of an index build: sample parts, route parts to clusters, or pack clusters."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.errors import DamagedError
from kt_batch.index.ids import hash_ids, sort_order
from kt_batch.index.packing import ClusterSpace, pack
from kt_batch.index.shards import make_shard, match_parts, write_shard
from kt_batch.kernels.haar import haar
from kt_batch.kernels.kmeans import assign
from kt_batch.kernels.staging import staged
from kt_batch.pipelines.index.memory import slice_rows
from kt_batch.pipelines.index.plan import BuildJob, PackUnit, PartsUnit, sample_size
from kt_batch.pipelines.index.top import Top
from kt_batch.runners.base import Heartbeat, no_heartbeat
from kt_batch.store import layout
from kt_batch.store.indexes import put_blob, put_file
from kt_batch.store.receipts import Receipt, TableRef, new_attempt
from kt_batch.store.routed import RecordSorter, RoutedFiles, put_routed, record_sorter, record_type
from kt_batch.store.schemas import MEMBERS, fixed_binary, from_fixed_binary, patch_vectors
from kt_batch.store.scratch import scratch_file
from kt_batch.store.tables import commit_table, patch_slices
from kt_batch.store.units import Ledger

SAMPLE_MARGIN = 1.1  # 10 % margin for hash variance: a part offers its share of the sample and a little more


class SampleWorker:
    """Offers the patches of parts whose ids have the smallest hashes."""

    def __init__(self, job: BuildJob) -> None:
        self.job = job
        self.numerics = job.fix_numerics()

    def __call__(self, unit: PartsUnit, beat: Heartbeat = no_heartbeat) -> Receipt:
        """Commit a table (patch_id, vector) of the parts' share of the sample.

        Raises DamagedError when a part holds NaN or infinity; this is the first stage that reads it.
        """
        job = self.job
        size = sample_size(job.patches, job.config)
        limit = np.uint64(min(1.0, SAMPLE_MARGIN * size / job.patches) * (2**64 - 2048))
        chosen = []
        for part, table in _slices(job, unit, beat):
            if not np.isfinite(patch_vectors(table, job.channels)).all():
                raise DamagedError(
                    f"'{part.name}' at '{job.library}' holds patches with NaN or infinity; allowed are finite values."
                )
            ids = from_fixed_binary(table["patch_id"], "u1", (12,))
            chosen.append(table.take(np.flatnonzero(hash_ids(ids, job.config.seed) <= limit)))
        beat("")
        return _commit(job, unit.id, ((layout.SAMPLE, pa.concat_tables(chosen)),), self.numerics)


class RouteWorker:
    """Assigns the patches of parts to top-level clusters and writes their packets by cluster."""

    def __init__(self, job: BuildJob, top_sha256: str) -> None:
        self.job = job
        self.numerics, self.device = job.fix_numerics(), job.device()
        self.top = Top.get(job.build_location(), top_sha256, self.device)

    def __call__(self, unit: PartsUnit, beat: Heartbeat = no_heartbeat) -> Receipt:
        """Commit the routed patches of the parts."""
        job, top = self.job, self.top
        build = job.build_location()
        space = ClusterSpace(job.config, top.basis.directions)
        with record_sorter(build, len(top.centres), job.channels) as sorter:
            for _, table in _slices(job, unit, beat):
                packets = haar(torch.from_numpy(patch_vectors(table, job.channels).copy()).float()).half()
                records = np.empty(len(packets), record_type(job.channels))
                records["patch_id"] = from_fixed_binary(table["patch_id"], "u1", (12,))
                records["packet"] = packets.numpy()
                vectors = match_parts(staged(packets, self.device), top.mean)[0]
                labels = assign(space.points(vectors), top.centres)[0]
                sorter.add(records, labels.cpu().numpy())
            beat("")
            output = put_routed(build, sorter)
            beat("")
            return _commit(job, unit.id, (), self.numerics, (output,), int(sorter.counts.sum()))


class PackWorker:
    """Packs top-level clusters, each into a shard and a subtree, and their merged members into one table."""

    def __init__(self, job: BuildJob, top_sha256: str, clusters_sha256: str) -> None:
        self.job = job
        self.numerics, self.device = job.fix_numerics(), job.device()
        self.top = Top.get(job.build_location(), top_sha256, self.device)
        self.routed = RoutedFiles.get(job.build_location(), clusters_sha256, len(self.top.centres))

    def __call__(self, unit: PackUnit, beat: Heartbeat = no_heartbeat) -> Receipt:
        """Commit the clusters: two outputs for each, shard and subtree, none for an empty one."""
        job = self.job
        outputs: list[tuple[str, int] | None] = []
        members, kept = [MEMBERS.empty_table()], 0
        with record_sorter(job.build_location(), unit.last - unit.first + 1, job.channels) as sorter:
            self._read(unit, sorter, beat)
            for number, rows in enumerate(sorter.counts):
                if not rows:
                    outputs += [None, None]
                    continue
                packets = _by_id(sorter, number, job.channels)
                shard, subtree, merged, count = self._pack(unit.first + number, *packets, beat)
                del packets  # before those of the next cluster are read
                outputs += [shard, subtree]
                members.append(merged)
                kept += count
        beat("")
        tables = ((layout.MEMBERS, pa.concat_tables(members)),)
        return _commit(job, unit.id, tables, self.numerics, tuple(outputs), kept)

    def _read(self, unit: PackUnit, sorter: RecordSorter, beat: Heartbeat) -> None:
        """Add the records of the unit's clusters to the sorter, file after file."""
        job = self.job
        for file in range(len(self.routed.names)):
            beat("")
            for records, labels in self.routed.read(job.build_location(), file, unit.first, unit.last, job.channels):
                sorter.add(records, labels - unit.first)

    def _pack(
        self, cluster: int, ids: NDArray[np.uint8], packets: Tensor, beat: Heartbeat
    ) -> tuple[tuple[str, int], tuple[str, int], pa.Table, int]:
        """Store the shard and the subtree of a cluster; return both, its merged members and how many were kept.

        ids: `(n, 12)`, ascending. packets: `(n, 4, C)` float16, most of the memory: nothing copies all of them, but
        to a GPU.
        """
        job, top = self.job, self.top
        space, packets = ClusterSpace(job.config, top.basis.directions), staged(packets, self.device)
        packed = pack(packets, top.mean, top.centres[cluster], space, level=1, pulse=partial(beat, "")).on_processor()
        merged = (packed.owner != torch.arange(len(ids), device="cpu")).numpy()
        members = pa.Table.from_arrays(
            [fixed_binary(ids[merged]), fixed_binary(ids[packed.owner.numpy()[merged]])], schema=MEMBERS
        )
        counts, bits = packed.subtree.leaf_count, job.config.bits
        with scratch_file(job.library_location(), ".shard") as path:
            shard = make_shard(packets, torch.from_numpy(ids), packed.order, top.mean, top.basis, counts, bits)
            write_shard(path, shard)
            beat("")
            stored = put_file(job.library_location(), layout.SHARDS, path)
        subtree = put_blob(job.build_location(), layout.SUBTREES, packed.subtree.to_bytes())
        return stored, subtree, members, shard.count


def _slices(job: BuildJob, unit: PartsUnit, beat: Heartbeat) -> Iterator[tuple[TableRef, pa.Table]]:
    """Yield the patches of parts, a bounded number at a time, and the part that they are from."""
    rows = slice_rows(job)
    for part in unit.parts:
        beat("")
        for table in patch_slices(job.library_location(), part, job.channels, rows):
            beat("")
            yield part, table


def _by_id(sorter: RecordSorter, cluster: int, channels: int) -> tuple[NDArray[np.uint8], Tensor]:
    """Return the ids `(n, 12)` and packets `(n, 4, C)` float16 of a cluster, by patch id.

    The records are read twice, so that they are in memory once: first for their ids, then each into its place.
    """
    ids = np.concatenate([batch["patch_id"].copy() for batch in sorter.records(cluster)])
    order = sort_order(ids)
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    packets, start = np.empty((len(ids), 4, channels), "<f2"), 0
    for batch in sorter.records(cluster):
        packets[places[start : start + len(batch)]] = batch["packet"]
        start += len(batch)
    return ids[order], torch.from_numpy(packets)


def _commit(
    job: BuildJob,
    unit: str,
    tables: tuple[tuple[str, pa.Table], ...],
    numerics: dict[str, str],
    outputs: tuple[tuple[str, int] | None, ...] = (),
    patches: int = 0,
) -> Receipt:
    build = job.build_location()
    refs = tuple(commit_table(build, kind, unit, table) for kind, table in tables)
    receipt = Receipt(
        unit=unit,
        attempt=new_attempt(),
        config_digest=job.config.digest(),
        tables=refs,
        outputs=outputs,
        patches=patches,
        numerics=numerics,
    )
    return Ledger(build).commit(receipt)
