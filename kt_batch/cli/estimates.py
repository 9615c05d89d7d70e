"""`--dry-run`, `--pilot` and `--price`: the options, the estimate for a person, and the exit code."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Annotated

from pydantic import Field

from kt_batch.cli.arguments import Fields
from kt_batch.cli.exit_codes import FAILED, RejectBounds
from kt_batch.cli.options import Options
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.cli.runner import make_runner
from kt_batch.config import RunOptions
from kt_batch.errors import UsageError
from kt_batch.pipelines.estimate import DryRunRequest, Estimate, Pilot
from kt_batch.pipelines.progress import Progress, readable_size
from kt_batch.pipelines.translate.serving import OwnersMemory
from kt_batch.report.run_report import duration
from kt_batch.runners.base import Runner

PUBLISHING = {"rename": "a rename that keeps existing files", "lock": "a rename under a lock"}
Estimator = Callable[[DryRunRequest, Runner, Progress], Estimate]


class DryRunOptions(Options):
    """Options of a dry run."""

    dry_run: bool = Field(False, description="Write nothing; print what is done, what is to do, and how large it is.")
    pilot: int | None = Field(
        None,
        description="With --dry-run: really do N of the images still to do, in a temporary directory that is removed, "
        "and estimate the rest.",
    )
    price: float | None = Field(
        None,
        description="With --pilot: price of one node per hour; the cost is worker-hours x price, one worker per node.",
    )

    def request(self) -> DryRunRequest | None:
        """Return the request to the pipelines; None without --dry-run. Raises UsageError."""
        pilot, price = self.pilot, self.price
        if pilot is not None and not self.dry_run:
            raise UsageError(f"--pilot {pilot} is for a dry run; give --dry-run with it, or leave it out.")
        if pilot is not None and pilot < 1:
            raise UsageError(f"--pilot is a number of images, 1 or more, not {pilot}.")
        if price is not None and pilot is None:
            raise UsageError(f"--price {price:g} is for a pilot; give --dry-run --pilot N with it, or leave it out.")
        if price is not None and not (isfinite(price) and price >= 0):
            raise UsageError(f"--price is what a node costs per hour, 0 or more, not {price:g}.")
        return DryRunRequest(pilot or 0, price) if self.dry_run else None


DryRun = Annotated[DryRunOptions, Fields(panel="Dry run")]


def estimate_here(estimator: Estimator, estimate_request: DryRunRequest) -> Estimate:
    """Make an estimate. The pilot runs in this process for any runner of the real run."""
    with make_runner(RunOptions()) as running, ProgressDisplay() as display:
        return estimator(estimate_request, running, display)


def estimate_code(estimate: Estimate, bounds: RejectBounds) -> int:
    """Return the exit code that the run would end with, as far as it is known."""
    rejected = estimate.rejected + len(estimate.changed) + (len(estimate.pilot.rejects) if estimate.pilot else 0)
    return bounds.exit_code(rejected, estimate.finished + estimate.to_do) if estimate.fits else FAILED


def estimate_lines(estimate: Estimate, runner: str, noun: str = "images") -> list[str]:
    """Return the estimate for a person.

    Args:
        estimate: The estimate.
        runner: The runner of the real run.
        noun: What is counted.
    """
    again = estimate.to_do - (estimate.found - estimate.done)
    lines = [
        f"{estimate.place}: a dry run, nothing was written there",
        f"  {estimate.found} {noun} found, {estimate.done} done already, {estimate.to_do} to do"
        + (f" ({again} of them planned earlier and not among those found)" if again else ""),
    ]
    if estimate.rejected or estimate.again:
        again_too = f", {estimate.again} more to be tried again" if estimate.again else ""
        lines.append(f"  {estimate.rejected} rejected earlier{again_too}")
    if estimate.to_do == 0:
        return [*lines, "  nothing to do: everything is done already"]
    lines.append(f"  {estimate.units_to_plan} units to plan, {estimate.units_pending} planned earlier and pending")
    unreadable = f", {estimate.unreadable} {noun} cannot be read" if estimate.unreadable else ""
    lines.append(f"  input {readable_size(estimate.input_bytes)}{unreadable}; {_output(estimate)}{_free(estimate)}")
    if estimate.changed:
        lines.append(f"  {len(estimate.changed)} changed since their outputs were made: these will be rejected")
    if estimate.publishing:
        lines.append(
            f"  no hard links there: files get their names by {PUBLISHING[estimate.publishing]}, on one host at a time"
        )
    if estimate.owners:
        lines.append(_owners(estimate.owners))
    if estimate.pilot:
        lines += [*_pilot_lines(estimate.pilot, noun), *_projection_lines(estimate, runner)]
    return lines


def _output(estimate: Estimate) -> str:
    if estimate.output_bytes_at_most is not None:
        return f"output at most {readable_size(estimate.output_bytes_at_most)} (estimate)"
    return "output: see below" if estimate.estimated_output_bytes is not None else "output unknown without a pilot"


def _owners(owners: OwnersMemory) -> str:
    count = owners.owners * owners.replicas
    parts = f" ({owners.owners} parts, {owners.replicas} times)" if owners.replicas > 1 else ""
    bytes_, largest = readable_size(owners.bytes), readable_size(owners.largest_bytes)
    noun = "process" if count == 1 else "processes"
    return f"  {count} {noun} beside the workers will hold the index{parts}: {bytes_} of memory, at most {largest} each"


def _free(estimate: Estimate) -> str:
    if estimate.free_bytes is None:
        return ""
    short = "" if estimate.fits else ", too few: the run would be refused"
    return f"; {readable_size(estimate.free_bytes)} are free{short}"


def _pilot_lines(pilot: Pilot, noun: str) -> list[str]:
    lines = [f"  pilot: {pilot.images} {noun}, {pilot.rejected} rejected, start-up {duration(pilot.startup_seconds)}"]
    lines += [f"    {reject.uri}: {reject.reason}" for reject in pilot.rejects]
    if pilot.seconds_per_image_mean is None or pilot.seconds_per_image_median is None:
        return [*lines, "    all of them were rejected, so nothing can be estimated"]
    mean, median = duration(pilot.seconds_per_image_mean), duration(pilot.seconds_per_image_median)
    return [*lines, f"    {mean} (median {median}) and {readable_size(pilot.output_bytes_per_image)} per {noun[:-1]}"]


def _projection_lines(estimate: Estimate, runner: str) -> list[str]:
    if estimate.estimated_seconds is None or estimate.estimated_worker_hours is None:
        return []
    workers = f"{estimate.workers} worker{'' if estimate.workers == 1 else 's'} like this one"
    written = readable_size(estimate.estimated_output_bytes or 0)
    lines = [f"  estimate of all that is to do: {duration(estimate.estimated_seconds)} with {workers}, {written}"]
    if runner == "local" and estimate.workers > 1:
        lines.append(f"    --runner local has one worker; {estimate.workers} need --runner ray")
    if estimate.estimated_cost is not None:
        spent = f"{estimate.estimated_worker_hours:.3f} worker-hours at {estimate.price:g}, one worker per node"
        lines.append(f"  estimate of the cost: {estimate.estimated_cost:.3f} ({spent})")
    return lines
