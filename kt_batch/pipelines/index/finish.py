"""Build an index to its end: sample, fit the top level, route patches to clusters, pack clusters, commit.

Every stage but the fit is units of work with receipts of their own under `index/<digest>/build/`, so a killed build
continues where it stopped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa

from kt_batch.config import PAINTED_SPACE, IndexConfig, MatchSpace, RunOptions, ScaleKey
from kt_batch.errors import DamagedError, MissingError
from kt_batch.index.ids import sort_order
from kt_batch.index.packing import ClusterSpace
from kt_batch.index.tree import Subtree, join
from kt_batch.pipelines.index.plan import (
    BuildJob,
    BuildPlan,
    PackUnit,
    PartsUnit,
    earlier_build_numerics,
    pack_units,
    plan_index,
    route_units,
    sample_size,
    sample_units,
)
from kt_batch.pipelines.index.top import Top, fit_top
from kt_batch.pipelines.index.worker import PackWorker, RouteWorker, SampleWorker
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.pipelines.units import check_hosts, log_committed, log_summary
from kt_batch.runners.base import Heartbeat, Runner
from kt_batch.store import layout
from kt_batch.store.derived import put_derived
from kt_batch.store.indexes import (
    IndexSummary,
    ShardRef,
    read_blob,
    read_build_receipts,
    read_index_summary,
    remove_build,
    table_bytes,
    write_index_summary,
)
from kt_batch.store.library import Library
from kt_batch.store.receipts import Receipt
from kt_batch.store.routed import RoutedFiles
from kt_batch.store.schemas import from_fixed_binary
from kt_batch.store.tables import read_table


@dataclass(frozen=True)
class BuildSummary:
    """The summary of a build.

    built: False when the index existed. for_painting: The method painting searches it. bytes: Of its shards and tree.
    """

    library: str
    index: str
    key: str
    match_space: MatchSpace
    for_painting: bool
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
    place: str,
    config: IndexConfig,
    options: RunOptions,
    runner: Runner,
    progress: Progress,
    key: ScaleKey | None = None,
) -> BuildSummary:
    """Index the present snapshot of a library at a key, or continue a build that was stopped.

    Args:
        place: The library, a path or URI.
        config: How it is indexed; `plan_index` says in which match space when it sets none.
        options: How the work is run.
        runner: Runs the units.
        progress: Called with every step.
        key: Whose patches are indexed; None for the library's base key.

    Raises:
        UsageError: The library holds no patch, or is not fully extracted.
        MismatchError: The build began on another numerics class.
    """
    started = time.perf_counter()
    plan = plan_index(place, config, options, key)
    check_hosts(plan.library.location, plan.job.kernel, runner)
    index = plan.built or _build_or_adopt(plan, runner, progress)
    remove_build(plan.job.build_location())
    seconds = time.perf_counter() - started
    return log_summary(
        BuildSummary(
            library=plan.job.library,
            index=plan.job.digest,
            key=str(plan.job.key),
            match_space=plan.job.config.match_space,
            for_painting=(plan.job.key, plan.job.config.match_space) == (plan.library.config.painted, PAINTED_SPACE),
            built=plan.built is None,
            patches=index.patches,
            kept=index.kept,
            merged_share=round(1 - index.kept / index.patches, 4),
            leaves=index.leaves,
            shards=len(index.shards),
            bytes=sum(shard.bytes for shard in index.shards) + index.tree_bytes,
            seconds=round(seconds, 3),
            patches_per_second=round(index.patches / seconds, 1),
        )
    )


def _build_or_adopt(plan: BuildPlan, runner: Runner, progress: Progress) -> IndexSummary:
    """Build the index, or adopt what another driver has built meanwhile: the first one removes the files of both."""
    try:
        job = replace(plan.job, numerics=earlier_build_numerics(plan.job.build_location()))
        return _build(job, plan.library, runner, progress)
    except MissingError:
        index = read_index_summary(plan.library.location, plan.job.digest)
        if index is None:
            raise
        return index


def _build(job: BuildJob, library: Library, runner: Runner, progress: Progress) -> IndexSummary:
    parts = list(library.parts_at(job.key).values())
    samples = sample_units(parts, sample_size(job.patches, job.config))
    sampled = _run_stage(job, runner, progress, "sample", partial(SampleWorker, job), samples)
    top = fit_top(job, sampled)
    sha256 = top.put(job.build_location())
    routed = _run_stage(job, runner, progress, "route", partial(RouteWorker, job, sha256), route_units(parts, sha256))
    build, outputs = job.build_location(), [output for receipt in routed for output in receipt.outputs if output]
    files = RoutedFiles.find(build, outputs, len(top.centres), job.channels)
    clusters = files.put(build)
    packs = pack_units(files.counts.sum(0).tolist(), clusters)
    packed = _run_stage(job, runner, progress, "pack", partial(PackWorker, job, sha256, clusters), packs)
    return _commit(job, library, top, packed)


def _run_stage(
    job: BuildJob,
    runner: Runner,
    progress: Progress,
    stage: str,
    factory: Callable[[], Callable[[PartsUnit, Heartbeat], Receipt]]
    | Callable[[], Callable[[PackUnit, Heartbeat], Receipt]],
    units: Sequence[PartsUnit] | Sequence[PackUnit],
) -> list[Receipt]:
    """Run the units that have no receipt; return the receipts of all, in the order of the units."""
    done = read_build_receipts(job.build_location())
    pending = [unit for unit in units if unit.id not in done]
    count = len(units) - len(pending)
    progress(Step(stage, count, len(units)))
    for receipt in runner.run(factory, pending):  # type: ignore[arg-type]
        done[receipt.unit] = receipt
        log_committed(receipt)
        count += 1
        progress(Step(stage, count, len(units)))
    return [done[unit.id] for unit in units]


def _commit(job: BuildJob, library: Library, top: Top, packed: Sequence[Receipt]) -> IndexSummary:
    """Join the packed clusters into one tree and commit `index.json`."""
    build = job.build_location()
    pairs = [pair for receipt in packed for pair in zip(receipt.outputs[::2], receipt.outputs[1::2], strict=True)]
    filled = [number for number, pair in enumerate(pairs) if all(pair)]  # of the clusters
    outputs = [[output for output in pairs[number] if output] for number in filled]
    shards = tuple(ShardRef(sha256=shard[0], bytes=shard[1]) for shard, _ in outputs)
    subtrees = [Subtree.from_bytes(read_blob(build, layout.SUBTREES, subtree[0])) for _, subtree in outputs]
    widths = {(subtree.centres.shape[1], 4 * len(subtree.deviation_sum)) for subtree in subtrees}
    if widths != {(4 * job.channels, 4 * job.channels)}:
        raise DamagedError(f"The subtrees at '{build.uri}' are not of {job.channels} channels; remove that folder.")
    centres = ClusterSpace(job.config, top.basis.directions).lift(top.centres[filled])
    tree = join(centres, subtrees, top.mean, top.basis)
    data = tree.to_bytes()
    merged = pa.concat_tables(read_table(build, table) for receipt in packed for table in receipt.tables)
    members = table_bytes(_by_id(merged))
    put_derived(library.location, layout.tree_path(job.digest), data)
    put_derived(library.location, layout.members_path(job.digest), members)
    summary = IndexSummary(
        digest=job.digest,
        config=job.config,
        snapshot=library.committed.snapshot,
        layer=job.key.layer,
        scale=None if job.key == library.config.base else job.key.scale,
        channels=job.channels,
        patches=job.patches,
        kept=sum(receipt.patches for receipt in packed),
        leaves=tree.leaves,
        tree_sha256=hashlib.sha256(data).hexdigest(),
        tree_bytes=len(data),
        members_sha256=hashlib.sha256(members).hexdigest(),
        shards=shards,
        numerics=packed[0].numerics,
    )
    write_index_summary(library.location, summary)
    return summary


def _by_id(members: pa.Table) -> pa.Table:
    return members.take(pa.array(sort_order(from_fixed_binary(members["patch_id"], "u1", (12,)))))
