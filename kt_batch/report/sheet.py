"""A contact sheet: inputs, results, the sources they were made of, and how well patches matched, as one page."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from kt_batch.errors import MismatchError, RejectError, StorageError, UnreachableError, UsageError
from kt_batch.models.layers import Geometry
from kt_batch.report.explain import image_size
from kt_batch.report.inspect import Matches, inspect
from kt_batch.report.pictures import Line, legend, lines_picture, ncc_cells, ncc_map, scaled
from kt_batch.report.sources import SourceImage, cells_of, library_of, patch_box, source_images
from kt_batch.store import layout
from kt_batch.store.images.files import decode
from kt_batch.store.inputs import read_input
from kt_batch.store.library import Library
from kt_batch.store.opening import open_run
from kt_batch.store.run import Output, Run, provenance_of

FOLDER = "sheet-files"  # beside index.html
LONG_SIDE = 768  # of the pictures on the page
SOURCES = 6  # shown for each input
LINES = (4, 3)  # the result is divided into 4 x 3 regions, and a line starts in each
LINE_SOURCES = 4
APART = 9  # cells between the ends of two lines: wider than the box that a patch sees
PERCENTILE = 1.0  # of NCC, where the scale of the maps starts


@dataclass(frozen=True)
class Picture:
    """A picture of the page: its file relative to the page, and its size in pixels."""

    file: str
    width: int
    height: int


@dataclass(frozen=True)
class Source:
    """An image that patches came from. `picture` is None when the library is not at hand."""

    name: str
    uri: str
    share: float
    picture: Picture | None
    license: str
    attribution: str


@dataclass(frozen=True)
class Result:
    """What one run made of an input; `picture` is None when it made nothing."""

    title: str
    picture: Picture | None


@dataclass(frozen=True)
class Matched:
    """What runs that matched alike have in common for one input."""

    titles: tuple[str, ...]
    ncc_map: Picture
    ncc_mean: float
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Entry:
    """One input."""

    name: str
    uri: str
    photo: Picture | None
    results: tuple[Result, ...]
    matched: tuple[Matched, ...]


@dataclass(frozen=True)
class _Shown:
    """A run on the page, with its library when that is at hand, and its outputs by the input's name."""

    title: str
    run: Run
    library: Library | None
    outputs: dict[str, Output]

    @property
    def matching(self) -> tuple[Any, ...]:
        """Everything that decides which patches match; runs with equal values share their maps and sources."""
        header, config = self.run.header, self.run.config
        search = tuple(sorted(config["search"].items()))
        return header.encoder, header.index_digest, search, config["temperature"], config["query_stride"]

    @property
    def cells(self) -> Geometry:
        return cells_of(self.run)


class _Folder:
    """Files beside the page, called after their own content: nothing on disk is called after anything that was read."""

    def __init__(self, root: Path) -> None:
        self._root = root / FOLDER
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write {self._root}: {error.strerror or error}") from error

    def put(self, image: Image.Image) -> Picture:
        """Store a drawing, without loss."""
        file = io.BytesIO()
        image.save(file, "PNG")
        return self._put(file.getvalue(), image.size, "png")

    def put_photo(self, image: Image.Image) -> Picture:
        """Store a photograph."""
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        return self._put(file.getvalue(), image.size, "jpg")

    def _put(self, data: bytes, size: tuple[int, int], suffix: str) -> Picture:
        name = f"{hashlib.sha256(data).hexdigest()[:16]}.{suffix}"
        try:
            (self._root / name).write_bytes(data)
        except OSError as error:
            raise StorageError(f"cannot write {self._root / name}: {error.strerror or error}") from error
        return Picture(f"{FOLDER}/{name}", *size)


