"""The command `evaluate style`."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field
from torch import Tensor

from kt_batch.cli import options
from kt_batch.cli.arguments import expand
from kt_batch.cli.contenders import PaintingBankOptions, read_contenders
from kt_batch.cli.output import counted, print_summary
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.config import DEFAULT_SIZE, LARGEST_SIZE
from kt_batch.errors import StorageError, UsageError
from kt_batch.evaluation.style.compare import Show
from kt_batch.evaluation.style.contenders import Contender, OwnMethod, Unedited, result_names
from kt_batch.evaluation.style.evaluate import StylePictures, evaluate_style, load_network, spread_pairs
from kt_batch.evaluation.style.peers import load_peers
from kt_batch.evaluation.style.pictures import Decode, StylePicture, bytes_of, read_pictures
from kt_batch.evaluation.style.pixels import SMALLEST_SIDE
from kt_batch.evaluation.style.report import MethodReport, StyleReport
from kt_batch.methods.features import to_pixels
from kt_batch.methods.table import DEFAULT
from kt_batch.pipelines.numerics import fix_numerics
from kt_batch.report.style_page import COLUMNS, UNEDITED, StylePage
from kt_batch.store.images.files import encode
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.targets import Inputs, write_file


def add_style(app: typer.Typer) -> None:
    """Give an app the command."""
    app.command("style")(expand(style_command))


class Compared(PaintingBankOptions):
    """Options that choose what is compared, and by what."""

    method: Annotated[tuple[str, ...], typer.Option("--method", metavar="<NAME[:SETTING=VALUE,...]>")] = Field(
        (),
        description="A method or a preset with some of its settings, as in knowledge:alpha=0.5; the setting layer says "
        f"where its encoder is cut. May be repeated. Default: {DEFAULT}, unless --results or --peer-weights is given.",
    )
    results: Annotated[tuple[str, ...], typer.Option("--results", metavar="<NAME=DIR>")] = Field(
        (),
        description="A folder of finished pictures called PHOTOGRAPH__PAINTING.png, both names without endings; may be "
        "repeated.",
    )
    peer_weights: Path | None = Field(
        None, description="A folder with the published networks of AdaIN, WCT and style-swap."
    )
    vgg_weights: Annotated[str | None, typer.Option("--vgg-weights", metavar="<FILE|torchvision>")] = Field(
        None, description="VGG-19 for style distance and structure, which are left out without it."
    )
    size: int = Field(
        DEFAULT_SIZE,
        ge=SMALLEST_SIDE,
        le=LARGEST_SIZE,
        description="Long side of all pictures in pixels; none is enlarged.",
    )

    def contenders(self, decode: Decode) -> tuple[list[Contender], dict[str, str]]:
        """Return those that are compared, the photograph first, and why others are absent.

        decode: reads finished pictures.
        """
        chosen = self.method or (() if self.results or self.peer_weights else (DEFAULT,))
        peers, absent = load_peers(self.peer_weights) if self.peer_weights else ([], {})
        return [Unedited(), *read_contenders(chosen, self.results, self.size, self, decode), *peers], absent


class Written(options.Options):
    """Options of what is written beside the figures."""

    out: Path | None = Field(None, description="The folder for a page, index.html, and its pictures.")
    images: int = Field(24, ge=1, description="Most pairs on the page.")
    pictures: Path | None = Field(None, description="A new folder for all results: METHOD/PHOTOGRAPH__PAINTING.png.")


def style_command(
    photographs: Annotated[list[str], typer.Argument(help="Photographs: paths, folders, globs or URIs.")],
    style: Annotated[list[str], typer.Option("--style", help="A painting, or a place of paintings; may be repeated.")],
    *,
    compared: Compared,
    written: Written,
    how: options.Threads,
    json: options.Json = False,
) -> int:
    """Measure how far results take over a painting's look, and how much of the photograph they keep.

    Every photograph is combined with every painting, by every method.

    kt-batch evaluate style photos --style paintings --method knowledge --method knowledge:alpha=0.5 --out sheet
    """
    numerics = fix_numerics(how.threads)
    writer = ResultFolder(written.pictures) if written.pictures else None
    with ExitStack() as stack:
        decode = stack.enter_context(ImageReaderProcess()).decode
        contenders, absent = compared.contenders(decode)
        network = load_network(compared.vgg_weights)
        given = StylePictures(
            photographs=read_pictures(photographs, compared.size, "photographs", decode),
            paintings=read_pictures(style, compared.size, "paintings", decode),
            size=compared.size,
        )
        compared.check_paintings(contenders, given.paintings)
        ours = [each.with_banks_of(given.paintings) if isinstance(each, OwnMethod) else each for each in contenders]
        page = None
        if written.out:
            inputs = Inputs(images=[*photographs, *style])
            page = stack.enter_context(StylePage(written.out, inputs, spread_pairs(given, written.images)))
            for painting in given.paintings:
                page.add_painting(painting.id, bytes_of(painting.image))
        display = stack.enter_context(ProgressDisplay())
        report = evaluate_style(given, ours, absent, network, numerics, _show(page, writer), display)
        content = asdict(report)
        place = str(page.write(content)) if page else None
    lines = [*style_lines(report), *([f"Open {place}"] if place else [])]
    print_summary({"page": place, **content}, lines, json)
    return 0


class ResultFolder:
    """Writes every result into a folder of its method."""

    def __init__(self, root: Path) -> None:
        """Make the folder. Raises UsageError when it holds files, and StorageError when it cannot be made."""
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise UsageError(f"--pictures '{root}' exists already and is no empty folder; name a new one.")
        self._root = root
        self._made: dict[str, Path] = {}

    def put(self, photograph: StylePicture, painting: StylePicture, method: str, result: Tensor) -> None:
        """Write one result as PNG. Methods whose names give one folder name are told apart by a number."""
        if method not in self._made:
            plain = re.sub(r"[^\w.=-]+", "-", method, flags=re.ASCII).strip(".-") or "method"
            taken = {path.name for path in self._made.values()}
            names = (plain, *(f"{plain}-{number}" for number in range(1, len(taken) + 1)))
            name = next(each for each in names if each not in taken)
            self._made[method] = self._root / name
            try:
                self._made[method].mkdir(parents=True)
            except OSError as error:
                raise StorageError(f"The folder '{self._made[method]}' cannot be made: {error.strerror}.") from error
        name, _ = result_names(photograph, painting)
        write_file(self._made[method] / f"{name}.png", encode(to_pixels(result), "png", 100))


def _show(page: StylePage | None, writer: ResultFolder | None) -> Show:
    def show(photograph: StylePicture, painting: StylePicture, method: str, result: Tensor) -> None:
        if page:
            page.add((photograph.id, painting.id), method, bytes_of(result))
        if writer and method != UNEDITED:
            writer.put(photograph, painting, method, result)

    return show


def style_lines(report: StyleReport) -> list[str]:
    """Return the figures for a person."""
    columns = [column for column in COLUMNS if column[0] not in report.absent]
    width = max(len(method.name) for method in report.methods)
    headings = "  ".join(f"{heading.lower():>14s}" for _, heading, _ in columns)
    counts = f"{counted(len(report.photographs), 'photograph')} after {counted(len(report.paintings), 'painting')}"
    lines = [
        f"{counts}, long side at most {report.size} pixels. Means and their 95 % intervals:",
        f"  {'':{width}s}  pairs  {headings}  seconds",
    ]
    for method in report.methods:
        lines += _method_lines(method, columns, width)
    lines += [f"No {measure.replace('_', ' ')}: {reason}." for measure, reason in report.absent.items()]
    if own := next((m.means["painting_sharpness"] for m in report.methods if m.means), None):
        lines.append(f"The paintings' own sharpness is {own.mean:.3f}.")
    return lines


def _method_lines(method: MethodReport, columns: list[tuple[str, str, int]], width: int) -> list[str]:
    if method.absent is not None:
        return [f"  {method.name:{width}s}  absent: {method.absent}"]
    means, bounds = [], []
    for key, _, digits in columns:
        found = method.means.get(key)
        means.append(f"{found.mean:14.{digits}f}" if found else f"{'-':>14s}")
        bounds.append(f"{f'{found.low:.{digits}f}..{found.high:.{digits}f}':>14s}" if found else f"{'':14s}")
    seconds = "-" if method.seconds is None else f"{method.seconds:.1f}"
    lines = [
        f"  {method.name:{width}s}  {method.pairs:5d}  {'  '.join(means)}  {seconds:>7s}",
        f"  {'':{width}s}  {'':5s}  {'  '.join(bounds)}".rstrip(),
    ]
    if method.missing:
        lines.append(f"    missing results: {len(method.missing)}; the first: {method.missing[0]}")
    return lines
