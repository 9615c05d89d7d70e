"""Pictures that explain a result: a heat map of how well patches matched, and lines from patches to their sources."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kt_batch.report.sources import Box

# Matplotlib's viridis at nine equal steps: even to the eye, and readable without colour vision.
VIRIDIS = np.array(
    [
        (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141),
        (39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37),
    ],
    dtype=np.float64,
)  # fmt: skip

SMOOTH = 2  # drawn this many times larger, then shrunk: Pillow's lines have no soft edges
STROKE = 5  # before shrinking
EDGE = (20, 20, 20, 130)
GAP = 0.16  # between the result and its sources, as a share of the result's width


def heat(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """Values `(h, w)` as colours `(h, w, 3)`: `low` and less is violet, `high` and more yellow."""
    position = np.clip((values - low) / (high - low), 0.0, 1.0) * (len(VIRIDIS) - 1)
    steps = np.arange(len(VIRIDIS))
    return np.stack([np.interp(position, steps, VIRIDIS[:, c]).round() for c in range(3)], axis=-1).astype(np.uint8)


def legend(steps: int = 256) -> Image.Image:
    """The scale of `heat` from `low` to `high`, `(steps, 1)` pixels."""
    return Image.fromarray(heat(np.linspace(0.0, 1.0, steps)[None], 0.0, 1.0))


def ncc_cells(provenance: pa.Table) -> NDArray[np.float64]:
    """NCC of the first matches of one output on its cells `(h, w)`: the mean over the patches that cover a cell."""
    first = provenance["rank"].to_numpy() == 0
    rows, cols = (provenance[name].to_numpy()[first].astype(np.int64) for name in ("row", "col"))
    ncc = provenance["ncc"].to_numpy()[first].astype(np.float64)
    total = np.zeros((rows.max() + 2, cols.max() + 2))
    count = np.zeros_like(total)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        total[rows + down, cols + right] += ncc
        count[rows + down, cols + right] += 1
    return total / np.maximum(count, 1)


def ncc_map(cells: NDArray[np.float64], stride: int, size: tuple[int, int], low: float) -> Image.Image:
    """A heat map of `ncc_cells` from `low` to 1, of the output's `size` (width, height)."""
    colours = heat(cells, low, 1.0).repeat(stride, axis=0).repeat(stride, axis=1)
    return Image.fromarray(np.ascontiguousarray(colours[: size[1], : size[0]]))


@dataclass(frozen=True)
class Line:
    """From a box of the result, in its pixels, to a box of source number `source`, in pixels of its picture."""

    here: Box
    source: int
    there: Box


def lines_picture(
    result: Image.Image, sources: Sequence[Image.Image], lines: Sequence[Line], width: int = 1280
) -> Image.Image:
    """The result on the left, up to four sources on the right, and each line in a colour of its own; RGBA."""
    canvas = width * SMOOTH
    left = round(canvas / (2 + GAP))
    scale = left / result.width
    height = round(result.height * scale)
    picture = Image.new("RGBA", (canvas, height))
    picture.paste(result.resize((left, height), Image.Resampling.LANCZOS), (0, 0))
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
    """Where in `area` the sources go: one column for one or two, else two; each as large as its cell, in its middle."""
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
    """A box of a picture that is drawn `scale` times as large at (x, y)."""
    return Box(
        x + round(box.x0 * scale), y + round(box.y0 * scale), x + round(box.x1 * scale), y + round(box.y1 * scale)
    )


def _draw(draw: ImageDraw.ImageDraw, here: Box, there: Box, colour: tuple[int, int, int, int]) -> None:
    """Two boxes and a line between their facing sides, with a thin dark edge that keeps them visible on any ground."""
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
