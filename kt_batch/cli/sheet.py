"""The command `sheet`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from kt_batch.cli import options
from kt_batch.cli.output import print_summary
from kt_batch.errors import UsageError
from kt_batch.report.sheet import Extras, write_sheet

Runs = Annotated[list[str], typer.Argument(help="One run, or several of the same images to compare.")]


def add_sheet(app: typer.Typer) -> None:
    """Give an app the command."""
    app.command("sheet")(sheet_command)


def sheet_command(
    runs: Runs,
    out: Annotated[Path, typer.Option("--out", help="The folder for the page, index.html, and its pictures.")],
    images: Annotated[int, typer.Option("--images", min=1, help="Most images on the page.")] = 30,
    review_below: options.ReviewBelow = None,
    json: options.Json = False,
) -> int:
    """Write a contact sheet: inputs, results, and what they were made of; doubtful edits come first.

    kt-batch sheet run --out sheet
    """
    page = write_sheet(titles(runs), out, images, Extras(below=review_below))
    print_summary({"page": str(page)}, [f"Open {page}"], json)
    return 0


def titles(runs: Sequence[str]) -> dict[str, str]:
    """Return title -> run: the last part of its place, or the whole place where two runs share that.

    Raises:
        UsageError: a run is named twice.
    """
    if len(set(runs)) < len(runs):
        twice = next(run for run in runs if runs.count(run) > 1)
        raise UsageError(f"The run '{twice}' is named twice; name each run once.")
    short = [PurePosixPath(run).name for run in runs]
    return {name if name and short.count(name) == 1 else run: run for name, run in zip(short, runs, strict=True)}
