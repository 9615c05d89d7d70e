"""Estimate what an extraction of pairs does, and with a pilot its time and output size."""

from __future__ import annotations

from dataclasses import replace

from kt_batch.pipelines.estimate import DryRunRequest, Estimate, Work, Worker, projected, run_pilot, spread
from kt_batch.pipelines.pairs.plan import PairsRequest, plan_pairs
from kt_batch.pipelines.pairs.worker import PairsWorker
from kt_batch.pipelines.progress import Progress
from kt_batch.runners.base import Runner


def estimate_pairs(request: PairsRequest, dry_run: DryRunRequest, runner: Runner, progress: Progress) -> Estimate:
    """Estimate what `extract_pairs` does with the same request; `runner` does the pilot. Its images are pairs.

    Raises what `extract_pairs` raises before it begins, except for a lack of space, which the estimate reports.
    """
    plan = plan_pairs(request, progress, dry_run=True)
    work = Work(plan.job.library, plan.ledger, plan.items, plan.planned)
    work.check_numerics(request.options)
    pairs = [group for _, group in work.images()]

    def worker(folder: str) -> Worker:
        return PairsWorker(replace(plan.job, library=folder, numerics=None))

    estimate = replace(
        work.estimate(request.options, len(pairs)),
        output_bytes_at_most=plan.bytes_at_most,
        estimated_output_bytes=plan.bytes_at_most,
        passed_over=plan.passed_over,
        passed_over_files=plan.passed_over_files,
        unmatched=plan.unmatched,
    )
    chosen = spread(pairs, dry_run.pilot)
    pilot = run_pilot(chosen, request.config.digest(), request.options, worker, runner, progress)
    return projected(estimate, pilot, dry_run.price)
