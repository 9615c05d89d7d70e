"""The command `influence`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from kt_batch.cli import options
from kt_batch.cli.output import print_summary
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.evaluation.influence import influence
from kt_batch.maintenance.made_with import MadeWith
from kt_batch.report.influence_page import InfluencePage
from kt_batch.report.session import Session


def add_influence(app: typer.Typer) -> None:
    """Give an app the command."""
    app.command("influence")(influence_command)


def influence_command(
    run: Annotated[str, typer.Argument(help="The run.")],
    output: Annotated[str, typer.Argument(help="An output, such as images/a.jpg.png, or its input, a.jpg.")],
    out: Annotated[Path, typer.Option("--out", help="The folder for the page, index.html, and its pictures.")],
    sources: Annotated[int, typer.Option("--sources", min=1, max=64, help="Most sources that are left out.")] = 6,
    library: Annotated[str | None, typer.Option("--library", help="Where the library is now, if it moved.")] = None,
    encoder_weights: Annotated[
        str | None, typer.Option("--encoder-weights", help="The encoder that the run was made with, if it was a file.")
    ] = None,
    decoder_weights: options.DecoderWeights = None,
    json: options.Json = False,
) -> int:
    """Leave out each of the main sources of a picture, make it again, and show what changes.

    kt-batch influence run holiday.jpg --out sheet
    """
    libraries = (library,) if library else ()
    request = MadeWith(libraries, encoder_weights=encoder_weights, decoder_weights=decoder_weights)
    with ExitStack() as stack:
        page = stack.enter_context(InfluencePage(out, run))
        display = stack.enter_context(ProgressDisplay())
        content = asdict(influence(run, output, sources, request, page.add, display))
        place = page.write(content, Session.open(run, library))
    print_summary({"page": str(place), **content}, [*influence_lines(content), f"Open {place}"], json)
    return 0


def influence_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the figures for a person."""
    lines = [f"{report['output']}, without each of its main sources:"]
    for source in report["sources"]:
        start = f"  {source['uri'] or source['image_id']}: share {source['share']:.1%}"
        if source["absent"]:
            lines.append(f"{start}, {source['absent']}")
            continue
        line = f"{start}, change {255 * source['change']:.2f} of 255"
        if source["sources_changed"] is not None:
            line += f", other sources {source['sources_changed']:.1%}, mean NCC {-source['ncc_loss']:+.4f}"
        lines.append(line)
    return [*lines, *([f"  {report['left']} more sources have smaller shares"] if report["left"] else [])]
