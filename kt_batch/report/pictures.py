"""Draw NCC heat maps, and lines from patches to their sources."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kt_batch.errors import DamagedError
from kt_batch.report.sources import Box

# Matplotlib's viridis at nine equal steps: perceptually uniform, and readable without colour vision.
VIRIDIS = np.array(
    [
        (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141),
        (39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37),
    ],
    dtype=np.float64,
)  # fmt: skip

SMOOTH = 2  # supersampling factor: Pillow draws lines without antialiasing
STROKE = 5  # pixels before shrinking
EDGE = (20, 20, 20, 130)
GAP = 0.16  # between the result and its sources, as a share of the result's width
FLATTEST, TALLEST = 1 / 8, 2  # height of a picture of lines, as a share of its width


def heat(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """Colour values by the viridis scale.

    Args:
        values: (h, w) float64.
        low: value of the first colour, violet; smaller values have it too.
        high: value of the last colour, yellow; larger values have it too.

    Returns:
        (h, w, 3) uint8.
    """
    position = np.clip((values - low) / (high - low), 0.0, 1.0) * (len(VIRIDIS) - 1)
    steps = np.arange(len(VIRIDIS))
    return np.stack([np.interp(position, steps, VIRIDIS[:, c]).round() for c in range(3)], axis=-1).astype(np.uint8)


def legend(steps: int = 256) -> Image.Image:
    """Return the scale of `heat`, `(steps, 1)` pixels."""
    return Image.fromarray(heat(np.linspace(0.0, 1.0, steps)[None], 0.0, 1.0))


def ncc_cells(provenance: pa.Table, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the NCC of the best matches of one output on its cells, (h, w) float64.

    The value of a cell is the mean over the patches that cover it.

    Args:
        provenance: The matches, per patch.
        shape: Cells of the output, rows and columns.

    Raises:
        DamagedError: there is no match, or one lies outside the output.
    """
    first = provenance["rank"].to_numpy() == 0
    rows, cols = (provenance[name].to_numpy()[first].astype(np.int64) for name in ("row", "col"))
    ncc = provenance["ncc"].to_numpy()[first].astype(np.float64)
    if not len(rows):
        raise DamagedError("The provenance of an output holds no best match.")
    if rows.max() + 2 > shape[0] or cols.max() + 2 > shape[1]:
        raise DamagedError(
            f"The provenance of an output names the patch at cell {rows.max()}, {cols.max()}; the output has "
            f"{shape[0]} x {shape[1]} cells."
        )
    total = np.zeros((rows.max() + 2, cols.max() + 2))
    count = np.zeros_like(total)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        total[rows + down, cols + right] += ncc
        count[rows + down, cols + right] += 1
    return total / np.maximum(count, 1)


def ncc_map(cells: NDArray[np.float64], stride: int, size: tuple[int, int], low: float) -> Image.Image:
    """Return a heat map of `ncc_cells` from `low` to 1.

    Args:
        cells: The means.
        stride: Pixels of a cell along each side.
        size: (width, height) of the working image, and of the map.
        low: See above.
    """
    colours = heat(cells, low, 1.0).repeat(stride, axis=0).repeat(stride, axis=1)
    return Image.fromarray(np.ascontiguousarray(colours[: size[1], : size[0]]))


@dataclass(frozen=True)
class Line:
    """A line from a box of the result to a box of a source.

    here: in pixels of the result. source: number of the source. there: in pixels of its picture.
    """

    here: Box
    source: int
    there: Box


def lines_picture(
    result: Image.Image, sources: Sequence[Image.Image], lines: Sequence[Line], width: int = 1280
) -> Image.Image:
    """Draw a result and its sources with lines between their boxes, as RGBA.

    The result is on the left, up to four sources are on the right, and each line has its own colour. Very flat and very
    tall results leave a part of their side empty.
    """
    canvas = width * SMOOTH
    left = round(canvas / (2 + GAP))
    scale = min(left / result.width, TALLEST * canvas / result.height)
    size = max(1, round(result.width * scale)), max(1, round(result.height * scale))
    height = max(size[1], round(FLATTEST * canvas))
    picture = Image.new("RGBA", (canvas, height))
    picture.paste(result.resize(size, Image.Resampling.LANCZOS), (0, 0))
    places = _places(sources, Box(round(left * (1 + GAP)), 0, canvas, height))
    for source, place in zip(sources, places, strict=True):
        size = (place.x1 - place.x0, place.y1 - place.y0)
        picture.paste(source.resize(size, Image.Resampling.LANCZOS), (place.x0, place.y0))
    overlay = Image.new("RGBA", picture.size)
    draw = ImageDraw.Draw(overlay)
    for number, line in enumerate(lines):
        place, source = places[line.source], sources[line.source]
        there = scaled(line.there, (place.x1 - place.x0) / source.width, place.x0, place.y0)
        _draw(draw, scaled(line.here, scale), there, _colour(number, len(lines)))
    picture.alpha_composite(overlay)
    return picture.resize((width, round(height / SMOOTH)), Image.Resampling.LANCZOS)


def _places(sources: Sequence[Image.Image], area: Box) -> list[Box]:
    """Return where in `area` the sources go.

    Each is as large as its cell allows and centred. One or two sources have one column, more have two.
    """
    columns = 1 if len(sources) <= 2 else 2
    rows = -(-len(sources) // columns)
    gap = 12 * SMOOTH
    wide = (area.x1 - area.x0 - gap * (columns - 1)) // columns
    high = (area.y1 - area.y0 - gap * (rows - 1)) // rows
    places = []
    for number, source in enumerate(sources):
        row, column = divmod(number, columns)
        scale = min(wide / source.width, high / source.height)
        width, height = max(1, round(source.width * scale)), max(1, round(source.height * scale))
        x = area.x0 + column * (wide + gap) + (wide - width) // 2
        y = area.y0 + row * (high + gap) + (high - height) // 2
        places.append(Box(x, y, x + width, y + height))
    return places


def scaled(box: Box, scale: float, x: int = 0, y: int = 0) -> Box:
    """Return a box of a picture that is drawn `scale` times as large at (x, y)."""
    return Box(
        x + round(box.x0 * scale), y + round(box.y0 * scale), x + round(box.x1 * scale), y + round(box.y1 * scale)
    )


def _draw(draw: ImageDraw.ImageDraw, here: Box, there: Box, colour: tuple[int, int, int, int]) -> None:
    """Draw two boxes and a line between their facing sides.

    A thin dark edge keeps them visible on any background.
    """
    ends = (here.x1, (here.y0 + here.y1) // 2, there.x0, (there.y0 + there.y1) // 2)
    for ink, edge in ((EDGE, 1), (colour, 0)):
        draw.line(ends, ink, STROKE + 2 * edge)
        for box in (here, there):
            draw.rectangle(
                (box.x0 - edge, box.y0 - edge, box.x1 + edge, box.y1 + edge), outline=ink, width=STROKE + 2 * edge
            )


def _colour(number: int, count: int) -> tuple[int, int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(number / count, 0.72, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255), 255
