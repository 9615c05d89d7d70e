"""Extract images into a library and index it, as one job: `ray job submit -- python jobs/build_library.py ...`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from kt_batch import options
from kt_batch.cli import extract_lines, index_lines, parse_clusters
from kt_batch.config import ExtractConfig, IndexConfig, RunOptions
from kt_batch.console import ProgressDisplay
from kt_batch.pipelines.build import build_index
from kt_batch.pipelines.extract import extract
from kt_batch.start import (
    allowed_rejects,
    job_code,
    leave,
    make_runner,
    new_encoder,
    print_summary,
    run_app,
    save_options,
)

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
    runner: options.RunnerName = "ray",
    workers: options.Workers = None,
    threads: options.Threads = 2,
    unit_size: options.UnitSize = 8,
    address: options.Address = None,
    mix_numerics: options.MixNumerics = False,
    max_rejects: options.MaxRejects = "100%",
    strict: options.Strict = False,
    config: options.ConfigFile = None,
    json: options.Json = False,
) -> int:
    """Images -> an indexed knowledge library. Exits with 0 while rejects stay within --max-rejects."""
    allowed_rejects(max_rejects, 0)  # a wrong one is said now, not after the work
    source, encoder_config = new_encoder(encoder, encoder_weights, layer, size)
    extraction = ExtractConfig(
        encoder=encoder_config,
        stride=stride,
        max_patches=max_patches,
        seed=seed,
        tags=tuple(tag or ()),
        license=license,
        attribution=attribution,
    )
    building = IndexConfig(
        match_space=match_space, clusters=parse_clusters(clusters), max_leaf=max_leaf, merge=merge, seed=seed
    )
    how = RunOptions(
        runner=runner, workers=workers, threads=threads, unit_size=unit_size, address=address, mix_numerics=mix_numerics
    )
    with make_runner(how) as running, ProgressDisplay() as display:
        extracted = extract(images, library, extraction, source, how, running, display)
        indexed = build_index(library, building, how, running, display)
    save_options(library, "build_library", context.params)
    content = {"extract": asdict(extracted), "index": asdict(indexed)}
    print_summary(content, [*extract_lines(extracted), *index_lines(indexed)], json)
    return job_code(extracted.rejected, extracted.images + extracted.rejected, max_rejects, strict)


if __name__ == "__main__":
    leave(run_app(app))
