"""The command `demo`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kt_batch.cli import options
from kt_batch.cli.arguments import Fields, expand
from kt_batch.cli.output import print_summary
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.cli.runner import make_runner
from kt_batch.config import ExtractConfig, RunOptions
from kt_batch.demo.demo import demo

DemoRun = Annotated[RunOptions, Fields(only=("runner", "workers", "threads"), defaults={"runner": "ray"})]


def add_demo(app: typer.Typer) -> None:
    """Give an app the command."""
    app.command("demo")(expand(demo_command))


def demo_command(
    *,
    out: Annotated[Path, typer.Option("--out", help="The folder for everything that the demo makes.")] = Path(
        "demo-out"
    ),
    how: DemoRun,
    json: options.Json = False,
) -> int:
    """Run the main job offline on bundled photographs, and print the pages to open.

    kt-batch demo --out demo-out
    """
    source, encoder = options.new_encoder(options.EncoderOptions(), options.CutOptions())
    with make_runner(how) as running, ProgressDisplay() as display:
        summary = demo(out, ExtractConfig(encoder=encoder), source, how, running, display)
    learned = summary.retouching
    taught = f"{learned.pairs} pairs of a scripted hand taught edits of {learned.learned_db:.1f} dB PSNR against its"
    lines = [f"Open {summary.sheet}", f"Open {learned.page}", f"  {taught}; unedited: {learned.unedited_db:.1f} dB"]
    print_summary(asdict(summary), lines, json)
    return 0
