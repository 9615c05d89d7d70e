"""Draw lines from patches of one result to the source patches they were made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from kt_batch.models.layers import Geometry
from kt_batch.report.page_files import PageFolder, Picture
from kt_batch.report.pictures import Line, lines_picture, scaled
from kt_batch.report.session import Session
from kt_batch.report.sources import SourceImage, level_geometry, patch_box
from kt_batch.report.usage import Matches
from kt_batch.store.run import Output, read_output
from kt_batch.store.schemas import provenance_kind

REGIONS = (4, 3)  # across and down; a line starts in each
SOURCES = 4
APART = 9  # cells between the ends of two lines: wider than the box that a patch sees


def draw_lines(session: Session, output: Output, folder: PageFolder, level: str | None = None) -> Picture | None:
    """Draw an output with lines to its sources; of a method with levels, to those of one, or of the coarse one.

    Returns:
        None without patches, library or readable pictures.
    """
    table, cells = session.provenance(output, level), level_geometry(level) if level else None
    if provenance_kind(table) != "patches":
        return None
    matches = Matches()
    matches.add(table)
    top = [image_id for image_id, _ in matches.top(SOURCES)]
    images = session.images(top, previews=True)
    pictures = {id_: picture for id_ in top if id_ in images and (picture := folder.decoded(images[id_].preview))}
    result = folder.decoded(read_output(session.run, output)) if pictures else None
    if result is None:
        return None
    size = session.working_size(output)
    with session.naming(output):
        lines = [
            _line(row, images, pictures, result, size, cells or session.cells) for row in _spread(table, list(pictures))
        ]
    return folder.put(lines_picture(result, list(pictures.values()), lines))


def _spread(table: pa.Table, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Choose at most one best match in each region.

    Each match has a source in `ids`. It is the one with the largest NCC that starts and ends at least APART cells from
    those already chosen, so that lines remain distinguishable.
    """
    numbers = {bytes.fromhex(image_id): number for number, image_id in enumerate(ids)}
    source = np.array([numbers.get(value, -1) for value in table["source_image_id"].to_pylist()])
    row, col, rank, there_row, there_col = (
        table[name].to_numpy().astype(np.int64) for name in ("row", "col", "rank", "source_row", "source_col")
    )
    across, down = REGIONS
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
