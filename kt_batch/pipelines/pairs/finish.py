"""Run the extraction of pairs to its end: plan, units, summary."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from functools import partial

from kt_batch.pipelines.pairs.plan import PairsRequest, plan_pairs
from kt_batch.pipelines.pairs.worker import PairsWorker
from kt_batch.pipelines.progress import Progress
from kt_batch.pipelines.units import REJECTS_LISTED, Throughput, check_hosts, log_summary, run_units, throughput
from kt_batch.runners.base import Runner
from kt_batch.store.attempts import Reject, find_rejects
from kt_batch.store.paired import write_paired_summary
from kt_batch.store.passed_over import Kinds


@dataclass(frozen=True, kw_only=True)
class PairsSummary(Throughput):
    """The summary of an extraction of pairs. `pairs` and `rejected` are of the library, the rest is of this call.

    unmatched: Names that only one of before and after has. passed_over, passed_over_files, rejects: As in
    ExtractSummary. synthetic: As in PairsConfig.
    """

    library: str
    pairs: int
    rejected: int
    synthetic: bool = False
    unmatched: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    passed_over_files: Kinds = field(default_factory=dict)
    rejects: tuple[Reject, ...] = ()


def extract_pairs(request: PairsRequest, runner: Runner, progress: Progress) -> PairsSummary:
    """Extract pairs into a paired library, or continue where an earlier call stopped.

    Raises as `plan_pairs` does, and:
        MismatchError: The library has another numerics class.
    """
    started = time.perf_counter()
    plan = plan_pairs(request, progress)
    check_hosts(plan.ledger.location, plan.job.kernel, runner)
    fresh = run_units(runner, partial(PairsWorker, plan.job), plan.planned.pending, "extract", progress)
    pairs, rejected = write_paired_summary(plan.ledger.location, plan.ledger, request.config)
    return log_summary(
        PairsSummary(
            library=plan.job.library,
            pairs=pairs,
            rejected=rejected,
            synthetic=request.config.synthetic,
            unmatched=plan.unmatched,
            passed_over=plan.passed_over,
            passed_over_files=plan.passed_over_files,
            rejects=tuple(find_rejects(plan.ledger).listed(REJECTS_LISTED)),
            **asdict(throughput(fresh, time.perf_counter() - started)),
        )
    )