def write_sheet(runs: Mapping[str, str], out: Path, inputs_shown: int = 6) -> Path:
    """Write `index.html` and its pictures into the directory `out` and return the page's path.

    `runs` maps a title to a run; the first one decides which inputs are shown, by name. The page needs no network and
    runs no script. Raises UsageError when there is nothing to show, MissingError when a place holds no run.
    """
    if inputs_shown < 1:
        raise UsageError(f"a sheet of {inputs_shown} inputs shows nothing; allowed is 1 and more")
    shown = [_open(title, place) for title, place in runs.items()]
    if not shown or not shown[0].outputs:
        raise UsageError(
            f"there is no output to show in {', '.join(repr(place) for place in runs.values()) or 'no run'}"
        )
    names = list(shown[0].outputs)[:inputs_shown]
    folder = _Folder(out)
    tables = _tables(shown, names)
    low = _scale_start(tables)
    page = _template().render(
        facts=[{"title": title, **inspect(place)} for title, place in runs.items()],
        libraries=_libraries(shown),
        entries=[_entry(name, shown, tables, low, folder) for name in names],
        total=len(shown[0].outputs),
        legend=folder.put(legend()),
        low=low,
        lines=_lines(shown[0], names[0], tables[shown[0].title, names[0]], folder),
        lines_of=names[0],
        lines_title=shown[0].title,
    )
    path = out / "index.html"
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _template() -> jinja2.Template:
    """Everything that a template prints is escaped: names of files and titles can be anything."""
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("sheet.html.j2")


def _open(title: str, place: str) -> _Shown:
    run = open_run(place)
    try:
        library = library_of(run)
    except (StorageError, MismatchError):
        library = None
    ending = f".{run.header.format}"
    outputs = {layout.relative_output(name).removesuffix(ending): output for name, output in run.outputs.items()}
    return _Shown(title, run, library, outputs)


def _tables(shown: Sequence[_Shown], names: Sequence[str]) -> dict[tuple[str, str], pa.Table]:
    """Provenance by (title of the run, name of the input)."""
    return {
        (each.title, name): provenance_of(each.run, each.outputs[name])
        for each in shown
        for name in names
        if name in each.outputs
    }


def _scale_start(tables: Mapping[tuple[str, str], pa.Table]) -> float:
    """The NCC at which all maps of the page start: near the lowest, a multiple of 0.05 under 1."""
    lowest = min(float(np.percentile(ncc_cells(table), PERCENTILE)) for table in tables.values())
    return min(max(math.floor(lowest * 20) / 20, 0.0), 0.95)


def _libraries(shown: Sequence[_Shown]) -> list[dict[str, Any]]:
    """Each library once."""
    found = {each.library.location.uri: each.library for each in shown if each.library}
    return [
        {
            "uri": uri,
            "images": sum(table.rows for table in library.committed.parts(layout.IMAGES).values()),
            "patches": library.patches,
            "license": library.config.license,
            "attribution": library.config.attribution,
        }
        for uri, library in found.items()
    ]


# ---- one input -------------------------------------------------------------------------------------------------------


def _entry(
    name: str, shown: Sequence[_Shown], tables: Mapping[tuple[str, str], pa.Table], low: float, folder: _Folder
) -> Entry:
    uri = shown[0].outputs[name].uri
    groups: dict[tuple[Any, ...], list[_Shown]] = {}
    for each in shown:
        if name in each.outputs:
            groups.setdefault(each.matching, []).append(each)
    return Entry(
        name=name,
        uri=uri,
        photo=_photo(uri, folder),
        results=tuple(Result(each.title, _result(each, name, folder)) for each in shown),
        matched=tuple(_matched(group, name, tables[group[0].title, name], low, folder) for group in groups.values()),
    )


def _photo(uri: str, folder: _Folder) -> Picture | None:
    """The input, where it was when the run was made; None when it is not there any more."""
    try:
        return _put(read_input(uri), folder)
    except (RejectError, UnreachableError):
        return None


def _result(shown: _Shown, name: str, folder: _Folder) -> Picture | None:
    """None when the run has no such output."""
    if name not in shown.outputs:
        return None
    return _put(shown.run.location.read_bytes(shown.outputs[name].name), folder)


def _put(data: bytes, folder: _Folder) -> Picture | None:
    image = _decoded(data)
    return folder.put_photo(image) if image else None


def _decoded(data: bytes) -> Image.Image | None:
    """An image of at most LONG_SIDE pixels a side, or None when the bytes are none: libraries and runs come from
    anywhere, and what they hold goes through the same gate as every input."""
    try:
        pixels = decode(data, LONG_SIDE).pixels
    except RejectError:
        return None
    return Image.fromarray((pixels * 255.0 + 0.5).astype(np.uint8))


