"""The commands that `ray job submit` starts.

They run on Ray by default, and the caller decides how many rejected inputs a success may have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain

import typer

from kt_batch.cli import options
from kt_batch.cli.arguments import Command, expand
from kt_batch.cli.config_file import ConfigFile, TrustConfig, save_options
from kt_batch.cli.estimates import DryRun, estimate_code, estimate_here, estimate_lines
from kt_batch.cli.exit_codes import RejectBounds
from kt_batch.cli.extract import extract_lines
from kt_batch.cli.index import index_lines
from kt_batch.cli.output import print_summary
from kt_batch.cli.pairs import (
    PairOptions,
    fit_lines,
    pairs_lines,
    pairs_request,
    print_pairs_estimate,
    refuse_others,
    run_pairs,
)
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.cli.rejects import rejects_target, write_rejects
from kt_batch.cli.runner import make_runner
from kt_batch.cli.settings import MethodOptions, method_options
from kt_batch.cli.translate import RESERVED, SHARED, ChoiceOptions, run_translate, translate_request
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.pipelines.estimate import DryRunRequest, estimate_extract
from kt_batch.pipelines.extract.finish import extract
from kt_batch.pipelines.extract.plan import ExtractRequest
from kt_batch.pipelines.index.finish import BuildSummary, build_index
from kt_batch.pipelines.pairs.fit import fit
from kt_batch.pipelines.pairs.plan import PairsRequest
from kt_batch.store.manifest_files import read_manifests


def job_app(command: Command) -> typer.Typer:
    """Return an app with one command, whose options are expanded already."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    return app


def build_library_app() -> typer.Typer:
    """Return the job that extracts and indexes."""
    return job_app(expand(build_library))


def translate_app() -> typer.Typer:
    """Return the job that translates."""
    return job_app(expand(translate_images, settings=method_options(reserved=RESERVED)))


def build_library(
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
    building: options.Building,
    fresh: options.Fresh = False,
    build_memory: options.BuildMemory = None,
    how: options.JobRun,
    bounds: RejectBounds,
    dry_run: DryRun,
    config: ConfigFile = None,
    trust_config: TrustConfig = False,
    json: options.Json = False,
) -> int:
    """Extract images into a knowledge library and index it, or before/after pairs into a paired library and fit them.

    Exits with 0 while rejects stay within --max-rejects.
    """
    estimate_request, memory = dry_run.request(), options.parse_size("--build-memory", build_memory)
    cut, content, chosen = options.with_preset(context, preset, cut, content)
    if wanted := pairs_request(pairs, library, (weights, cut, content), how):
        refuse_others(images, manifest)
        if estimate_request:
            return print_pairs_estimate(wanted, estimate_request, bounds, json)
        return _build_paired(wanted, context.params, json, bounds)
    source, encoder = options.new_encoder(weights, cut)
    request = ExtractRequest(
        images or [], library, content.config(encoder), source, how, read_manifests(manifest or [])
    )
    if estimate_request:
        return _print_estimate(request, estimate_request, bounds, json)
    target = rejects_target(how, request.images, library, request.manifests)
    with make_runner(how) as running, ProgressDisplay() as display:
        extracted = extract(request, running, display)
        write_rejects(target, library)
        build = partial(build_index, library, building, how, running, display, fresh=fresh, memory=memory)
        indexed = list(map(build, request.config.keys))
    save_options(library, "build_library", {**context.params, **chosen})
    facts, lines = {"extract": asdict(extracted)} | _index_facts(indexed), extract_lines(extracted)
    print_summary(facts, [*lines, *chain(*map(index_lines, indexed))], json)
    return bounds.exit_code(extracted.rejected, extracted.images + extracted.rejected)


def _print_estimate(request: ExtractRequest, wanted: DryRunRequest, bounds: RejectBounds, json: bool) -> int:
    """Estimate the extraction, print the estimate, and return the exit code."""
    estimate = estimate_here(partial(estimate_extract, request), wanted)
    lines = estimate_lines(estimate, request.options.runner)
    lines.append("  the index that is built afterwards is not estimated")
    print_summary({"extract": asdict(estimate)}, lines, json)
    return estimate_code(estimate, bounds)


def _build_paired(request: PairsRequest, saved: Mapping[str, object], json: bool, bounds: RejectBounds) -> int:
    """Extract pairs and fit them, print both summaries, and return the exit code."""
    paired, fitted = run_pairs(request), fit(request.library, FitConfig(), request.options.threads)
    save_options(request.library, "build_library", saved)
    both = {"extract": asdict(paired), "fit": asdict(fitted)}
    print_summary(both, [*pairs_lines(paired), *fit_lines(fitted)], json)
    return bounds.exit_code(paired.rejected, paired.pairs + paired.rejected)


def _index_facts(built: Sequence[BuildSummary]) -> dict[str, object]:
    """Return the index of the base key, and by key those of the further ones, if there are any."""
    further = {each.key: asdict(each) for each in built[1:]}
    return {"index": asdict(built[0]), **({"further_indexes": further} if further else {})}


def translate_images(
    context: typer.Context,
    *,
    images: options.Images = None,
    manifest: options.Manifests = None,
    out: options.RunPlace,
    settings: MethodOptions,
    chosen: ChoiceOptions,
    how: options.JobRun,
    shard_size: options.ShardSize = None,
    index_memory: options.IndexMemory = None,
    index_replicas: options.IndexReplicas = 1,
    bounds: RejectBounds,
    dry_run: DryRun,
    config: ConfigFile = None,
    trust_config: TrustConfig = False,
    json: options.Json = False,
) -> int:
    """Re-render images after a library or style images.

    Exits with 0 while rejects stay within --max-rejects.
    """
    estimate_request, resolved = dry_run.request(), settings.resolve(SHARED)
    request = translate_request(images or [], out, chosen, resolved, how)
    memory = options.parse_size("--index-memory", index_memory)
    lists = read_manifests(manifest or [])
    request = replace(request, manifests=lists, shard_size=shard_size, index_memory=memory)
    request = replace(request, index_replicas=index_replicas)
    return run_translate(request, estimate_request, {**context.params, **resolved.options}, json, bounds)
