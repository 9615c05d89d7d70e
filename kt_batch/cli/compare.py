"""The command `compare`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field
from torch import Tensor

from kt_batch.cli import options
from kt_batch.cli.arguments import expand
from kt_batch.cli.contenders import Chosen, PaintingBankOptions, own_methods, parse_method
from kt_batch.cli.output import counted, print_summary
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.config import LARGEST_SIZE
from kt_batch.evaluation.style.compare import Show
from kt_batch.evaluation.style.contenders import OwnMethod, lacking
from kt_batch.evaluation.style.evaluate import StylePictures, load_network
from kt_batch.evaluation.style.pictures import StylePicture, bytes_of, read_usable
from kt_batch.evaluation.style.pixels import SMALLEST_SIDE
from kt_batch.evaluation.style.side_by_side import MethodRow, compare_side_by_side, for_paintings, settings_of
from kt_batch.methods.table import METHODS
from kt_batch.pipelines.numerics import fix_numerics
from kt_batch.report.compare_page import ComparePage, figures_of, means_of, origin_of
from kt_batch.report.style_page import COLUMNS
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.targets import Inputs

ALL = "all"
DEFAULT_SIDE = 256  # pixels; at it, the methods that optimise pixels take minutes and not hours


def between_methods(text: str) -> list[str]:
    """Return the methods of a text such as `adain,wct:alpha=1,levels=2`: a comma before SETTING=VALUE divides none."""
    found: list[str] = []
    for part in text.split(","):
        name, equals, _ = part.partition("=")
        if found and equals and ":" not in name:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def add_compare(app: typer.Typer) -> None:
    """Give an app the command."""
    app.command("compare")(expand(compare_command))


class Compared(PaintingBankOptions):
    """Options that choose what is compared, and by what."""

    methods: Annotated[tuple[str, ...], typer.Option("--methods", metavar="<all|NAME[:SETTING=VALUE,...],...>")] = (
        Field(
            (ALL,),
            description="Methods or presets, with some of their settings as in knowledge:alpha=0.5; the setting layer "
            "says where the encoder is cut. May be repeated. all: every method, painting as its preset.",
        )
    )
    vgg_weights: Annotated[str | None, typer.Option("--vgg-weights", metavar="<FILE|torchvision>")] = Field(
        None, description="VGG-19 for style distance and structure, which are left out without it."
    )
    size: int = Field(
        DEFAULT_SIDE,
        ge=SMALLEST_SIDE,
        le=LARGEST_SIZE,
        description="Long side of all pictures in pixels; none is enlarged.",
    )

    def chosen(self) -> list[OwnMethod | MethodRow]:
        """Return the methods, each once; a row with a reason for one that needs more than a painting or its bank.

        Raises:
            UsageError: There is no such method or preset, a setting is unknown or not allowed, or a bank is not.
            WeightsError: A bank cannot be read.
            MismatchError: A bank belongs to another network.
        """
        names = [name for text in self.methods for name in between_methods(text)]
        texts = dict.fromkeys(each for name in names for each in (METHODS if name == ALL else (name,)))
        chosen = [parse_method(text, "--methods") for text in texts]
        ours = {each.name: each for each in own_methods([c for c in chosen if not lacking(c.method)], self.size, self)}
        return [ours.get(each.text) or _without(each) for each in chosen]


def _without(chosen: Chosen) -> MethodRow:
    """Return the row of a method that needs more than a painting or its bank."""
    reason = f"The method {chosen.method} needs {lacking(chosen.method)}, which no painting gives."
    return MethodRow(chosen.text, settings_of({"method": chosen.method, **chosen.values}), absent=reason)


def compare_command(
    photographs: Annotated[list[str], typer.Argument(help="Photographs: paths, folders, globs or URIs.")],
    style: Annotated[list[str], typer.Option("--style", help="A painting, or a place of paintings; may be repeated.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The folder for index.html, its pictures and compare.json.")],
    compared: Compared,
    how: options.Threads,
    json: options.Json = False,
) -> int:
    """Show every method on the same pictures: one page, with seconds, memory and measures of each.

    Each method runs in a process of its own. A picture that cannot be made leaves its place empty, with the reason.
    An image that cannot be used is passed over and named.
    The method stylebank follows the paintings that a filter bank was trained for: --bank, or the shipped ones.

    kt-batch compare photos --style paintings --out sheet

    kt-batch compare photo.jpg --style starry_night.jpg --methods painting,wct,gatys --out sheet
    """
    numerics = fix_numerics(how.threads)
    methods = compared.chosen()
    with ExitStack() as stack:
        decode = stack.enter_context(ImageReaderProcess()).decode
        network = load_network(compared.vgg_weights)
        ours, passed_over = read_usable(photographs, compared.size, "photographs", decode)
        paintings, others = read_usable(style, compared.size, "paintings", decode)
        given = StylePictures(ours, paintings, compared.size)
        compared.check_paintings(methods, given.paintings)
        rows = [for_paintings(each, given.paintings) if isinstance(each, OwnMethod) else each for each in methods]
        page = stack.enter_context(ComparePage(out, Inputs(images=[*photographs, *style])))
        for painting in given.paintings:
            page.add_painting(painting.id, bytes_of(painting.image))
        display = stack.enter_context(ProgressDisplay())
        report = compare_side_by_side(given, rows, network, numerics, _show(page), display)
        content = asdict(replace(report, unusable=(*passed_over, *others)))
        index, table = page.write(content)
    lines = [*compare_lines(content), f"Open {index}"]
    print_summary({"page": str(index), "table": str(table), **content}, lines, json)
    return 0


def _show(page: ComparePage) -> Show:
    def show(photograph: StylePicture, painting: StylePicture, method: str, result: Tensor) -> None:
        page.add((photograph.id, painting.id), method, bytes_of(result))

    return show


def compare_lines(report: dict[str, Any]) -> list[str]:
    """Return the figures of `dataclasses.asdict` of a SideBySide for a person, and the images that were passed over."""
    columns = [column for column in COLUMNS if column[0] not in report["absent"]]
    names = max(len(method["name"]) for method in report["methods"])
    table = [["pairs", "seconds", "preparation", "training", "MB", *(heading.lower() for _, heading, _ in columns)]]
    table += [[*figures_of(method), *means_of(method["means"], columns)] for method in report["methods"]]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    headings, *cells = (
        "  ".join(f"{cell:>{width}s}" for cell, width in zip(row, widths, strict=True)) for row in table
    )
    counts = (
        f"{counted(len(report['photographs']), 'photograph')} after {counted(len(report['paintings']), 'painting')}"
    )
    lines = [
        f"{counts}, long side at most {report['size']} pixels:",
        f"  {'':{names}s}  {headings}",
    ]
    for method, figures in zip(report["methods"], cells, strict=True):
        if method["absent"] is not None:
            lines.append(f"  {method['name']:{names}s}  no picture: {method['absent']}")
            continue
        lines += [f"  {method['name']:{names}s}  {figures}", f"    says of its origin: {origin_of(method)}"]
        if method["failures"]:
            lines.append(
                f"    missing pictures: {len(method['failures'])}; the first: {method['failures'][0]['reason']}"
            )
    lines += [f"No {measure.replace('_', ' ')}: {reason}." for measure, reason in report["absent"].items()]
    return [*lines, *(f"Passed over: {each['reason']}" for each in report["unusable"])]
