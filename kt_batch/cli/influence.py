"""The command `influence`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field

from kt_batch.cli import options
from kt_batch.cli.arguments import expand
from kt_batch.cli.output import print_summary
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.evaluation.influence import Question, influence
from kt_batch.evaluation.left_out import By
from kt_batch.maintenance.made_with import MadeWith
from kt_batch.report.influence_page import PLURALS, InfluencePage
from kt_batch.report.session import Session
from kt_batch.store.image_filters import ImageFilter

AS_MADE = "As the run was made with."


def add_influence(app: typer.Typer) -> None:
    """Give an app the command."""
    app.command("influence")(expand(influence_command))


class InfluenceOptions(options.Options):
    """Options of what is left out, and of what the run was made with, where it does not say that itself."""

    by: By = Field(
        "source",
        description="What is left out at a time: a source, which is an image, a pair, or of stylebank a filter bank; "
        "or all images of a library, of a run of several.",
    )
    sources: int = Field(6, ge=1, le=64, description="Most sources, or libraries, that are left out.")
    library: tuple[str, ...] = Field(
        (), description="Where the run's library is now, if it moved; of several, one for each, in order."
    )
    only_tag: tuple[str, ...] = Field((), description=AS_MADE)
    only_license: tuple[str, ...] = Field((), description=AS_MADE)
    only_image: tuple[str, ...] = Field((), description=AS_MADE)
    where: str | None = Field(None, description=AS_MADE)
    encoder_weights: str | None = Field(None, description="The encoder that the run was made with, if it was a file.")
    decoder_weights: str | None = Field(None, description="A decoder trained for this encoder.")
    mask: str | None = Field(None, description="Where the run's label images are now, if they moved.")
    bank: tuple[str, ...] = Field(
        (), description="Where the run's filter banks are now, if they moved: all, in any order."
    )
    network: str | None = Field(None, description="Where the network of the filter banks is now.")

    def given(self) -> MadeWith:
        """Return what the run was made with, as far as it is given."""
        return MadeWith(
            libraries=self.library,
            only=ImageFilter(self.only_tag, self.only_license, self.only_image, self.where),
            encoder_weights=self.encoder_weights,
            decoder_weights=self.decoder_weights,
            mask=self.mask,
            banks=self.bank,
            network=self.network,
        )


def influence_command(
    run: Annotated[str, typer.Argument(help="The run.")],
    output: Annotated[str, typer.Argument(help="An output, such as images/a.jpg.png, or its input, a.jpg.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The folder for the page, index.html, and its pictures.")],
    asked: InfluenceOptions,
    json: options.Json = False,
) -> int:
    """Leave out each of the main sources of a picture, make it again, and show what changes.

    kt-batch influence run holiday.jpg --out sheet
    """
    question, request = Question(output, asked.sources, asked.by), asked.given()
    with ExitStack() as stack:
        page = stack.enter_context(InfluencePage(out, run))
        display = stack.enter_context(ProgressDisplay())
        content = asdict(influence(run, question, request, page.add, display))
        place = page.write(content, Session.open(run, asked.library or None))
    print_summary({"page": str(place), **content}, [*influence_lines(content), f"Open {place}"], json)
    return 0


def influence_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the figures for a person."""
    lines = [f"{report['output']}, without each of its main {PLURALS[report['left_out']]}:"]
    for source in report["sources"]:
        start = f"  {source['uri'] or source['id']}: share {source['share']:.1%}"
        if source["absent"]:
            lines.append(f"{start}, {source['absent']}")
            continue
        line = f"{start}, change {255 * source['change']:.2f} of 255"
        if source["sources_changed"] is not None:
            line += f", other sources {source['sources_changed']:.1%}, mean NCC {-source['ncc_loss']:+.4f}"
        lines.append(line)
    more = [f"  {report['left']} more {PLURALS[report['left_out']]} have smaller shares"] if report["left"] else []
    return [*lines, *more]
