"""The command `banks`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from kt_batch.cli import options
from kt_batch.cli.output import print_summary
from kt_batch.models.banks import SHIPPED
from kt_batch.report.banks import BankRow, list_banks

HEADER = ("name", "style image", "kernel", "style loss", "steps", "size", "network", "file")
WIDEST = 40  # characters of a name, which may be a stranger's


def banks_command(
    place: Annotated[
        str | None, typer.Argument(help="A folder or s3://bucket/prefix; banks at any depth are found.")
    ] = None,
    json: options.Json = False,
) -> int:
    """List the filter banks below a place: name, style image, kernel, loss, size and the network of each.

    Without a place: those that are shipped, which `--bank` takes by name.

    kt-batch banks trained/weights
    """
    place = str(SHIPPED) if place is None else place
    rows = list_banks(place)
    print_summary({"place": place, "banks": [asdict(row) for row in rows]}, bank_lines(place, rows), json)
    return 0


def bank_lines(place: str, rows: Sequence[BankRow]) -> list[str]:
    """Return the rows as a table for a person."""
    if not rows:
        return [f"no filter bank at '{place}' or below it"]
    cells = [HEADER, *(_cells(row) for row in rows if not row.reason)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER) - 1)]
    lines = [
        "  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[-1]]) for line in cells
    ]
    return [*lines, *(f"cannot be read: {row.file}: {row.reason}" for row in rows if row.reason)]


def _cut(name: str) -> str:
    return name if len(name) <= WIDEST else f"{name[: WIDEST - 3]}..."


def _cells(row: BankRow) -> tuple[str, ...]:
    loss = f"{row.losses['style']:.4f}" if "style" in row.losses else "-"
    steps = f"{row.steps:,}{' (added)' if row.added else ''}"
    first, *more = (_cut(name) for name in row.images.values())
    images = f"{first} and {len(more):,} more" if more else first
    size = f"{row.bytes / 1e3:,.0f} kB"
    return _cut(row.name), images, f"{row.kernel} x {row.kernel}", loss, steps, size, row.network[:16], row.file
