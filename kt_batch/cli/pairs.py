"""Paired libraries: what `extract` does with pairs, and the commands `fit` and `lut`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from kt_batch.cli import options
from kt_batch.cli.arguments import expand
from kt_batch.cli.config_file import save_options
from kt_batch.cli.exit_codes import STRICT
from kt_batch.cli.output import print_summary
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.cli.rejects import reject_lines, rejects_target, write_rejects
from kt_batch.cli.runner import make_runner
from kt_batch.config import EncoderConfig, ExtractConfig, PairsConfig
from kt_batch.errors import UsageError
from kt_batch.kernels.cube import CubeSize
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.pipelines.pairs.finish import PairsSummary, extract_pairs
from kt_batch.pipelines.pairs.fit import fit
from kt_batch.pipelines.pairs.plan import PairsRequest
from kt_batch.report.lut import write_lut

PairedPlace = Annotated[str, typer.Argument(help="A paired library: a directory or s3://bucket/prefix.")]


SIZES: dict[str, CubeSize] = {"17": 17, "33": 33, "65": 65}


def pairs_config(
    weights: options.EncoderOptions, cut: options.CutOptions, content: options.ExtractOptions
) -> PairsConfig:
    """Return the configuration of a paired library. Raises UsageError for an option without effect on pairs."""
    given = {"layer": cut.layer, **content.model_dump(include={"stride", "max_patches", "seed"})}
    fields = {**ExtractConfig.model_fields, "layer": EncoderConfig.model_fields["layer"]}
    for name in given:
        if given[name] != fields[name].default:
            raise UsageError(f"--{name.replace('_', '-')} {given[name]} has no effect on pairs; leave it out.")
    if weights != options.EncoderOptions():
        raise UsageError("--encoder and --encoder-weights have no effect on pairs; leave them out.")
    return PairsConfig(size=cut.size, tags=content.tag, license=content.license, attribution=content.attribution)


def run_pairs(request: PairsRequest, saved: Mapping[str, object], json: bool) -> int:
    """Extract pairs and print the summary; return the exit code."""
    target = rejects_target(request.options, [*request.before, *request.after], request.library)
    with make_runner(request.options) as running, ProgressDisplay() as display:
        summary = extract_pairs(request, running, display)
    save_options(request.library, "extract", saved)
    write_rejects(target, request.library)
    print_summary(asdict(summary), pairs_lines(summary), json)
    return STRICT.exit_code(summary.rejected, summary.pairs + summary.rejected)


def pairs_lines(summary: PairsSummary) -> list[str]:
    """Return the summary for a person."""
    lines = [f"{summary.library}: {summary.pairs} pairs, {summary.rejected} rejected"]
    if summary.unmatched:
        lines.append(f"  {len(summary.unmatched)} files without a partner of their name were left out")
    if summary.new_images:
        rate = f"{summary.images_per_second:.2f} pairs/s"
        lines.append(f"  {summary.new_images} pairs in {summary.seconds:.1f} s ({rate})")
    elif summary.new_rejected == 0:
        lines.append("  nothing to do: everything was extracted already")
    lines += reject_lines(summary.rejects, summary.rejected)
    return [*lines, f"  next: kt-batch fit {summary.library}"] if summary.pairs else lines


def add_pairs(app: typer.Typer) -> None:
    """Give an app the commands."""
    app.command("fit")(expand(fit_command))
    app.command("lut")(expand(lut_command))


def fit_command(*, library: PairedPlace, how: options.Threads, json: options.Json = False) -> int:
    """Learn a photographer's hand from the pairs of a paired library.

    kt-batch fit mine.pairs
    """
    result = fit(library, FitConfig(), how.threads)
    lines = [
        f"{result.library}: fitted {result.pairs} pairs in {result.seconds:.1f} s",
        f"  next: kt-batch translate PHOTOS --method retouch --library {result.library} --out RUN",
    ]
    print_summary(asdict(result), lines, json)
    return 0


def lut_command(
    *,
    place: options.Place,
    output: Annotated[str | None, typer.Argument(help="An output of a run, by its name or its photograph's.")] = None,
    to: Annotated[Path, typer.Option("--to", help="The file: .cube for a lookup table, .json for the map itself.")],
    size: Annotated[Literal["17", "33", "65"], typer.Option("--size", help="Points of the table to a side.")] = "33",
    force: options.Force = False,
    json: options.Json = False,
) -> int:
    """Export an edit for other programs: that of one output of a run, or the average hand of a paired library.

    kt-batch lut run photo.jpg --to photo.cube
    """
    written = write_lut(place, output, to, SIZES[size], force=force)
    print_summary(written, [f"{to}: the edit of {written['of']}"], json)
    return 0
