"""The commands that measure how good results are: `evaluate pairs`; `evaluate style` is in `style.py`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kt_batch.cli import options
from kt_batch.cli.arguments import expand
from kt_batch.cli.output import print_summary
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.cli.style import add_style
from kt_batch.evaluation.paired_library import evaluate_library
from kt_batch.evaluation.pairs import PairsReport
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.pipelines.numerics import fix_numerics
from kt_batch.report.pairs_page import pairs_page, pairs_page_start
from kt_batch.store.targets import Inputs, Target


def make_evaluate_app() -> typer.Typer:
    """Return the group `evaluate`."""
    made = typer.Typer(help="Measure how good results are.", no_args_is_help=True)
    made.callback()(_evaluate)
    made.command("pairs")(expand(evaluate_pairs_command))
    add_style(made)
    return made


def _evaluate() -> None:
    """Measure how good results are."""


def evaluate_pairs_command(
    library: Annotated[str, typer.Argument(help="A paired library: a directory or s3://bucket/prefix.")],
    *,
    html: Annotated[Path | None, typer.Option("--html", help="Write the figures as a page to this file.")] = None,
    statistics_swap: Annotated[
        bool,
        typer.Option(
            "--statistics-swap", help="Compare with the paper's statistics swap too, which takes seconds a pair."
        ),
    ] = False,
    how: options.Threads,
    force: options.Force = False,
    json: options.Json = False,
) -> int:
    """Measure what the pairs of a paired library teach, on photographs that were left out.

    kt-batch evaluate pairs mine.pairs --html mine.html
    """
    target = Target("--html", html, Inputs(places=(library,)), force, pairs_page_start()) if html else None
    if target:
        target.check()
    fix_numerics(how.threads)
    with ProgressDisplay() as display:
        report, names = evaluate_library(library, FitConfig(), display, statistics_swap)
    content = asdict(report)
    if target:
        target.write(pairs_page(library, content, names).encode())
    print_summary({"library": library, "names": names, **content}, pairs_lines(report), json)
    return 0


def pairs_lines(report: PairsReport) -> list[str]:
    """Return the figures for a person."""
    lines = [report.sentence]
    lines += [f"  warning: {report.warning}"] if report.warning else []
    lines += ["  pairs of one photograph were left out together"] if report.photographs < report.pairs else []
    lines.append(f"  {'':29s}   PSNR   SSIM  CIEDE2000  detail  much worse than no edit")
    for name, method in sorted(report.methods.items(), key=lambda item: -item[1].psnr):
        lines.append(
            f"  {name:29s}  {method.psnr:5.2f}  {method.ssim:5.3f}  {method.ciede2000:9.1f}  {method.detail:6.4f}  "
            f"{method.much_worse} of {report.pairs}"
        )
    gains = (
        f"  {gain.mean:+.2f} dB over {gain.over} (95 %: {gain.low:+.2f} to {gain.high:+.2f})" for gain in report.gains
    )
    return [*lines, *gains]


evaluate_app = make_evaluate_app()
