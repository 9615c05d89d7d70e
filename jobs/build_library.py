"""Extract images into a library and index it, as one job: `ray job submit -- python jobs/build_library.py ...`."""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

from dataclasses import asdict

import typer

from kt_batch.cli import options
from kt_batch.cli.batch import (
    dry_extract,
    dry_run_request,
    estimate_job_code,
    estimate_lines,
    extract_lines,
    extract_settings,
    index_lines,
    index_settings,
    run_options,
)
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.cli.start import (
    allowed_rejects,
    job_code,
    leave,
    make_runner,
    print_summary,
    release_gpus,
    run_app,
    save_options,
)
from kt_batch.pipelines.extract.finish import extract
from kt_batch.pipelines.extract.plan import ExtractRequest
from kt_batch.pipelines.index.finish import build_index

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def build_library(
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
    license: options.License = "",  # noqa: A002 - the option is called so
    attribution: options.Attribution = "",
    match_space: options.MatchSpace = "raw",
    clusters: options.Clusters = None,
    max_leaf: options.MaxLeaf = 512,
    merge: options.Merge = 0.995,
    payload: options.Payload = "4bit",
    runner: options.RunnerName = "ray",
    workers: options.Workers = None,
    threads: options.Threads = 2,
    unit_size: options.UnitSize = 8,
    gpus: options.Gpus = 0.0,
    address: options.Address = None,
    mix_numerics: options.MixNumerics = False,
    max_rejects: options.MaxRejects = "100%",
    strict: options.Strict = False,
    retry_rejected: options.RetryRejected = False,
    log_file: options.LogFile = None,
    dry_run: options.DryRun = False,
    pilot: options.Pilot = None,
    price: options.Price = None,
    config: options.ConfigFile = None,
    json: options.Json = False,
) -> int:
    """Images -> an indexed knowledge library. Exits with 0 while rejects stay within --max-rejects."""
    allowed_rejects(max_rejects, 0)  # a wrong one is said now, not after the work
    building = index_settings(context.params)
    if asked := dry_run_request(context.params):
        estimate = dry_extract(context.params, asked)
        lines = [*estimate_lines(estimate, runner), "  the index that is built afterwards is not estimated"]
        print_summary({"extract": asdict(estimate)}, lines, json)
        return estimate_job_code(estimate, max_rejects, strict)
    source, extraction = extract_settings(context.params)
    how = run_options(context.params)
    with make_runner(how) as running, ProgressDisplay() as display:
        extracted = extract(ExtractRequest(images, library, extraction, source, how), running, display)
        release_gpus(running)  # an index is built without
        indexed = build_index(library, building, how, running, display)
    save_options(library, "build_library", context.params)
    content = {"extract": asdict(extracted), "index": asdict(indexed)}
    print_summary(content, [*extract_lines(extracted), *index_lines(indexed)], json)
    return job_code(extracted.rejected, extracted.images + extracted.rejected, max_rejects, strict)


if __name__ == "__main__":
    leave(run_app(app))