def _matched(group: Sequence[_Shown], name: str, table: pa.Table, low: float, folder: _Folder) -> Matched:
    first = group[0]
    size = image_size(first.run, first.outputs[name])
    matches = Matches()
    matches.add(table)
    return Matched(
        titles=tuple(each.title for each in group),
        ncc_map=folder.put(ncc_map(ncc_cells(table), first.cells.stride, size, low)),
        ncc_mean=matches.ncc_mean or 0.0,
        sources=tuple(_sources(first, matches.top(SOURCES), folder)),
    )


def _sources(shown: _Shown, top: Sequence[tuple[str, float]], folder: _Folder) -> list[Source]:
    ids = [image_id for image_id, _ in top]
    images = source_images(shown.library, ids, previews=True) if shown.library else {}
    return [_source(image_id, share, images.get(image_id), folder) for image_id, share in top]


def _source(image_id: str, share: float, image: SourceImage | None, folder: _Folder) -> Source:
    if image is None:
        return Source(f"image {image_id}", "", share, None, "", "")
    uri = image.uris[0] if image.uris else ""
    name = PurePosixPath(uri).name or f"image {image_id}"
    return Source(name, uri, share, _put(image.preview, folder), image.license, image.attribution)


# ---- lines to sources ------------------------------------------------------------------------------------------------


def _lines(shown: _Shown, name: str, table: pa.Table, folder: _Folder) -> Picture | None:
    """Patches of one result joined to where they came from; None when the library is not at hand."""
    if shown.library is None:
        return None
    matches = Matches()
    matches.add(table)
    top = [image_id for image_id, _ in matches.top(LINE_SOURCES)]
    images = source_images(shown.library, top, previews=True)
    pictures = {id_: picture for id_ in top if id_ in images and (picture := _decoded(images[id_].preview))}
    output = shown.outputs[name]
    result = _decoded(shown.run.location.read_bytes(output.name))
    if result is None or not pictures:
        return None
    size = image_size(shown.run, output)
    lines = [_line(row, images, pictures, result, size, shown.cells) for row in _spread(table, list(pictures))]
    return folder.put(lines_picture(result, list(pictures.values()), lines))


def _spread(table: pa.Table, ids: Sequence[str]) -> list[dict[str, Any]]:
    """At most one first match in each of LINES regions, among those that lead to one of `ids`: the largest NCC that
    starts and ends at least APART cells from those already chosen, so that lines can be told apart."""
    numbers = {bytes.fromhex(image_id): number for number, image_id in enumerate(ids)}
    source = np.array([numbers.get(value, -1) for value in table["source_image_id"].to_pylist()])
    row, col, rank, there_row, there_col = (
        table[name].to_numpy().astype(np.int64) for name in ("row", "col", "rank", "source_row", "source_col")
    )
    across, down = LINES
    region = row * down // (row.max() + 1) * across + col * across // (col.max() + 1)
    ncc = table["ncc"].to_numpy().astype(np.float64)
    free = (source >= 0) & (rank == 0)
    chosen: list[int] = []
    for number in range(across * down):
        allowed = free & (region == number)
        if allowed.any():
            best = int(np.where(allowed, ncc, -np.inf).argmax())
            chosen.append(best)
            starts_near = _near(row, row[best]) & _near(col, col[best])
            ends_near = (source == source[best]) & _near(there_row, there_row[best]) & _near(there_col, there_col[best])
            free &= ~(starts_near | ends_near)
    return list(table.take(pa.array(chosen, pa.int64())).to_pylist())


def _near(cells: NDArray[np.int64], cell: np.int64) -> NDArray[np.bool_]:
    near: NDArray[np.bool_] = np.abs(cells - cell) < APART
    return near


def _line(
    row: dict[str, Any],
    images: Mapping[str, SourceImage],
    pictures: Mapping[str, Image.Image],
    result: Image.Image,
    size: tuple[int, int],
    cells: Geometry,
) -> Line:
    image_id = row["source_image_id"].hex()
    image = images[image_id]
    here = patch_box(row["row"], row["col"], *size, cells)
    there = patch_box(row["source_row"], row["source_col"], image.width, image.height, cells)
    return Line(
        scaled(here, result.width / size[0]),
        list(pictures).index(image_id),
        scaled(there, pictures[image_id].width / image.width),
    )
