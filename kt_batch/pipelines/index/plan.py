"""A library -> its BHKM index: sample, fit the top level, route patches to clusters, pack clusters, finish.

Every stage but the fit is units of work with receipts of their own under `index/<digest>/build/`, so a killed build
goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import torch

from kt_batch.config import IndexConfig, RunOptions
from kt_batch.errors import MissingError, UsageError
from kt_batch.index.ids import hash_ids, sort_order
from kt_batch.index.index import library_mean
from kt_batch.index.packing import ClusterSpace, fan_out
from kt_batch.index.shards import match_parts
from kt_batch.index.tree import Subtree, join
from kt_batch.kernels.haar import haar
from kt_batch.kernels.kmeans import ArrayPoints, spherical_kmeans
from kt_batch.kernels.quantised import fit_basis
from kt_batch.pipelines.common import Heartbeat, Progress, Runner, Step, log_summary, tell_committed
from kt_batch.pipelines.index.worker import (
    BuildJob,
    PackUnit,
    PackWorker,
    PartUnit,
    RouteWorker,
    SampleWorker,
    Top,
    build_unit_id,
)
from kt_batch.store.indexes import (
    IndexSummary,
    ShardRef,
    index_digest,
    read_blob,
    read_build_receipts,
    read_index_summary,
    remove_build,
    table_bytes,
    write_index_summary,
)
from kt_batch.store.library import Library, put_derived
from kt_batch.store.locations import absolute_place
from kt_batch.store.receipts import Receipt
from kt_batch.store.schemas import from_fixed_binary, patch_vectors
from kt_batch.store.tables import read_table

SHARD_PATCHES = 131072  # a top-level cluster should hold no more; a packing worker has it in memory


@dataclass(frozen=True)
class BuildSummary:
    """What `index` did. `built` is False when the index was there already; bytes are those of its shards and tree."""

    library: str
    index: str
    built: bool
    patches: int
    kept: int
    merged_share: float
    leaves: int
    shards: int
    bytes: int
    seconds: float
    patches_per_second: float


def build_index(
    library_uri: str, config: IndexConfig, options: RunOptions, runner: Runner, progress: Progress
) -> BuildSummary:
    """Index the present snapshot of a library, or go on with a build that was stopped.

    Raises UsageError when it holds no patch or is not fully extracted, MismatchError when the build was begun on
    another numerics class.
    """
    started = time.perf_counter()
    library_uri = absolute_place(library_uri)
    library = Library.open(library_uri)
    if library.ledger.pending():
        raise UsageError(f"'{library_uri}' is not fully extracted; finish it first with kt-batch extract.")
    if library.patches == 0:
        raise UsageError(f"'{library_uri}' holds no patches, so there is nothing to index.")
    digest = index_digest(config, library.snapshot)
    job = BuildJob(
        library=library_uri,
        digest=digest,
        config=config,
        patches=library.patches,
        channels=library.channels,
        threads=options.threads,
        numerics=None,
        mix_numerics=options.mix_numerics,
    )
    found = read_index_summary(library.location, digest)
    built = found is None
    if found is None:
        found = _build_or_adopt(job, library, runner, progress)
    remove_build(job.build_location())
    seconds = time.perf_counter() - started
    summary = BuildSummary(
        library=library_uri,
        index=digest,
        built=built,
        patches=found.patches,
        kept=found.kept,
        merged_share=round(1 - found.kept / found.patches, 4),
        leaves=found.leaves,
        shards=len(found.shards),
        bytes=sum(shard.bytes for shard in found.shards) + found.tree_bytes,
        seconds=round(seconds, 3),
        patches_per_second=round(found.patches / seconds, 1),
    )
    return log_summary(summary)


def _build_or_adopt(job: BuildJob, library: Library, runner: Runner, progress: Progress) -> IndexSummary:
    """Build it, or take what another driver has built meanwhile: whoever is first removes the pieces of both."""
    try:
        earlier = next((r.numerics for r in read_build_receipts(job.build_location()).values()), None)
        return _build(replace(job, numerics=tuple(earlier.items()) if earlier else None), library, runner, progress)
    except MissingError:
        found = read_index_summary(library.location, job.digest)
        if found is None:
            raise
        return found


def _build(job: BuildJob, library: Library, runner: Runner, progress: Progress) -> IndexSummary:
    parts = library.parts("patches")
    units = [PartUnit(build_unit_id("sample", part.name), part) for part in parts]
    sampled = _stage(job, runner, progress, "sample", partial(SampleWorker, job), units)
    top = _fit(job, sampled)
    top_sha256 = top.put(job.build_location())
    units = [PartUnit(build_unit_id(f"route {top_sha256}", part.name), part) for part in parts]
    routed = _stage(job, runner, progress, "route", partial(RouteWorker, job, top_sha256), units)
    tables = tuple(table for receipt in routed for table in receipt.tables)
    clusters = range(len(top.centres))
    packs = [PackUnit(build_unit_id(f"pack {top_sha256}", str(c)), c, tables) for c in clusters]
    packed = _stage(job, runner, progress, "pack", partial(PackWorker, job, top_sha256), packs)
    return _finish(job, library, top, packed)


def _stage(
    job: BuildJob,
    runner: Runner,
    progress: Progress,
    stage: str,
    factory: Callable[[], Callable[[PartUnit, Heartbeat], Receipt]]
    | Callable[[], Callable[[PackUnit, Heartbeat], Receipt]],
    units: Sequence[PartUnit] | Sequence[PackUnit],
) -> list[Receipt]:
    """Run the units that have no receipt yet; returns the receipts of all, in the order of the units."""
    done = read_build_receipts(job.build_location())
    pending = [unit for unit in units if unit.id not in done]
    count = len(units) - len(pending)
    progress(Step(stage, count, len(units)))
    for receipt in runner.run(factory, pending):  # type: ignore[arg-type]
        done[receipt.unit] = receipt
        tell_committed(receipt)
        count += 1
        progress(Step(stage, count, len(units)))
    return [done[unit.id] for unit in units]


def _fit(job: BuildJob, sampled: Sequence[Receipt]) -> Top:
    """The top level, fitted centrally on the `sample` patches whose ids have the smallest hashes."""
    job.fix_numerics()
    build = job.build_location()
    tables = [read_table(build, table) for receipt in sampled for table in receipt.tables]
    ids = np.concatenate([from_fixed_binary(table["patch_id"], "u1", (12,)) for table in tables])
    patches = np.concatenate([patch_vectors(table, job.channels) for table in tables])
    order = np.lexsort((sort_order(ids).argsort(), hash_ids(ids, job.config.seed)))[: job.config.sample]
    packets = haar(torch.from_numpy(patches[order]).float()).half()
    mean = library_mean(packets, job.config)
    sample, _ = match_parts(packets, mean)
    basis = fit_basis(sample)
    points = ArrayPoints(ClusterSpace(job.config, basis.directions).points(sample))
    clusters = top_clusters(job.patches, job.config)
    centres = spherical_kmeans(points, clusters, job.config.iterations, len(sample), job.config.seed)
    return Top(centres, mean, basis)


def top_clusters(patches: int, config: IndexConfig) -> int:
    """How many top-level clusters, and so at most how many shards, `patches` patches get."""
    return max(fan_out(patches, 0, config), -(-patches // SHARD_PATCHES))


def _finish(job: BuildJob, library: Library, top: Top, packed: Sequence[Receipt]) -> IndexSummary:
    """Join the packed clusters into one tree and commit `index.json`."""
    build = job.build_location()
    filled = [number for number, receipt in enumerate(packed) if receipt.outputs]
    outputs = [[output for output in packed[number].outputs if output] for number in filled]
    shards = tuple(ShardRef(sha256=shard[0], bytes=shard[1]) for shard, _ in outputs)
    subtrees = [Subtree.from_bytes(read_blob(build, "subtrees", subtree[0])) for _, subtree in outputs]
    centres = ClusterSpace(job.config, top.basis.directions).lift(top.centres[filled])
    tree = join(centres, subtrees, top.mean, top.basis)
    data = tree.to_bytes()
    folder = f"index/{job.digest}"
    merged = pa.concat_tables(read_table(build, table) for number in filled for table in packed[number].tables)
    members = table_bytes(_by_id(merged))
    put_derived(library.location, f"{folder}/tree.safetensors", data)
    put_derived(library.location, f"{folder}/members.parquet", members)
    summary = IndexSummary(
        digest=job.digest,
        config=job.config,
        snapshot=library.snapshot,
        layer=library.config.encoder.layer,
        channels=job.channels,
        patches=job.patches,
        kept=sum(receipt.patches for receipt in packed),
        leaves=tree.leaves,
        tree_sha256=hashlib.sha256(data).hexdigest(),
        tree_bytes=len(data),
        members_sha256=hashlib.sha256(members).hexdigest(),
        shards=shards,
        numerics=packed[filled[0]].numerics,
    )
    write_index_summary(library.location, summary)
    return summary


def _by_id(members: pa.Table) -> pa.Table:
    return members.take(pa.array(sort_order(from_fixed_binary(members["patch_id"], "u1", (12,)))))
