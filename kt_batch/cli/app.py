"""The command line: read options, call one pipeline, print, exit code."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
import yaml

from kt_batch.cli import options
from kt_batch.cli.batch import add_batch_commands
from kt_batch.cli.bench import bench_app
from kt_batch.cli.maintenance import add_care_commands
from kt_batch.cli.models import models_command
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.cli.start import make_runner, new_encoder, print_summary
from kt_batch.config import ExtractConfig, IndexConfig, RunOptions
from kt_batch.demo.demo import demo
from kt_batch.errors import StorageError, UsageError
from kt_batch.methods.knowledge import KnowledgeConfig
from kt_batch.models.weights import load_decoder, load_encoder
from kt_batch.pipelines.single import translate_one
from kt_batch.report.explain import explain
from kt_batch.report.inspect import inspect
from kt_batch.report.views import sql as view_sql

app = typer.Typer(
    name="kt-batch",
    help="Re-render image collections after the look of another collection, with the origin of every patch on record.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="--debug, anywhere, shows the traceback of an error.",
)
add_batch_commands(app)
app.command("models")(models_command)
add_care_commands(app)
app.add_typer(bench_app, name="bench")


@app.command("try")
def try_command(
    photo: Annotated[str, typer.Argument(help="The photograph.")],
    style: Annotated[list[str], typer.Option("--style", help="A painting, or a place of paintings; may be repeated.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the result goes; default: PHOTO-kt.png, here.")
    ] = None,
    swap: options.Swap = "geometric",
    alpha: options.Alpha = 1.0,
    top_k: options.TopK = 1,
    probes: options.Probes = 8,
    query_stride: options.QueryStride = 1,
    preserve_colour: options.PreserveColour = False,
    size: options.Size = 512,
    layer: options.LayerName = "relu3_1",
    encoder: options.Encoder = "kt-vgg",
    encoder_weights: options.EncoderWeights = None,
    decoder_weights: options.DecoderWeights = None,
    quality: options.Quality = 95,
    threads: options.Threads = 2,
    config: options.ConfigFile = None,
    json: options.Json = False,
) -> int:
    """One photograph after a few paintings, at once: no Ray, no library.

    kt-batch try holiday.jpg --style starry_night.jpg
    """
    target = out or Path(f"{Path(photo).stem}-kt.png")
    image_format = {".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp", ".png": "png"}.get(target.suffix.lower())
    if image_format is None:
        raise UsageError(f"--out '{target}' must end in .png, .jpg or .webp.")
    source, encoder_config = new_encoder(encoder, encoder_weights, layer, size)
    loaded = load_encoder(source)
    decoder = load_decoder(loaded, encoder, layer, decoder_weights)
    translation = KnowledgeConfig.model_validate(
        {
            "encoder": encoder_config,
            "decoder_sha256": decoder.sha256,
            "search": {"probes": probes, "top_k": top_k},
            "swap": swap,
            "alpha": alpha,
            "query_stride": query_stride,
            "preserve_colour": preserve_colour,
            "format": image_format,
            "quality": quality,
        }
    )
    if not target.parent.is_dir():
        raise UsageError(f"--out '{target}' is in no directory that exists.")
    data, summary = translate_one(photo, style, loaded, decoder, translation, IndexConfig(), threads)
    try:
        target.write_bytes(data)
    except OSError as error:
        raise StorageError(f"'{target}' cannot be written: {error.strerror}.") from error
    lines = [f"{target}: mean NCC {summary.ncc_mean:.3f}, {summary.seconds:.1f} s"]
    lines += [f"  {share:6.1%} from {uri}" for uri, share in summary.shares.items()]
    print_summary({"out": str(target), **asdict(summary)}, lines, json)
    return 0


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option("--out", help="Everything the demo makes goes here.")] = Path("demo-out"),
    runner: options.RunnerName = "ray",
    workers: options.Workers = None,
    threads: options.Threads = 2,
    json: options.Json = False,
) -> int:
    """The whole main job, offline, on photographs that come along; ends with the page to open.

    kt-batch demo --out demo-out
    """
    source, encoder_config = new_encoder("kt-vgg", None, "relu3_1", 512)
    how = RunOptions(runner=runner, workers=workers, threads=threads)
    with make_runner(how) as running, ProgressDisplay() as display:
        summary = demo(out, ExtractConfig(encoder=encoder_config), source, how, running, display)
    print_summary(asdict(summary), [f"Open {summary.sheet}"], json)
    return 0


@app.command("explain")
def explain_command(
    run: Annotated[str, typer.Argument(help="The run.")],
    output: Annotated[str, typer.Argument(help="An output or its input: images/a.jpg.png, a.jpg.")],
    at: Annotated[str, typer.Option("--at", help="X,Y of a pixel of the output.")],
    library: Annotated[str | None, typer.Option("--library", help="Where the library is now, if it moved.")] = None,
    json: options.Json = False,
) -> int:
    """Where a pixel came from: the source images, boxes, NCC and weights of the patches that made it.

    kt-batch explain run holiday.jpg --at 120,80
    """
    x, y = parse_pixel(at)
    found = explain(run, output, x, y, library)
    lines = [f"pixel {x},{y} of {found.output} ({found.width} x {found.height}), from {found.input}"]
    for part in found.contributions:
        box = part.file_box
        lines.append(
            f"  {part.weight:5.1%}  NCC {part.ncc:.3f}  pixels {box.x0},{box.y0} to {box.x1},{box.y1} of {part.uris[0]}"
        )
    lines += [f"  {source.share:5.1%}  {source.uri}" for source in found.sources]
    print_summary(found.to_dict(), lines, json)
    return 0


def parse_pixel(text: str) -> tuple[int, int]:
    """`120,80` -> (120, 80)."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--at is a pixel such as 120,80, not '{text}'.")
    return int(parts[0]), int(parts[1])


@app.command("inspect")
def inspect_command(
    place: Annotated[str, typer.Argument(help="A library or a run: a directory or s3://bucket/prefix.")],
    sql: Annotated[bool, typer.Option("--sql", help="Print DuckDB views over its tables, to paste.")] = False,
    json: options.Json = False,
) -> int:
    """What a library or a run holds.

    kt-batch inspect monet.lib
    """
    if sql:
        typer.echo(view_sql(place))
        return 0
    found = inspect(place)
    print_summary(found, yaml.safe_dump(found, sort_keys=False, allow_unicode=True).splitlines(), json)
    return 0
