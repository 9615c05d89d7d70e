"""A pixel of an output, back to the images and boxes its look came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, UnidentifiedImageError

from kt_batch.errors import DamagedError, MismatchError, UsageError
from kt_batch.models.layers import Geometry
from kt_batch.report.sources import Box, SourceImage, cells_of, library_of, patch_box, source_images
from kt_batch.store import layout
from kt_batch.store.inputs import output_name
from kt_batch.store.opening import open_run
from kt_batch.store.run import Output, Run, provenance_of

SHOWN = 5  # candidates in a message
FORMATS = ("PNG", "JPEG", "WEBP")  # of outputs


@dataclass(frozen=True)
class Contribution:
    """One match of one query patch that covers the pixel.

    row, col: top-left cell of the query patch. rank: 0 = best. weight: its share of the pixel; all shares sum to 1.
    box: what the source patch sees of the source's working image; file_box: of the source file, EXIF-oriented.
    """

    row: int
    col: int
    rank: int
    weight: float
    ncc: float
    certified: bool
    image_id: str
    uris: tuple[str, ...]
    source_row: int
    source_col: int
    box: Box
    file_box: Box
    license: str
    attribution: str


@dataclass(frozen=True)
class Explanation:
    """Where pixel (x, y) of an output of `width` x `height` pixels comes from: contributions by row, col and rank."""

    run: str
    output: str
    input: str
    library: str
    x: int
    y: int
    width: int
    height: int
    cell_row: int
    cell_col: int
    contributions: tuple[Contribution, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def explain(run: str, output: str, x: int, y: int, library: str | None = None) -> Explanation:
    """Explain pixel (x, y) of an output of the run at `run`.

    `output` is its name in the run (`images/a.jpg.png`), with or without `images/`, the input's name (`a.jpg`), or the
    end of one of them that only one output has. `library` is where the run's library is now, if it has moved.
    Raises UsageError (no such output or pixel), MissingError (no run, no library), MismatchError (another library).
    """
    opened = open_run(run)
    found = find_output(opened, output)
    width, height = image_size(opened, found)
    if not (0 <= x < width and 0 <= y < height):
        raise UsageError(
            f"'{found.name}' has {width} x {height} pixels, so there is none at {x},{y}; "
            f"allowed is 0,0 to {width - 1},{height - 1}."
        )
    source = library_of(opened, library)
    cells = cells_of(opened)
    rows = _covering(provenance_of(opened, found), y // cells.stride, x // cells.stride)
    images = source_images(source, {row["source_image_id"].hex() for row in rows})
    return Explanation(
        run=opened.location.uri,
        output=found.name,
        input=found.uri,
        library=source.location.uri,
        x=x,
        y=y,
        width=width,
        height=height,
        cell_row=y // cells.stride,
        cell_col=x // cells.stride,
        contributions=tuple(_contributions(rows, images, cells, source.location.uri)),
    )


def find_output(run: Run, wanted: str) -> Output:
    """The output that `wanted` names. Raises UsageError, with candidates, when it names none or several."""
    outputs = run.outputs
    for name in (wanted, layout.output_path(wanted), _output_of(wanted, run.header.format)):
        if name in outputs:
            return outputs[name]
    ends = (wanted, f"{wanted}.{run.header.format}")
    found = [name for name in outputs if wanted and name.endswith(ends)]
    if len(found) == 1:
        return outputs[found[0]]
    count = f"{len(found)} outputs end in" if found else "no output is called"
    shown = found or [name for name in outputs if wanted.lower() in name.lower()] or list(outputs)
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    raise UsageError(
        f"In '{run.location.uri}' {count} {wanted!r}; there are: {', '.join(shown[:SHOWN]) or 'none at all'}{more}."
    )


def _output_of(name: str, image_format: str) -> str:
    """`output_name`, or nothing when no input can be called so."""
    try:
        return output_name(name, image_format)
    except UsageError:
        return ""


def image_size(run: Run, output: Output) -> tuple[int, int]:
    """Width and height of an output, from the header of its file. Raises DamagedError when it is no image."""
    try:
        with run.location.open(output.name) as file, Image.open(file, formats=FORMATS) as image:
            return image.size
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DamagedError(f"'{output.name}' at '{run.location.uri}' is not an image.") from error


def _covering(provenance: pa.Table, row: int, col: int) -> list[dict[str, Any]]:
    """Rows of the patches that cover a cell: those whose top-left cell is it, or the one above, left, or both."""
    near = pc.and_(_one_of(provenance["row"], row), _one_of(provenance["col"], col))
    rows = provenance.filter(near).to_pylist()
    return sorted(rows, key=lambda entry: (entry["row"], entry["col"], entry["rank"]))


def _one_of(column: pa.ChunkedArray, cell: int) -> pa.ChunkedArray:
    return pc.is_in(column, pa.array([near for near in (cell - 1, cell) if near >= 0], pa.uint16()))


def _contributions(
    rows: list[dict[str, Any]], images: dict[str, SourceImage], cells: Geometry, library: str
) -> Iterator[Contribution]:
    patches = len({(row["row"], row["col"]) for row in rows})
    totals: dict[tuple[int, int], float] = {}
    for row in rows:
        totals[row["row"], row["col"]] = totals.get((row["row"], row["col"]), 0.0) + row["weight"]
    for row in rows:
        image_id = row["source_image_id"].hex()
        if image_id not in images:
            raise MismatchError(f"'{library}' does not hold the image {image_id}, from which the run took patches.")
        image = images[image_id]
        box = patch_box(row["source_row"], row["source_col"], image.width, image.height, cells)
        yield Contribution(
            row=row["row"],
            col=row["col"],
            rank=row["rank"],
            weight=row["weight"] / totals[row["row"], row["col"]] / patches,
            ncc=float(row["ncc"]),
            certified=row["certified"],
            image_id=image_id,
            uris=image.uris,
            source_row=row["source_row"],
            source_col=row["source_col"],
            box=box,
            file_box=image.in_file(box),
            license=image.license,
            attribution=image.attribution,
        )
