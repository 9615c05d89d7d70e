"""Heat maps and lines on hand-computed numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from PIL import Image

from kt_batch.report.pictures import VIRIDIS, Line, heat, legend, lines_picture, ncc_cells, ncc_map
from kt_batch.report.sources import Box


def matches(entries: list[tuple[int, int, int, float]]) -> pa.Table:
    """Return a table of (row, col, rank, ncc)."""
    columns = list(zip(*entries, strict=True))
    types = (pa.uint16(), pa.uint16(), pa.uint8(), pa.float16())
    return pa.table(
        [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)], ["row", "col", "rank", "ncc"]
    )


def test_the_scale_runs_from_its_first_to_its_last_colour() -> None:
    colours = heat(np.array([[0.4, 0.5, 0.75, 1.0, 1.2]]), 0.5, 1.0)[0]
    assert colours.tolist() == [VIRIDIS[index].astype(int).tolist() for index in (0, 0, 4, 8, 8)]
    assert legend(9).size == (9, 1)
    assert np.asarray(legend(9))[0].tolist() == VIRIDIS.astype(int).tolist()


def test_a_cell_shows_the_mean_of_the_patches_that_cover_it() -> None:
    cells = ncc_cells(matches([(0, 0, 0, 0.5), (0, 0, 1, 0.25), (0, 1, 0, 1.0)]), (2, 3))
    # Patches at columns 0 and 1 of one row: 2 x 3 cells, the middle column in both; second matches do not count.
    assert cells.tolist() == [[0.5, 0.75, 1.0], [0.5, 0.75, 1.0]]


def test_a_map_has_the_size_of_the_output() -> None:
    picture = ncc_map(np.array([[0.0, 1.0], [1.0, 0.0]]), stride=4, size=(7, 5), low=0.0)
    pixels = np.asarray(picture)
    assert pixels.shape == (5, 7, 3)
    assert pixels[0, 3].tolist() == pixels[4, 6].tolist() == VIRIDIS[0].astype(int).tolist()
    assert pixels[0, 4].tolist() == pixels[4, 3].tolist() == VIRIDIS[8].astype(int).tolist()


def test_lines_are_drawn_between_the_result_and_its_sources() -> None:
    result, source = Image.new("RGB", (100, 50), "white"), Image.new("RGB", (40, 40), "blue")
    line = Line(Box(10, 10, 20, 20), 0, Box(0, 0, 8, 8))
    plain, drawn = (np.asarray(lines_picture(result, [source], lines, width=432)) for lines in ([], [line]))
    assert plain.shape == drawn.shape == (100, 432, 4)  # the result is 200 x 100 there: 432 / (2 + 0.16)
    assert plain[50, 100].tolist() == [255, 255, 255, 255]
    assert plain[50, 215].tolist() == [0, 0, 0, 0]  # nothing is drawn between
    changed = (plain != drawn).any(axis=-1)
    assert changed[20:40, 20].all()  # the left edge of the box, at twice its size
    assert changed[:, 215].any()
    assert not changed[60:, :200].any()
