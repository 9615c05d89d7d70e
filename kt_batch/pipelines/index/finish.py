"""Build an index to its end: sample, fit the top level, route patches to clusters, pack clusters, commit.

Every stage but the fit is units of work with receipts of their own under `index/<digest>/build/`, so a killed build
continues where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from kt_batch.config import PAINTED_SPACE, IndexConfig, MatchSpace, RunOptions, ScaleKey
from kt_batch.errors import MissingError
from kt_batch.index.tree import Tree
from kt_batch.pipelines.index.commit import commit_fresh, commit_grown, generation_tree
from kt_batch.pipelines.index.memory import check_clusters, check_join, check_start
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
from kt_batch.store.indexes import (
    IndexSummary,
    read_build_receipts,
    read_index_summary,
    remove_build,
)
from kt_batch.store.receipts import Receipt
from kt_batch.store.routed import RoutedFiles


@dataclass(frozen=True)
class BuildSummary:
    """The summary of a build.

    built: False when the index existed. for_painting: The method painting searches it. bytes: Of its files.
    generation: The index that it has grown from; None for a fresh one. new_patches: Those that the generation lacks.
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
    generation: str | None = None
    new_patches: int = 0


def build_index(
    place: str,
    config: IndexConfig,
    options: RunOptions,
    runner: Runner,
    progress: Progress,
    key: ScaleKey | None = None,
    *,
    fresh: bool = False,
    memory: int | None = None,
) -> BuildSummary:
    """Index the present snapshot of a library at a key, or continue a build that was stopped.

    An earlier index grows by the new images where it can (`plan_index`).

    Args:
        place: The library, a path or URI.
        config: How it is indexed; `plan_index` says in which match space when it sets none.
        options: How the work is run.
        runner: Runs the units.
        progress: Called with every step.
        key: Whose patches are indexed; None for the library's base key.
        fresh: Build afresh, even where an earlier index could grow.
        memory: Bytes that no process of the build should exceed; None sets no limit.

    Raises:
        UsageError: The library holds no patch, or is not fully extracted, or the build needs more memory.
        MismatchError: The build began on another numerics class.
    """
    started = time.perf_counter()
    plan = plan_index(place, config, options, key, fresh=fresh)
    plan = replace(plan, job=replace(plan.job, memory=memory))
    check_hosts(plan.library.location, plan.job.kernel, runner)
    index = plan.built or _build_or_adopt(plan, runner, progress)
    remove_build(plan.job.build_location())
    return log_summary(_summary(plan, index, time.perf_counter() - started))


def _summary(plan: BuildPlan, index: IndexSummary, seconds: float) -> BuildSummary:
    generation, job = index.generation, plan.job
    new = index.patches - generation.patches if generation else 0
    return BuildSummary(
        library=job.library,
        index=job.digest,
        key=str(job.key),
        match_space=job.config.match_space,
        for_painting=(job.key, job.config.match_space) == (plan.library.config.painted, PAINTED_SPACE),
        built=plan.built is None,
        patches=index.patches,
        kept=index.kept,
        merged_share=round(1 - index.kept / index.patches, 4),
        leaves=index.leaves,
        shards=len(index.shards),
        bytes=sum(shard.bytes for shard in index.shards) + index.tree_bytes + (index.leaves_bytes or 0),
        seconds=round(seconds, 3),
        patches_per_second=round((new if generation else index.patches) / seconds, 1),
        generation=generation.digest if generation else None,
        new_patches=new,
    )


def _build_or_adopt(plan: BuildPlan, runner: Runner, progress: Progress) -> IndexSummary:
    """Build the index, or adopt what another driver has built meanwhile: the first one removes the files of both."""
    try:
        job = replace(plan.job, numerics=earlier_build_numerics(plan.job.build_location()))
        return _build(replace(plan, job=job), runner, progress)
    except MissingError:
        index = read_index_summary(plan.library.location, plan.job.digest)
        if index is None:
            raise
        return index


def _build(plan: BuildPlan, runner: Runner, progress: Progress) -> IndexSummary:
    check_start(plan)
    if plan.growth is None:
        return commit_fresh(plan, *_clusters(plan, None, runner, progress))
    with generation_tree(plan.library, plan.growth) as generation:
        new = _clusters(plan, generation.nodes, runner, progress) if plan.parts else (None, [])
        return commit_grown(plan, plan.growth, generation, *new)


def _clusters(
    plan: BuildPlan, generation: Tree | None, runner: Runner, progress: Progress
) -> tuple[Top, list[Receipt]]:
    """Fit the top level and pack its clusters, of the plan's parts; return it and the receipts of packing."""
    job, parts = plan.job, plan.parts
    build = job.build_location()
    samples = sample_units(parts, sample_size(job.patches, job.config))
    sampled = _run_stage(job, runner, progress, "sample", partial(SampleWorker, job), samples)
    top = fit_top(job, sampled, generation)
    sha256 = top.put(build)
    routed = _run_stage(job, runner, progress, "route", partial(RouteWorker, job, sha256), route_units(parts, sha256))
    outputs = [output for receipt in routed for output in receipt.outputs if output]
    files = RoutedFiles.find(build, outputs, len(top.centres), job.channels)
    clusters = files.put(build)
    sizes = files.counts.sum(0).tolist()
    check_clusters(job, sizes)
    packs = pack_units(sizes, clusters)
    # The largest come first, so that at the end no worker is left alone with one.
    ordered = sorted(packs, key=lambda unit: -sum(sizes[unit.first : unit.last + 1]))
    done = _run_stage(job, runner, progress, "pack", partial(PackWorker, job, sha256, clusters), ordered)
    receipt_of = {receipt.unit: receipt for receipt in done}
    packed = [receipt_of[unit.id] for unit in packs]
    check_join(plan, packed)
    return top, packed


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
