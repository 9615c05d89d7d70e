"""Run a translation to its end: plan, units, summary."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from functools import partial

from kt_batch.pipelines.progress import Progress
from kt_batch.pipelines.translate.plan import TranslateRequest, plan_translate
from kt_batch.pipelines.translate.series import with_series
from kt_batch.pipelines.translate.serving import OwnerUsage, plan_division, served, usage
from kt_batch.pipelines.translate.worker import TranslateWorker
from kt_batch.pipelines.units import REJECTS_LISTED, Throughput, check_hosts, log_summary, run_units, throughput
from kt_batch.runners.base import Runner
from kt_batch.store.attempts import Reject, find_rejects
from kt_batch.store.passed_over import Kinds
from kt_batch.store.receipts import PictureSizes, join_sizes
from kt_batch.store.run import write_run_summary


@dataclass(frozen=True, kw_only=True)
class TranslateSummary(Throughput):
    """The summary of a translation. Counts are of the whole run; `new_images`, rates and seconds are of this call.
    passed_over: Libraries and runs below the named folders. passed_over_files: Files that are no images, by kind.
    rejects: The first hundred rejects that count, by name.
    sizes: Of the pictures and of their photographs.
    owners: What was asked of the processes that share the index; none where each worker opens the whole.
    shards: How many hold the pictures; None where each is a file of its own.

    library and index are None where the method uses none, ncc_mean and certified_share where it matches no patches.
    """

    run: str
    method: str
    library: str | None
    index: str | None
    images: int
    rejected: int
    patches: int
    passed_over: tuple[str, ...] = ()
    passed_over_files: Kinds = field(default_factory=dict)
    rejects: tuple[Reject, ...] = ()
    sizes: PictureSizes | None = None
    shards: int | None = None
    owners: tuple[OwnerUsage, ...] = ()
    ncc_mean: float | None
    certified_share: float | None


def translate(request: TranslateRequest, runner: Runner, progress: Progress) -> TranslateSummary:
    """Translate images into a run, or continue where an earlier call stopped.

    Raises:
        UsageError: There is nothing to translate.
        MismatchError: The run has another configuration or numerics class.
        StorageError: The run cannot be written to, or not by workers on several hosts.
    """
    started = time.perf_counter()
    division = plan_division(request, runner)
    plan = plan_translate(request, progress)
    check_hosts(plan.ledger.location, plan.job.kernel, runner)
    job = with_series(plan, runner, progress) if plan.job.config.shares_edits else plan.job
    with served(job, division if plan.planned.pending else None, runner, progress) as job:
        fresh = run_units(runner, partial(TranslateWorker, job), plan.planned.pending, "translate", progress)
        owners = usage(job, division)
    sources = job.sources
    named = sources.library, sources.further, sources.named_files
    totals = write_run_summary(plan.ledger.location, plan.ledger, job.config, *named)
    receipts = plan.ledger.receipts().values()
    return log_summary(
        TranslateSummary(
            run=job.run,
            method=job.config.method,
            library=job.sources.library,
            index=job.config.index_digest,
            images=sum(r.images for r in receipts),
            rejected=totals.rejects,
            patches=sum(r.patches for r in receipts),
            passed_over=plan.passed_over,
            passed_over_files=plan.passed_over_files,
            rejects=tuple(find_rejects(plan.ledger).listed(REJECTS_LISTED)),
            sizes=join_sizes(receipt.sizes for receipt in receipts),
            owners=owners,
            shards=None if job.config.output == "files" else sum(receipt.shard is not None for receipt in receipts),
            ncc_mean=totals.ncc_mean,
            certified_share=totals.certified_share,
            **asdict(throughput(fresh, time.perf_counter() - started)),
        )
    )
