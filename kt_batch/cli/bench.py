"""The commands that measure: `bench models`, `bench search`, `bench growth` and `bench paper`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kt_batch.cli import options
from kt_batch.cli.arguments import expand
from kt_batch.cli.models import bench_models_command
from kt_batch.cli.output import print_summary
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.errors import StorageError, UsageError
from kt_batch.evaluation.growth import Growth, bench_growth
from kt_batch.evaluation.paper import PaperFigures, bench_paper
from kt_batch.evaluation.search import BASELINES, SearchTable, bench_search, speed_at
from kt_batch.models.layers import CUT_POINTS
from kt_batch.report.plots import RECALL_PLOT_START, recall_plot
from kt_batch.store.targets import Inputs, Target

bench_app = typer.Typer(help="Measure networks and searchers with baselines in one run.", no_args_is_help=True)
bench_app.command("models")(expand(bench_models_command))

Indexed = Annotated[str, typer.Argument(help="An indexed library: a directory or s3://bucket/prefix.")]
Queries = Annotated[list[str], typer.Option("--queries", help="Images whose patches are the queries; may be repeated.")]
Recall = Annotated[float, typer.Option("--recall", help="The recall@1 at which speeds are compared.")]


@bench_app.command("search")
@expand
def bench_search_command(
    library: Indexed,
    queries: Queries,
    *,
    baselines: Annotated[
        str,
        typer.Option(
            "--baselines",
            "--rivals",
            help=f"Baselines through faiss, some of {','.join(BASELINES)}; an empty text for none.",
        ),
    ] = ",".join(BASELINES),
    recall: Recall = 0.95,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write recall against speed as an SVG.")] = None,
    weights: options.EncoderOptions,
    how: options.Threads,
    force: options.Force = False,
    json: options.Json = False,
) -> int:
    """Measure every searcher on a library: recall, NCC ratio, speed, build time, bytes.

    kt-batch bench search paintings.lib --queries photos/ --plot recall.svg
    """
    names = [name for name in baselines.split(",") if name]
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise UsageError(f"--baselines got '{unknown[0]}'; there are {', '.join(BASELINES)}.")
    read = Inputs(queries, [weights.encoder_weights], [library])
    target = Target("--plot", plot, read, force, begins=RECALL_PLOT_START) if plot else None
    if target:
        _make_folder("--plot", target.path.parent)
        target.check()
    with ProgressDisplay() as display:
        table = bench_search(library, queries, weights.source(), names, how.threads, display)
    if target:
        title = f"{table.patches:,} patches, D = {table.dimension}, {table.threads} threads"
        target.write(recall_plot(title, [asdict(row) for row in table.rows]).encode())
    print_summary(asdict(table), _search_lines(table, recall), json)
    return 0


@bench_app.command("growth")
@expand
def bench_growth_command(
    library: Indexed,
    queries: Queries,
    *,
    recall: Recall = 0.95,
    seed: options.Seed = 0,
    weights: options.EncoderOptions,
    how: options.Threads,
    json: options.Json = False,
) -> int:
    """Measure how time to build, time to search and memory grow with a library.

    kt-batch bench growth paintings.lib --queries photo.jpg
    """
    with ProgressDisplay() as display:
        growth = bench_growth(library, queries, weights.source(), recall, seed, how.threads, display)
    print_summary(asdict(growth), _growth_lines(growth), json)
    return 0


@bench_app.command("paper")
@expand
def bench_paper_command(
    paintings: Annotated[list[str], typer.Option("--paintings", help="At least six paintings; may be repeated.")],
    photographs: Annotated[
        list[str], typer.Option("--photographs", help="Images whose patches are the queries; may be repeated.")
    ],
    out: Annotated[Path, typer.Option("--out", help="A folder for Figs. 12 and 13.")],
    *,
    layers: Annotated[str, typer.Option("--layers", help="Cut points, separated by commas.")] = "relu4_1,relu3_1",
    weights: options.EncoderOptions,
    decoder_weights: Annotated[
        list[str] | None,
        typer.Option("--decoder-weights", help="One decoder for each layer, in the order of --layers."),
    ] = None,
    how: options.Threads,
    force: options.Force = False,
    json: options.Json = False,
) -> int:
    """Measure the paper's Tables 1 and 2, and draw its Figs. 12 and 13.

    kt-batch bench paper --paintings paintings/ --photographs photo.jpg --out paper/
    """
    wanted = layers.split(",")
    if unknown := [layer for layer in wanted if layer not in CUT_POINTS]:
        raise UsageError(f"--layers got '{unknown[0]}'; there are {', '.join(CUT_POINTS)}.")
    source, decoders = weights.source(), decoder_weights or []
    with ProgressDisplay() as display:
        rows, sheets = bench_paper(paintings, photographs, source, wanted, decoders, how.threads, display)
    _make_folder("--out", out)
    read = Inputs([*paintings, *photographs], [weights.encoder_weights, *decoders])
    targets = {name: Target("--out", out / name, read, force) for name in sheets}
    for target in targets.values():
        target.check()
    for name, data in sheets.items():
        targets[name].write(data)
    content = {"rows": [asdict(row) for row in rows], "sheets": [str(out / name) for name in sheets]}
    print_summary(content, [*_paper_lines(rows), *(str(out / name) for name in sheets)], json)
    return 0


def _make_folder(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder '{folder}' of {option} cannot be made: {error.strerror}.") from error


def _search_lines(table: SearchTable, recall: float) -> list[str]:
    first = f"{table.patches:,} patches, D = {table.dimension}, {table.queries:,} queries, {table.threads} threads"
    quality = f"{'recall@1':>9} {'NCC ratio':>10} {'queries/s':>10} {'certified':>10}"
    header = f"{'':14} {'setting':>8} {quality} {'build':>9} {'bytes':>7}"
    lines = [f"{first}, {table.matrix_gflops:.0f} GFLOP/s in a large product, scan on {table.scan_device}", header]
    for row in table.rows:
        setting = "" if row.setting is None else str(row.setting)
        build = "" if row.build_seconds is None else f"{row.build_seconds:.1f} s"
        size = "" if row.bytes_per_patch is None else f"{row.bytes_per_patch:.0f}"
        lines.append(
            f"{row.searcher:14} {setting:>8} {row.recall:>9.4f} {row.ncc_ratio:>10.5f} {row.queries_per_second:>10.0f}"
            f" {row.certified:>10.1%} {build:>9} {size:>7}"
        )
    tree = speed_at(table.rows, "tree", recall)
    for name in dict.fromkeys(row.searcher for row in table.rows if row.searcher in BASELINES):
        theirs = speed_at(table.rows, name, recall)
        if tree and theirs:
            lines.append(
                f"at recall {recall}: tree {tree:.0f}, {name} {theirs:.0f} queries/s: {tree / theirs:.1f} times"
            )
    return lines


def _growth_lines(growth: Growth) -> list[str]:
    lines = [f"{'patches':>10} {'leaves':>7} {'build':>9} {'us/query':>9} {'bytes':>7} {'memory':>9}"]
    for size in growth.sizes:
        query = "-" if size.seconds_per_query is None else f"{size.seconds_per_query * 1e6:.0f}"
        lines.append(
            f"{size.patches:>10,} {size.leaves:>7} {size.build_seconds:>7.1f} s {query:>9} {size.bytes_per_patch:>7.0f}"
            f" {size.memory_bytes / 2**30:>5.1f} GiB"
        )
    query_exponent = "-" if growth.query_exponent is None else f"{growth.query_exponent:.2f}"
    return [
        *lines,
        f"at recall {growth.recall}: build ~ patches^{growth.build_exponent:.2f}, query ~ ^{query_exponent}",
    ]


def _paper_lines(rows: Sequence[PaperFigures]) -> list[str]:
    lines = [f"{'':8} {'':9} {'s/patch':>10} {'s/image':>9} {'recall@1':>9} {'NCC ratio':>10} {'paper s/patch':>14}"]
    for row in rows:
        paper = "-" if row.paper is None else f"{row.paper:.2e}"
        lines.append(
            f"{row.layer:8} {row.searcher:9} {row.seconds_per_patch:>10.2e} {row.seconds_per_image:>9.3f}"
            f" {row.recall:>9.4f} {row.ncc_ratio:>10.5f} {paper:>14}"
        )
    return lines
