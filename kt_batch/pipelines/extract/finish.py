"""Run an extract to its end: plan, units, summary."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from functools import partial

from kt_batch.pipelines.extract.plan import ExtractRequest, plan_extract
from kt_batch.pipelines.extract.worker import ExtractWorker
from kt_batch.pipelines.progress import Progress
from kt_batch.pipelines.units import REJECTS_LISTED, Throughput, check_hosts, log_summary, run_units, throughput
from kt_batch.runners.base import Runner
from kt_batch.store.attempts import Reject, find_rejects
from kt_batch.store.library import write_library_summary
from kt_batch.store.passed_over import Kinds


@dataclass(frozen=True, kw_only=True)
class ExtractSummary(Throughput):
    """The summary of an extract. `images`, `rejected` and `patches` are of the library, the rest is of this call.

    passed_over: Libraries and runs below the named folders. passed_over_files: Files that are no images, by kind.
    rejects: The first hundred rejects that count, by name.
    """

    library: str
    images: int
    rejected: int
    patches: int
    passed_over: tuple[str, ...] = ()
    passed_over_files: Kinds = field(default_factory=dict)
    rejects: tuple[Reject, ...] = ()


def extract(request: ExtractRequest, runner: Runner, progress: Progress) -> ExtractSummary:
    """Extract images into a library, or continue where an earlier call stopped.

    Raises:
        UsageError: There is nothing to extract.
        MismatchError: The library has another configuration or numerics class.
        StorageError: There is too little space, or no such place.
    """
    started = time.perf_counter()
    plan = plan_extract(request, progress)
    check_hosts(plan.ledger.location, plan.job.kernel, runner)
    fresh = run_units(runner, partial(ExtractWorker, plan.job), plan.planned.pending, "extract", progress)
    receipts = plan.ledger.receipts().values()
    rejected = write_library_summary(plan.ledger.location, plan.ledger, request.config)
    return log_summary(
        ExtractSummary(
            library=plan.job.library,
            images=sum(r.images for r in receipts),
            rejected=rejected,
            patches=sum(r.patches for r in receipts),
            passed_over=plan.passed_over,
            passed_over_files=plan.passed_over_files,
            rejects=tuple(find_rejects(plan.ledger).listed(REJECTS_LISTED)),
            **asdict(throughput(fresh, time.perf_counter() - started)),
        )
    )
