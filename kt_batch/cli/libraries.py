"""The command `libraries`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from kt_batch.cli import options
from kt_batch.cli.output import print_summary
from kt_batch.report.collections import LibraryRow, list_libraries
from kt_batch.store.collections import DEPTH

HEADER = ("images", "patches", "layers", "licence", "size", "index", "library")


def add_libraries(app: typer.Typer) -> None:
    """Give an app the command of this module."""
    app.command("libraries")(libraries_command)


def libraries_command(
    place: Annotated[
        str, typer.Argument(help=f"A folder or s3://bucket/prefix; libraries up to {DEPTH} folders below it are found.")
    ],
    json: options.Json = False,
) -> int:
    """List the libraries below a place: images, patches, layers, licence, size and index.

    kt-batch libraries s3://bucket/libs
    """
    rows = list_libraries(place)
    print_summary({"place": place, "libraries": [asdict(row) for row in rows]}, library_lines(place, rows), json)
    return 0


def library_lines(place: str, rows: Sequence[LibraryRow]) -> list[str]:
    """Return the rows as a table for a person."""
    if not rows:
        return [f"no library at '{place}' or up to {DEPTH} folders below it"]
    cells = [HEADER, *(_cells(row) for row in rows if not row.reason)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER) - 1)]
    lines = [
        "  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[-1]]) for line in cells
    ]
    return [*lines, *(f"cannot be read: {row.place}: {row.reason}" for row in rows if row.reason)]


def _cells(row: LibraryRow) -> tuple[str, ...]:
    index = "none" if row.index is None else f"{row.index} ({row.index_state})"
    licences = ", ".join(row.licenses) or "-"
    size = f"{row.bytes / 1e6:,.1f} MB"
    patches = "pairs" if row.kind == "pairs" else f"{row.patches:,}"
    return f"{row.images:,}", patches, ", ".join(row.keys), licences, size, index, row.place
