"""The commands that do the main job: `extract`, `index` and `translate`, and what a dry run of them prints.

`jobs/` start the same functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from typing import Annotated, Any

import typer

from kt_batch.cli import options
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.cli.start import (
    FAILED,
    absolute_file,
    job_code,
    library_models,
    make_runner,
    new_encoder,
    print_summary,
    reject_code,
    save_options,
)
from kt_batch.config import EncoderConfig, ExtractConfig, IndexConfig, RunOptions, SearchConfig, TranslateConfig
from kt_batch.errors import UsageError
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.estimate import DryRunRequest, Estimate, Pilot, estimate_extract, estimate_translate
from kt_batch.pipelines.extract.worker import ExtractSummary, extract, readable_size
from kt_batch.pipelines.index.plan import BuildSummary, build_index
from kt_batch.pipelines.translate.worker import TranslateJob, TranslateSummary, default_cache, translate
from kt_batch.report.run_report import duration
from kt_batch.store.indexes import find_index
from kt_batch.store.library import Library
from kt_batch.store.locations import absolute_place


def add_batch_commands(app: typer.Typer) -> None:
    """Give an app the commands of this module."""
    app.command("extract")(extract_command)
    app.command("index")(index_command)
    app.command("translate")(translate_command)


# ---- extract ---------------------------------------------------------------------------------------------------------


def extract_command(
    context: typer.Context,
    images: options.Paths,
    library: options.LibraryOut,
    encoder: options.Encoder = "kt-vgg",
    encoder_weights: options.EncoderWeights = None,
    layer: options.LayerName = "relu3_1",
    size: options.Size = 512,
    stride: options.Stride = 1,
    max_patches: options.MaxPatches = None,
    seed: options.Seed = 0,
    tag: options.Tags = None,
    license: options.License = "",  # noqa: A002
    attribution: options.Attribution = "",
    runner: options.RunnerName = "local",
    workers: options.Workers = None,
    threads: options.Threads = 2,
    unit_size: options.UnitSize = 8,
    gpus: options.Gpus = 0.0,
    address: options.Address = None,
    mix_numerics: options.MixNumerics = False,
    retry_rejected: options.RetryRejected = False,
    log_file: options.LogFile = None,
    dry_run: options.DryRun = False,
    pilot: options.Pilot = None,
    price: options.Price = None,
    config: options.ConfigFile = None,
    json: options.Json = False,
) -> int:
    """Images -> a knowledge library. Run it again to go on, or with more images to add them.

    kt-batch extract paintings/ --library monet.lib
    """
    if asked := dry_run_request(context.params):
        estimate = dry_extract(context.params, asked)
        print_summary(asdict(estimate), estimate_lines(estimate, runner), json)
        return estimate_code(estimate)
    source, extraction = extract_settings(context.params)
    how = run_options(context.params)
    with make_runner(how) as running, ProgressDisplay() as display:
        summary = extract(images, library, extraction, source, how, running, display)
    save_options(library, "extract", context.params)
    print_summary(asdict(summary), extract_lines(summary), json)
    return reject_code(summary.rejected)


def extract_settings(given: Mapping[str, Any]) -> tuple[EncoderSource, ExtractConfig]:
    """What a library is to be made with, from the options of `extract_command` by their names."""
    source, encoder = new_encoder(given["encoder"], given["encoder_weights"], given["layer"], given["size"])
    same = ("stride", "max_patches", "seed", "license", "attribution")
    content = {"encoder": encoder, "tags": tuple(given["tag"] or ()), **{name: given[name] for name in same}}
    return source, ExtractConfig.model_validate(content)


def run_options(given: Mapping[str, Any]) -> RunOptions:
    """How a command is to be run, from its options by their names."""
    return RunOptions.model_validate({name: given[name] for name in RunOptions.model_fields if name in given})


def extract_lines(summary: ExtractSummary) -> list[str]:
    """The summary for a person."""
    lines = [f"{summary.library}: {summary.images} images, {summary.patches:,} patches, {summary.rejected} rejected"]
    if summary.new_images:
        lines.append(
            f"  {summary.new_images} images in {summary.seconds:.1f} s ({summary.images_per_second:.2f} images/s)"
        )
    elif summary.new_rejected == 0:
        lines.append("  nothing to do: everything was extracted already")
    lines += retry_lines(summary.rejected)
    return [*lines, f"  next: kt-batch index {summary.library}"]


# ---- index -----------------------------------------------------------------------------------------------------------


def index_command(
    context: typer.Context,
    library: Annotated[str, typer.Argument(help="The library: a directory or s3://bucket/prefix.")],
    match_space: options.MatchSpace = "raw",
    clusters: options.Clusters = None,
    max_leaf: options.MaxLeaf = 512,
    merge: options.Merge = 0.995,
    payload: options.Payload = "4bit",
    seed: options.Seed = 0,
    runner: options.RunnerName = "local",
    workers: options.Workers = None,
    threads: options.Threads = 2,
    address: options.Address = None,
    mix_numerics: options.MixNumerics = False,
    log_file: options.LogFile = None,
    config: options.ConfigFile = None,
    json: options.Json = False,
) -> int:
    """Cluster a library by BHKM, so that it can be searched.

    kt-batch index monet.lib
    """
    building = index_settings(context.params)
    how = run_options(context.params)
    with make_runner(how) as running, ProgressDisplay() as display:
        summary = build_index(library, building, how, running, display)
    save_options(library, "index", context.params)
    print_summary(asdict(summary), index_lines(summary), json)
    return 0


def index_settings(params: Mapping[str, Any]) -> IndexConfig:
    """What an index is built with, of the options of `index` or `build_library`. Raises UsageError, ValidationError."""
    names = ("match_space", "max_leaf", "merge", "payload", "seed")
    return IndexConfig.model_validate(
        {name: params[name] for name in names} | {"clusters": parse_clusters(params["clusters"])}
    )


def parse_clusters(text: str | None) -> tuple[int, ...]:
    """`64,16` -> (64, 16)."""
    if text is None:
        return ()
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--clusters is a list of numbers such as 64,16, not '{text}'.")
    return tuple(int(part) for part in parts)


def index_lines(summary: BuildSummary) -> list[str]:
    """The summary for a person."""
    state = f"built in {summary.seconds:.1f} s" if summary.built else "nothing to do: it was built already"
    return [
        f"{summary.library}: index {summary.index}, {state}",
        f"  {summary.patches:,} patches, {summary.merged_share:.1%} merged, {summary.leaves} leaves",
        f"  next: kt-batch translate PHOTOS --library {summary.library} --out RUN",
    ]


# ---- translate -------------------------------------------------------------------------------------------------------


def translate_command(
    context: typer.Context,
    images: options.Paths,
    library: options.LibraryOut,
    out: options.RunOut,
    swap: options.Swap = "geometric",
    alpha: options.Alpha = 1.0,
    top_k: options.TopK = 1,
    searcher: options.SearcherName = "tree",
    probes: options.Probes = 8,
    certify: options.Certify = False,
    bands: options.Bands = 4,
    query_stride: options.QueryStride = 1,
    preserve_colour: options.PreserveColour = False,
    size: options.OutputSize = None,
    format: options.Format = "png",  # noqa: A002
    quality: options.Quality = 95,
    index: options.IndexDigest = None,
    encoder_weights: options.EncoderWeights = None,
    decoder_weights: options.DecoderWeights = None,
    cache_dir: options.CacheDir = None,
    runner: options.RunnerName = "local",
    workers: options.Workers = None,
    threads: options.Threads = 2,
    unit_size: options.UnitSize = 8,
    gpus: options.Gpus = 0.0,
    address: options.Address = None,
    mix_numerics: options.MixNumerics = False,
    retry_rejected: options.RetryRejected = False,
    log_file: options.LogFile = None,
    dry_run: options.DryRun = False,
    pilot: options.Pilot = None,
    price: options.Price = None,
    config: options.ConfigFile = None,
    json: options.Json = False,
) -> int:
    """Re-render photographs after a library, and record where every patch came from.

    kt-batch translate photos/ --library monet.lib --out run
    """
    if asked := dry_run_request(context.params):
        estimate = dry_translate(context.params, asked)
        print_summary(asdict(estimate), estimate_lines(estimate, runner), json)
        return estimate_code(estimate)
    summary = run_translate(context.params)
    save_options(out, "translate", context.params)
    print_summary(asdict(summary), translate_lines(summary), json)
    return reject_code(summary.rejected)


def run_translate(given: Mapping[str, Any]) -> TranslateSummary:
    """Translate with the options of `translate_command`, by their names; `jobs/translate.py` takes the same ones."""
    how = run_options(given)
    job = translate_settings(given, how)
    with make_runner(how) as running, ProgressDisplay() as display:
        return translate(given["images"], job, how, running, display)


def translate_settings(given: Mapping[str, Any], how: RunOptions) -> TranslateJob:
    """What a run is to be made with, from the options of `translate_command` by their names."""
    opened = Library.open(given["library"])
    source, _, decoder = library_models(opened, given["encoder_weights"], given["decoder_weights"])
    encoder = opened.config.encoder
    if given["size"] is not None:
        encoder = EncoderConfig.model_validate({**encoder.model_dump(), "size": given["size"]})
    search = SearchConfig.model_validate({name: given[name] for name in SearchConfig.model_fields})
    same = ("swap", "alpha", "query_stride", "preserve_colour", "format", "quality")
    translation = TranslateConfig.model_validate(
        {
            "encoder": encoder,
            "decoder_sha256": decoder.sha256,
            "index_digest": find_index(opened, given["index"]).digest,
            "search": search,
            **{name: given[name] for name in same},
        }
    )
    return TranslateJob(
        library=absolute_place(given["library"]),
        run=absolute_place(given["out"]),
        config=translation,
        source=source,
        decoder_path=absolute_file(given["decoder_weights"]),
        cache=absolute_file(given["cache_dir"]) or default_cache(),
        threads=how.threads,
        numerics=None,
        mix_numerics=how.mix_numerics,
    )


def retry_lines(rejected: int) -> list[str]:
    """What can be done about rejects, where there are some."""
    return ["  rejected images are listed in rejects/; --retry-rejected tries them once more"] if rejected else []


def translate_lines(summary: TranslateSummary) -> list[str]:
    """The summary for a person."""
    ncc = "" if summary.ncc_mean is None else f", mean NCC {summary.ncc_mean:.3f}"
    lines = [f"{summary.run}: {summary.images} images, {summary.rejected} rejected{ncc}"]
    if summary.new_images:
        lines.append(
            f"  {summary.new_images} images in {summary.seconds:.1f} s ({summary.images_per_second:.2f} images/s)"
        )
    elif summary.new_rejected == 0:
        lines.append("  nothing to do: everything was translated already")
    lines += retry_lines(summary.rejected)
    return [*lines, f"  next: kt-batch explain {summary.run} IMAGE --at X,Y"]


# ---- --dry-run -------------------------------------------------------------------------------------------------------


def dry_run_request(given: Mapping[str, Any]) -> DryRunRequest | None:
    """What a dry run is asked for, from the options of a command by their names; None when there is to be none."""
    pilot, price = given["pilot"], given["price"]
    if pilot is not None and not given["dry_run"]:
        raise UsageError(f"--pilot {pilot} is for a dry run; give --dry-run with it, or leave it out.")
    if pilot is not None and pilot < 1:
        raise UsageError(f"--pilot is a number of images, 1 or more, not {pilot}.")
    if price is not None and pilot is None:
        raise UsageError(f"--price {price:g} is for a pilot; give --dry-run --pilot N with it, or leave it out.")
    if price is not None and not (isfinite(price) and price >= 0):
        raise UsageError(f"--price is what a node costs per hour, 0 or more, not {price:g}.")
    return DryRunRequest(pilot or 0, price) if given["dry_run"] else None


def dry_extract(given: Mapping[str, Any], asked: DryRunRequest) -> Estimate:
    """What `extract` would do with these options. A pilot is done here, whatever runner is to do the rest."""
    source, extraction = extract_settings(given)
    how = run_options(given)
    with make_runner(RunOptions()) as running, ProgressDisplay() as display:
        return estimate_extract(given["images"], given["library"], extraction, source, how, asked, running, display)


def dry_translate(given: Mapping[str, Any], asked: DryRunRequest) -> Estimate:
    """What `translate` would do with these options. A pilot is done here, whatever runner is to do the rest."""
    how = run_options(given)
    job = translate_settings(given, how)
    with make_runner(RunOptions()) as running, ProgressDisplay() as display:
        return estimate_translate(given["images"], job, how, asked, running, display)


def estimate_code(estimate: Estimate) -> int:
    """The exit code that the run would end with, as far as it can be known."""
    return reject_code(known_rejects(estimate)) if estimate.fits else FAILED


def estimate_job_code(estimate: Estimate, max_rejects: str, strict: bool) -> int:
    """The exit code that the job would end with, as far as it can be known."""
    total = estimate.finished + estimate.to_do
    return job_code(known_rejects(estimate), total, max_rejects, strict) if estimate.fits else FAILED


def known_rejects(estimate: Estimate) -> int:
    """Inputs that were rejected earlier, or in the pilot."""
    return estimate.rejected + (len(estimate.pilot.rejects) if estimate.pilot else 0)


def estimate_lines(estimate: Estimate, runner: str) -> list[str]:
    """The estimate for a person; `runner` is that of the real run."""
    again = estimate.to_do - (estimate.found - estimate.done)
    lines = [
        f"{estimate.place}: a dry run, nothing was written there",
        f"  {estimate.found} images found, {estimate.done} done already, {estimate.to_do} to do"
        + (f" ({again} of them planned earlier and not among those found)" if again else ""),
    ]
    if estimate.rejected or estimate.again:
        again_too = f", {estimate.again} more to be tried again" if estimate.again else ""
        lines.append(f"  {estimate.rejected} rejected earlier{again_too}")
    if estimate.to_do == 0:
        return [*lines, "  nothing to do: everything is done already"]
    lines.append(f"  {estimate.units_to_plan} units to plan, {estimate.units_pending} planned earlier and pending")
    unreadable = f", {estimate.unreadable} images cannot be read" if estimate.unreadable else ""
    lines.append(f"  input {readable_size(estimate.input_bytes)}{unreadable}; {_output(estimate)}{_free(estimate)}")
    if estimate.pilot:
        lines += [*_pilot_lines(estimate.pilot), *_projection_lines(estimate, runner)]
    return lines


def _output(estimate: Estimate) -> str:
    if estimate.output_bytes_at_most is not None:
        return f"output at most {readable_size(estimate.output_bytes_at_most)} (estimate)"
    return "output: see below" if estimate.estimated_output_bytes is not None else "output unknown without a pilot"


def _free(estimate: Estimate) -> str:
    if estimate.free_bytes is None:
        return ""
    short = "" if estimate.fits else ", too few: the run would be refused"
    return f"; {readable_size(estimate.free_bytes)} are free{short}"


def _pilot_lines(pilot: Pilot) -> list[str]:
    lines = [f"  pilot: {pilot.images} images, {pilot.rejected} rejected, start-up {duration(pilot.startup_seconds)}"]
    lines += [f"    {reject.uri}: {reject.reason}" for reject in pilot.rejects]
    if pilot.seconds_per_image_mean is None or pilot.seconds_per_image_median is None:
        return [*lines, "    all of them were rejected, so nothing can be estimated"]
    mean, median = duration(pilot.seconds_per_image_mean), duration(pilot.seconds_per_image_median)
    return [*lines, f"    {mean} (median {median}) and {readable_size(pilot.output_bytes_per_image)} per image"]


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
