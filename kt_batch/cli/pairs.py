"""Paired libraries: what `extract` does with pairs, and the command `fit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer
from pydantic import Field

from kt_batch.cli import options
from kt_batch.cli.arguments import expand
from kt_batch.cli.estimates import estimate_code, estimate_here, estimate_lines
from kt_batch.cli.exit_codes import RejectBounds
from kt_batch.cli.output import print_summary
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.cli.rejects import reject_lines, rejects_target, write_rejects
from kt_batch.cli.runner import make_runner
from kt_batch.config import EncoderConfig, ExtractConfig, PairsConfig, RunOptions
from kt_batch.errors import UsageError
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.pipelines.estimate import DryRunRequest
from kt_batch.pipelines.pairs.estimate import estimate_pairs
from kt_batch.pipelines.pairs.finish import PairsSummary, extract_pairs
from kt_batch.pipelines.pairs.fit import FitResult, fit
from kt_batch.pipelines.pairs.plan import PairsRequest
from kt_batch.store.manifest_files import read_pair_lists
from kt_batch.store.names import in_command

MILD = "  the pictures before are synthetic: edits learned from them are mild"
PairedPlace = Annotated[str, typer.Argument(help="A paired library: a directory or s3://bucket/prefix.")]


Described = tuple[options.EncoderOptions, options.CutOptions, options.ExtractOptions]


class PairOptions(options.Options):
    """The pairs that a command names: as places, as lists, or as finished photographs alone."""

    before: tuple[str, ...] = Field(
        (), description="Photographs before an edit, as a folder or another place, for a paired library."
    )
    after: tuple[str, ...] = Field(
        (), description="The same photographs after it, under the same names; suffixes may differ."
    )
    pairs: tuple[str, ...] = Field(
        (),
        description="A list of pairs: .csv, .jsonl or .parquet with the columns `before` and `after`, whose other "
        "columns become tags. May be repeated.",
    )
    synthetic_befores: bool = Field(
        False,
        description="With --after alone: compute three pictures before from each finished photograph. Edits learned "
        "from such pairs are mild; real pairs teach far more.",
    )

    def check(self) -> bool:
        """Return whether any is named. Raises UsageError for options that exclude or need each other."""
        if self.pairs and (self.before or self.after or self.synthetic_befores):
            raise UsageError("--pairs names both sides; leave --before, --after and --synthetic-befores out.")
        if self.synthetic_befores and (self.before or not self.after):
            raise UsageError("--synthetic-befores goes with --after alone, the finished photographs.")
        if not self.synthetic_befores and bool(self.before) != bool(self.after):
            raise UsageError(
                "--before and --after go together: name the photographs before an edit, and those after it. For "
                "finished photographs alone, give --after with --synthetic-befores."
            )
        return bool(self.pairs or self.after)


def pairs_request(named: PairOptions, library: str, described: Described, how: RunOptions) -> PairsRequest | None:
    """Return the request for pairs; None where no pairs are named.

    Raises:
        UsageError: options exclude each other, one has no effect on pairs, or a list of pairs is none.
    """
    if not named.check():
        return None
    if how.gpus:
        raise UsageError(f"--gpus {how.gpus:g} has no effect on pairs, which are compared on processors; leave it out.")
    config = _pairs_config(*described, synthetic=named.synthetic_befores)
    return PairsRequest(named.before, named.after, library, config, how, read_pair_lists(named.pairs))


def refuse_others(images: Sequence[str] | None, manifests: Sequence[str] | None) -> None:
    """Raise UsageError for what has no meaning beside pairs."""
    for name, given in (("other images", images), ("--manifest", manifests)):
        if given:
            raise UsageError(f"{name} cannot go with --before, --after and --pairs; leave it out.")


def _pairs_config(
    weights: options.EncoderOptions, cut: options.CutOptions, content: options.ExtractOptions, *, synthetic: bool
) -> PairsConfig:
    given = {"layer": cut.layer, **content.model_dump(include={"stride", "max_patches", "seed", "keep_images", "also"})}
    fields = {**ExtractConfig.model_fields, "layer": EncoderConfig.model_fields["layer"]}
    for name, value in given.items():
        if value != fields[name].default:
            raise UsageError(f"--{name.replace('_', '-')} {value} has no effect on pairs; leave it out.")
    if weights != options.EncoderOptions():
        raise UsageError("--encoder and --encoder-weights have no effect on pairs; leave them out.")
    return PairsConfig(
        size=cut.size,
        tags=content.tag,
        license=content.license,
        attribution=content.attribution,
        synthetic=synthetic,
    )


def run_pairs(request: PairsRequest) -> PairsSummary:
    """Extract pairs."""
    target = rejects_target(request.options, request.named, request.library, request.manifests)
    with make_runner(request.options) as running, ProgressDisplay() as display:
        summary = extract_pairs(request, running, display)
    write_rejects(target, request.library)
    return summary


def print_pairs_estimate(request: PairsRequest, wanted: DryRunRequest, bounds: RejectBounds, json: bool) -> int:
    """Estimate an extraction of pairs, print it, and return the exit code."""
    estimate = estimate_here(partial(estimate_pairs, request), wanted)
    lines = estimate_lines(estimate, request.options.runner, "pairs")
    if estimate.unmatched:
        lines.append(f"  {len(estimate.unmatched)} files without a partner of their name are left out")
    print_summary(asdict(estimate), lines, json)
    return estimate_code(estimate, bounds)


def pairs_lines(summary: PairsSummary) -> list[str]:
    """Return the summary for a person."""
    lines = [f"{summary.library}: {summary.pairs} pairs, {summary.rejected} rejected"]
    lines += [MILD] if summary.synthetic else []
    if summary.unmatched:
        lines.append(f"  {len(summary.unmatched)} files without a partner of their name were left out")
    if summary.new_images:
        rate = f"{summary.images_per_second:.2f} pairs/s"
        lines.append(f"  {summary.new_images} pairs in {summary.seconds:.1f} s ({rate})")
    elif summary.new_rejected == 0:
        lines.append("  nothing to do: everything was extracted already")
    lines += reject_lines(summary.rejects, summary.rejected)
    return [*lines, f"  next: kt-batch fit {in_command(summary.library)}"] if summary.pairs else lines


def add_pairs(app: typer.Typer) -> None:
    """Give an app the commands."""
    app.command("fit")(expand(fit_command))


def fit_command(*, library: PairedPlace, how: options.Threads, json: options.Json = False) -> int:
    """Learn a photographer's hand from the pairs of a paired library.

    kt-batch fit mine.pairs
    """
    result = fit(library, FitConfig(), how.threads)
    print_summary(asdict(result), fit_lines(result), json)
    return 0


def fit_lines(result: FitResult) -> list[str]:
    """Return the summary of a fit for a person."""
    shown = f" of {result.photographs} photographs" if result.photographs < result.pairs else ""
    return [
        f"{result.library}: fitted {result.pairs} pairs{shown} in {result.seconds:.1f} s",
        *([MILD] if result.synthetic else []),
        *([f"  warning: {result.warning}"] if result.warning else []),
        f"  next: kt-batch translate PHOTOS --method retouch --library {in_command(result.library)} --out RUN",
    ]
