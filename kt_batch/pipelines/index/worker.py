"""Do one unit of an index build: sample a part, route a part to clusters, or pack a cluster."""

from __future__ import annotations

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
from kt_batch.pipelines.index.plan import BuildJob, PackUnit, PartUnit
from kt_batch.pipelines.index.top import Top
from kt_batch.runners.base import Heartbeat, no_heartbeat
from kt_batch.store import layout
from kt_batch.store.indexes import put_blob, put_file
from kt_batch.store.locations import Location
from kt_batch.store.receipts import Receipt, new_attempt
from kt_batch.store.schemas import (
    MEMBERS,
    fixed_binary,
    from_fixed_binary,
    patch_vectors,
    routed_packets,
    routed_schema,
)
from kt_batch.store.scratch import scratch_file
from kt_batch.store.tables import check_channels, commit_table, open_table, read_patches
from kt_batch.store.units import Ledger

SAMPLE_MARGIN = 1.1  # 10 % margin for hash variance: a part offers its share of the sample and a little more


class SampleWorker:
    """Offers the patches of a part whose ids have the smallest hashes."""

    def __init__(self, job: BuildJob) -> None:
        self.job = job
        self.numerics = job.fix_numerics()

    def __call__(self, unit: PartUnit, beat: Heartbeat = no_heartbeat) -> Receipt:
        """Commit a table (patch_id, vector) of the part's share of the sample.

        Raises DamagedError when the part holds NaN or infinity; this is the first stage that reads it.
        """
        job = self.job
        beat("")
        table = read_patches(job.library_location(), unit.part, job.channels)
        beat("")
        if not np.isfinite(patch_vectors(table, job.channels)).all():
            raise DamagedError(
                f"'{unit.part.name}' at '{job.library}' holds patches with NaN or infinity; allowed are finite values."
            )
        ids = from_fixed_binary(table["patch_id"], "u1", (12,))
        share = min(1.0, SAMPLE_MARGIN * job.config.sample / job.patches)
        chosen = np.flatnonzero(hash_ids(ids, job.config.seed) <= np.uint64(share * (2**64 - 2048)))
        beat("")
        return _commit(job, unit.id, ((layout.SAMPLE, table.take(chosen), None),), self.numerics)


class RouteWorker:
    """Assigns the patches of a part to top-level clusters and writes their packets, a row group per cluster."""

    def __init__(self, job: BuildJob, top_sha256: str) -> None:
        self.job = job
        self.numerics = job.fix_numerics()
        self.top = Top.get(job.build_location(), top_sha256)

    def __call__(self, unit: PartUnit, beat: Heartbeat = no_heartbeat) -> Receipt:
        """Commit the routed part."""
        job, top = self.job, self.top
        beat("")
        table = read_patches(job.library_location(), unit.part, job.channels)
        beat("")
        ids = from_fixed_binary(table["patch_id"], "u1", (12,))
        patches = torch.from_numpy(patch_vectors(table, job.channels).copy())
        packets = torch.cat([haar(part.float()).half() for part in patches.split(16384)])
        space = ClusterSpace(job.config, top.basis.directions)
        labels = torch.cat([_labels(part, space, top, beat) for part in packets.split(16384)])
        order = torch.sort(labels, stable=True).indices
        clusters = labels[order].numpy()
        routed = pa.Table.from_arrays(
            [
                pa.array(clusters.astype(np.int32)),
                fixed_binary(ids[order.numpy()]),
                fixed_binary(packets[order].numpy()),
            ],
            schema=routed_schema(job.channels),
        )
        groups = [int(n) for n in np.bincount(clusters, minlength=len(top.centres)) if n]
        beat("")
        return _commit(job, unit.id, ((layout.ROUTED, routed, groups),), self.numerics)


class PackWorker:
    """Packs one top-level cluster into a shard, a subtree and its merged members."""

    def __init__(self, job: BuildJob, top_sha256: str) -> None:
        self.job = job
        self.numerics = job.fix_numerics()
        self.top = Top.get(job.build_location(), top_sha256)

    def __call__(self, unit: PackUnit, beat: Heartbeat = no_heartbeat) -> Receipt:
        """Commit the cluster. An empty one leaves a receipt without outputs."""
        job, top = self.job, self.top
        build = job.build_location()
        ids, packets = _cluster_rows(build, unit, job.channels, beat)
        if not len(ids):
            return _commit(job, unit.id, (), self.numerics)
        space = ClusterSpace(job.config, top.basis.directions)
        packed = pack(packets, top.mean, top.centres[unit.cluster], space, level=1, pulse=partial(beat, ""))
        kept = torch.from_numpy(ids)[packed.order]
        with scratch_file(job.library_location(), ".shard") as path:
            counts, bits = packed.subtree.leaf_count, job.config.bits
            write_shard(path, make_shard(packets[packed.order], kept, top.mean, top.basis, counts, bits))
            beat("")
            shard = put_file(job.library_location(), layout.SHARDS, path)
        subtree = put_blob(build, layout.SUBTREES, packed.subtree.to_bytes())
        merged = (packed.owner != torch.arange(len(ids))).numpy()
        members = pa.Table.from_arrays(
            [fixed_binary(ids[merged]), fixed_binary(ids[packed.owner.numpy()[merged]])], schema=MEMBERS
        )
        beat("")
        return _commit(
            job, unit.id, ((layout.MEMBERS, members, None),), self.numerics, (shard, subtree), len(packed.order)
        )


def _labels(packets: Tensor, space: ClusterSpace, top: Top, beat: Heartbeat) -> Tensor:
    """Return the top-level cluster of each packet, `(n,)` int64."""
    beat("")
    return assign(space.points(match_parts(packets, top.mean)[0]), top.centres)[0]


def _cluster_rows(build: Location, unit: PackUnit, channels: int, beat: Heartbeat) -> tuple[NDArray[np.uint8], Tensor]:
    """Return ids `(n, 12)` and packets `(n, 4, C)` float16 of one cluster from all routed parts, by patch id."""
    tables = []
    for ref in unit.routed:
        beat("")
        with open_table(build, ref.name) as file:
            wanted = [group for group, first in enumerate(file.first_values("cluster")) if first == unit.cluster]
            if wanted:
                check_channels(file.checked_schema(), channels, f"{build.uri}/{ref.name}")
                tables.append(file.read(["patch_id", "vector"], wanted))
    if not tables:
        return np.empty((0, 12), np.uint8), torch.empty(0, 4, channels, dtype=torch.float16)
    table = pa.concat_tables(tables)
    ids = from_fixed_binary(table["patch_id"], "u1", (12,))
    order = sort_order(ids)
    packets = routed_packets(table, channels)[order]
    return np.ascontiguousarray(ids[order]), torch.from_numpy(packets)


def _commit(
    job: BuildJob,
    unit: str,
    tables: tuple[tuple[str, pa.Table, list[int] | None], ...],
    numerics: dict[str, str],
    outputs: tuple[tuple[str, int], ...] = (),
    patches: int = 0,
) -> Receipt:
    build = job.build_location()
    refs = tuple(commit_table(build, kind, unit, table, groups) for kind, table, groups in tables)
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
