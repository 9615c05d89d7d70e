"""The command `extract`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial

import typer

from kt_batch.cli import options
from kt_batch.cli.arguments import expand
from kt_batch.cli.config_file import ConfigFile, TrustConfig, save_options
from kt_batch.cli.estimates import DryRun, estimate_code, estimate_here, estimate_lines
from kt_batch.cli.exit_codes import STRICT
from kt_batch.cli.output import print_summary
from kt_batch.cli.pairs import PairOptions, pairs_lines, pairs_request, print_pairs_estimate, refuse_others, run_pairs
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.cli.rejects import reject_lines, rejects_target, write_rejects
from kt_batch.cli.runner import make_runner
from kt_batch.pipelines.estimate import estimate_extract
from kt_batch.pipelines.extract.finish import ExtractSummary, extract
from kt_batch.pipelines.extract.plan import ExtractRequest
from kt_batch.pipelines.pairs.plan import PairsRequest
from kt_batch.store.manifest_files import read_manifests
from kt_batch.store.names import in_command


def add_extract(app: typer.Typer) -> None:
    """Give an app the command."""
    app.command("extract")(expand(extract_command))


def extract_command(
    context: typer.Context,
    *,
    images: options.Images = None,
    manifest: options.Manifests = None,
    pairs: PairOptions,
    library: options.Library,
    weights: options.EncoderOptions,
    cut: options.CutOptions,
    content: options.Content,
    preset: options.ExtractPreset = None,
    how: options.Run,
    dry_run: DryRun,
    config: ConfigFile = None,
    trust_config: TrustConfig = False,
    json: options.Json = False,
) -> int:
    """Extract images into a knowledge library. Run it again to continue or to add images.

    kt-batch extract paintings/ --library monet.lib

    kt-batch extract paintings/ --library monet.lib --preset painting

    kt-batch extract --before originals/ --after edited/ --library mine.pairs

    kt-batch extract --after finished/ --synthetic-befores --library mild.pairs
    """
    estimate_request = dry_run.request()
    cut, content, chosen = options.with_preset(context, preset, cut, content)
    if wanted := pairs_request(pairs, library, (weights, cut, content), how):
        refuse_others(images, manifest)
        if estimate_request:
            return print_pairs_estimate(wanted, estimate_request, STRICT, json)
        return _extract_pairs(wanted, context.params, json)
    source, encoder = options.new_encoder(weights, cut)
    request = ExtractRequest(
        images or [], library, content.config(encoder), source, how, read_manifests(manifest or [])
    )
    if estimate_request:
        estimate = estimate_here(partial(estimate_extract, request), estimate_request)
        print_summary(asdict(estimate), estimate_lines(estimate, how.runner), json)
        return estimate_code(estimate, STRICT)
    target = rejects_target(how, request.images, library, request.manifests)
    with make_runner(how) as running, ProgressDisplay() as display:
        summary = extract(request, running, display)
    save_options(library, "extract", {**context.params, **chosen})
    write_rejects(target, library)
    print_summary(asdict(summary), extract_lines(summary), json)
    return STRICT.exit_code(summary.rejected, summary.images + summary.rejected)


def _extract_pairs(wanted: PairsRequest, saved: Mapping[str, object], json: bool) -> int:
    """Extract pairs, print the summary, and return the exit code."""
    paired = run_pairs(wanted)
    save_options(wanted.library, "extract", saved)
    print_summary(asdict(paired), pairs_lines(paired), json)
    return STRICT.exit_code(paired.rejected, paired.pairs + paired.rejected)


def extract_lines(summary: ExtractSummary) -> list[str]:
    """Return the summary for a person."""
    lines = [f"{summary.library}: {summary.images} images, {summary.patches:,} patches, {summary.rejected} rejected"]
    if summary.new_images:
        lines.append(
            f"  {summary.new_images} images in {summary.seconds:.1f} s ({summary.images_per_second:.2f} images/s)"
        )
    elif summary.new_rejected == 0:
        lines.append("  nothing to do: everything was extracted already")
    lines += reject_lines(summary.rejects, summary.rejected)
    return [*lines, f"  next: kt-batch index {in_command(summary.library)}"] if summary.images else lines
