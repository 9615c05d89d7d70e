"""The commands that read a library, a run or an image: `explain` and `inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
import yaml

from kt_batch.cli import options
from kt_batch.cli.exit_codes import STRICT
from kt_batch.cli.output import print_summary, print_text
from kt_batch.errors import UsageError
from kt_batch.report.contributions import Contribution, Explanation, LevelSources
from kt_batch.report.explain import explain
from kt_batch.report.inspect import inspect
from kt_batch.report.inspect_image import image_at, inspect_image, lines_of
from kt_batch.report.recorded_edits import RecordedEdit
from kt_batch.report.views import sql as view_sql


def add_inspection(app: typer.Typer) -> None:
    """Give an app the commands of this module."""
    app.command("explain")(explain_command)
    app.command("inspect")(inspect_command)


def explain_command(
    run: Annotated[str, typer.Argument(help="The run.")],
    output: Annotated[str, typer.Argument(help="An output, such as images/a.jpg.png, or its input, a.jpg.")],
    at: Annotated[str, typer.Option("--at", help="A pixel of the output, as X,Y.")],
    library: options.MovedLibraries = None,
    every: Annotated[
        bool, typer.Option("--all", help="Of a painting, also the levels between form and texture. JSON has all.")
    ] = False,
    json: options.Json = False,
) -> int:
    """Show where a pixel came from: source images, boxes, NCC and weights.

    kt-batch explain run holiday.jpg --at 120,80
    """
    x, y = parse_pixel(at)
    explanation = explain(run, output, x, y, library)
    if every and not explanation.levels:
        raise UsageError(f"--all has no effect on '{run}': its outputs have no levels; leave it out.")
    lines = [
        f"pixel {x},{y} of {explanation.output} ({explanation.width} x {explanation.height}), from {explanation.input}"
    ]
    lines += level_lines(explanation.levels, every) or contribution_lines(explanation.contributions)
    lines += enlarged_lines(explanation)
    lines += edit_lines(explanation.edit)
    if explanation.sources and explanation.edit is None:
        lines.append("Shares of the whole picture, not of the pixel:")
    lines += [f"  {source.share:5.1%}  {source.uri}{tags_shown(source.tags)}" for source in explanation.sources]
    print_summary(explanation.to_dict(), lines, json)
    return 0


def contribution_lines(contributions: Sequence[Contribution]) -> list[str]:
    """Return a line for each source patch: weight, NCC, pixels of which file."""
    return [
        f"  {part.weight:5.1%}  NCC {part.ncc:.3f}  pixels {part.file_box.x0},{part.file_box.y0} to "
        f"{part.file_box.x1},{part.file_box.y1} of {part.uris[0]}{tags_shown(part.tags)}"
        for part in contributions
    ]


def level_lines(levels: Sequence[LevelSources], every: bool) -> list[str]:
    """Return the sources of a pixel's form and of its texture; with `every`, also those of the levels between."""
    lines = []
    for number, level in enumerate(levels):
        first, last = number == 0, number == len(levels) - 1
        if first or last or every:
            name = "Form and texture" if first and last else "Form" if first else "Texture" if last else "Between"
            lines += [f"{name} ({level.level}):", *contribution_lines(level.contributions)]
    return lines


def enlarged_lines(explanation: Explanation) -> list[str]:
    """Return where the detail of an enlarged picture comes from, for a person; nothing for other pictures."""
    if explanation.enlarged_from is None:
        return []
    width, height = explanation.enlarged_from
    return [f"Finer detail: the photograph's own, in painted colours (painted at {width} x {height}, then enlarged)"]


def edit_lines(edit: RecordedEdit | None) -> list[str]:
    """Return what is recorded of an edit, for a person."""
    if edit is None:
        return []
    facts = f"confidence {edit.confidence:.2f}, guard {edit.guard:.2f}, strength {edit.strength:g}"
    lines = [f"  edited after the pairs of {edit.library}: {facts}"]
    if edit.series and edit.series.photographs > 1:
        lines.append(
            f"  the edit is shared by {edit.series.photographs} photographs, the series {edit.series.name}; its "
            f"confidence is {edit.confidence:.2f}"
        )
    return lines


def tags_shown(tags: Sequence[str]) -> str:
    """Return the tags of a source in brackets; nothing without any."""
    return f"  [{', '.join(tags)}]" if tags else ""


def parse_pixel(text: str) -> tuple[int, int]:
    """Read `120,80` as (120, 80). Raises UsageError."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--at is a pixel such as 120,80, not '{text}'.")
    return int(parts[0]), int(parts[1])


def inspect_command(
    place: Annotated[str, typer.Argument(help="A library or a run: a directory or s3://bucket/prefix. Or an image.")],
    sql: Annotated[bool, typer.Option("--sql", help="Print DuckDB views of its tables, to paste.")] = False,
    json: options.Json = False,
) -> int:
    """Show what a library or a run holds, or what is understood of an image.

    kt-batch inspect monet.lib
    kt-batch inspect photo.heic
    """
    if (image := image_at(place)) is not None:
        return _inspect_image(image, sql, json)
    if sql:
        print_text(view_sql(place))
        return 0
    facts = inspect(place)
    print_summary(facts, yaml.safe_dump(facts, sort_keys=False, allow_unicode=True).splitlines(), json)
    return 0


def _inspect_image(uri: str, sql: bool, json: bool) -> int:
    if sql:
        raise UsageError(f"--sql is for a library or a run, and {uri} is a file; leave the option out.")
    facts = inspect_image(uri)
    print_summary(facts, lines_of(facts), json)
    return STRICT.exit_code(int(facts["reject"] is not None), 1)
