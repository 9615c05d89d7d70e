"""The sources of a pixel or an output.

That is patches of source images, or shares of whole sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kt_batch.errors import MismatchError
from kt_batch.models.layers import Geometry
from kt_batch.report.recorded_edits import RecordedEdit
from kt_batch.report.sources import Box, SourceImage, patch_box
from kt_batch.store.schemas import ProvenanceKind


@dataclass(frozen=True)
class Contribution:
    """One match of one query patch that covers the pixel.

    row, col: top-left cell of the query patch. rank: 0 is the best match. weight: share of the pixel; all shares sum to
    1. box: pixels of the source's working image that the source patch sees. file_box: the same pixels in the source
    file, EXIF-oriented. library: The one that the patch was taken from, as the run's command named it.
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
    tags: tuple[str, ...] = ()
    library: str = ""


@dataclass(frozen=True)
class LevelSources:
    """The sources of a pixel at one level.

    level: A layer, or a layer at a working size. (cell_row, cell_col): The pixel's cell there. contributions: Sorted by
    row, col and rank.
    """

    level: str
    cell_row: int
    cell_col: int
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True)
class SourceShare:
    """The share of one source image in a whole output; all shares sum to 1.

    The source of an edit is a pair, named by its photograph before. A pair with a negative share pulls away from it.
    """

    image_id: str
    uri: str
    share: float
    license: str
    attribution: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """The sources of pixel (x, y) of an output of `width` x `height` pixels.

    With kind `patches`, `contributions` are sorted by row, col and rank, and (cell_row, cell_col) is the pixel's cell.
    Of a method with levels, these are those of the coarse one, and `levels` has all, from coarse to fine: the first one
    made the form, the last one the texture.
    With kind `sources`, `sources` hold for the whole output, the largest share first, and there is no cell.
    library: None where the run names none. edit: The colour map that was applied; None for methods that edit nothing.
    enlarged_from: Width and height at which the picture was made before it was enlarged, with finer detail of the
    photograph; None where it was not.
    """

    run: str
    method: str
    output: str
    input: str
    library: str | None
    x: int
    y: int
    width: int
    height: int
    kind: ProvenanceKind
    cell_row: int | None
    cell_col: int | None
    contributions: tuple[Contribution, ...]
    sources: tuple[SourceShare, ...]
    edit: RecordedEdit | None = None
    levels: tuple[LevelSources, ...] = ()
    enlarged_from: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return asdict(self)


def covering(provenance: pa.Table, row: int, col: int) -> list[dict[str, Any]]:
    """Return the rows of the patches that cover a cell, sorted.

    The top-left cell of such a patch is the cell itself, or the one above, to the left, or both.
    """
    near = pc.and_(_at_or_before(provenance["row"], row), _at_or_before(provenance["col"], col))
    rows = provenance.filter(near).to_pylist()
    return sorted(rows, key=lambda entry: (entry["row"], entry["col"], entry["rank"]))


def _at_or_before(column: pa.ChunkedArray, cell: int) -> pa.ChunkedArray:
    return pc.is_in(column, pa.array([near for near in (cell - 1, cell) if near >= 0], pa.uint16()))


def patch_contributions(
    rows: list[dict[str, Any]], images: Mapping[str, SourceImage], cells: Geometry, library: str
) -> Iterator[Contribution]:
    """Yield the contributions of the provenance rows that cover a cell.

    Raises:
        MismatchError: the library does not hold one of the source images.
    """
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
            weight=row["weight"] / (totals[row["row"], row["col"]] or 1.0) / patches,
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
            tags=tuple(image.tags),
            library=row["library"],
        )


def source_shares(provenance: pa.Table, images: Mapping[str, SourceImage]) -> tuple[SourceShare, ...]:
    """Return the sources of one output, the largest share first, ties by image id.

    images: those that a library at hand holds; they give licence and credit.
    """
    shares = []
    for row in provenance.to_pylist():
        image_id = row["source_image_id"].hex()
        image = images.get(image_id)
        shares.append(
            SourceShare(
                image_id=image_id,
                uri=row["source_uri"],
                share=row["share"],
                license=image.license if image else "",
                attribution=image.attribution if image else "",
                tags=tuple(image.tags) if image else (),
            )
        )
    return tuple(sorted(shares, key=lambda share: (-abs(share.share), share.image_id)))
