"""Translate images with an indexed library, as a job: `ray job submit -- python jobs/translate.py ...`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from kt_batch.cli import options
from kt_batch.cli.batch import (
    dry_run_request,
    dry_translate,
    estimate_job_code,
    estimate_lines,
    run_translate,
    translate_lines,
)
from kt_batch.cli.start import allowed_rejects, job_code, leave, print_summary, run_app, save_options

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def translate_images(
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
    format: options.Format = "png",  # noqa: A002 - the option is called so
    quality: options.Quality = 95,
    index: options.IndexDigest = None,
    encoder_weights: options.EncoderWeights = None,
    decoder_weights: options.DecoderWeights = None,
    cache_dir: options.CacheDir = None,
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
    """Re-render images after a library. Exits with 0 while rejects stay within --max-rejects."""
    allowed_rejects(max_rejects, 0)  # a wrong one is said now, not after the work
    if asked := dry_run_request(context.params):
        estimate = dry_translate(context.params, asked)
        print_summary(asdict(estimate), estimate_lines(estimate, runner), json)
        return estimate_job_code(estimate, max_rejects, strict)
    summary = run_translate(context.params)
    save_options(out, "translate", context.params)
    print_summary(asdict(summary), translate_lines(summary), json)
    return job_code(summary.rejected, summary.images + summary.rejected, max_rejects, strict)


if __name__ == "__main__":
    leave(run_app(app))
