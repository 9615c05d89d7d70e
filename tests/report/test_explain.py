"""The sources of a pixel, checked against the raw tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from kt_batch.errors import DamagedError, MismatchError, MissingError, UsageError
from kt_batch.models.layers import boxes
from kt_batch.report.contributions import Explanation
from kt_batch.report.explain import explain
from kt_batch.report.sources import Box, SourceImage, layer_geometry, level_geometry
from tests.report.conftest import HOSTILE, LONG, Made, draw, make_library

PARK = "images/park/a.jpg.png"  # 60 x 56 pixels: 15 x 14 cells


def patches_at(found: Explanation) -> list[tuple[int, int]]:
    return [(entry.row, entry.col) for entry in found.contributions if entry.rank == 0]


def table(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))


def rows_where(data: pa.Table, **values: Any) -> list[dict[str, Any]]:
    for name, value in values.items():
        data = data.filter(pc.equal(data[name], pa.scalar(value, data.schema.field(name).type)))
    return list(data.to_pylist())


@pytest.mark.parametrize(
    ("x", "y", "patches"),
    [
        (0, 0, [(0, 0)]),  # a corner cell is in one patch only
        (3, 3, [(0, 0)]),  # a cell of relu3_1 is 4 x 4 pixels
        (4, 0, [(0, 0), (0, 1)]),  # an edge cell in two
        (9, 10, [(1, 1), (1, 2), (2, 1), (2, 2)]),  # cell (2, 2): four
        (59, 55, [(12, 13)]),  # the last cell is (13, 14)
    ],
)
def test_a_pixel_belongs_to_the_patches_that_cover_its_cell(
    made: Made, x: int, y: int, patches: list[tuple[int, int]]
) -> None:
    assert patches_at(explain(str(made.blended), PARK, x, y)) == patches


@pytest.mark.parametrize(("x", "patches"), [(0, [(0, 0)]), (48, [(0, 12)]), (52, [(0, 12), (0, 13)]), (59, [(0, 13)])])
def test_with_a_query_stride_of_two_only_the_last_patch_overlaps(
    made: Made, x: int, patches: list[tuple[int, int]]
) -> None:
    # 15 cells across: patches start at 0, 2, ..., 12, and at 13 so that the last cell is covered too.
    assert patches_at(explain(str(made.sparse), PARK, x, 0)) == patches


def test_shares_are_the_stored_weights_divided_by_the_number_of_patches(made: Made) -> None:
    found = explain(str(made.blended), PARK, 9, 10)
    assert [(entry.row, entry.col, entry.rank) for entry in found.contributions] == [
        (row, col, rank) for row in (1, 2) for col in (1, 2) for rank in (0, 1)
    ]
    provenance = table(made.blended / "provenance")
    for entry in found.contributions:
        (stored,) = rows_where(provenance, output=PARK, row=entry.row, col=entry.col, rank=entry.rank)
        assert entry.weight == pytest.approx(stored["weight"] / 4, abs=1e-6)
    assert sum(entry.weight for entry in found.contributions) == pytest.approx(1.0, abs=1e-12)


def test_every_value_comes_from_the_tables(made: Made) -> None:
    provenance, patches = table(made.blended / "provenance"), table(made.library / "patches")
    images = table(made.library / "images")
    for entry in explain(str(made.blended), PARK, 30, 30).contributions:
        (match,) = rows_where(provenance, output=PARK, row=entry.row, col=entry.col, rank=entry.rank)
        assert entry.image_id == match["source_image_id"].hex()
        assert (entry.source_row, entry.source_col) == (match["source_row"], match["source_col"])
        assert (entry.ncc, entry.certified) == (float(match["ncc"]), match["certified"])
        source = bytes.fromhex(entry.image_id)
        (patch,) = rows_where(patches, image_id=source, row=entry.source_row, col=entry.source_col)
        assert entry.box == Box(patch["x0"], patch["y0"], patch["x1"], patch["y1"])
        (image,) = rows_where(images, image_id=source)
        assert sorted(entry.uris) == sorted(image["uris"])
        assert (entry.license, entry.attribution) == ("CC0", "A. Painter")


def test_an_image_with_two_names_is_one_source_with_two_uris(made: Made) -> None:
    found = [
        entry.uris
        for x in range(0, 60, 4)
        for entry in explain(str(made.blended), PARK, x, 20).contributions
        if len(entry.uris) > 1
    ]
    names = {tuple(Path(uri).name for uri in uris) for uris in found}
    assert names == {("wheat again.png", "wheat.png")}


def test_a_box_is_mapped_outward_to_the_pixels_of_the_file() -> None:
    image = SourceImage(
        "00" * 8, (), original_width=96, original_height=80, width=64, height=53, license="", attribution=""
    )
    # 1 * 96/64 = 1.5 down to 1; 3 * 1.5 = 4.5 up to 5; 2 * 80/53 = 3.02 down to 3; the lower edge is the lower edge.
    assert image.in_file(Box(1, 2, 3, 53)) == Box(1, 3, 5, 80)


def test_boxes_are_clipped_to_the_image() -> None:
    # relu3_1: a patch at column 0 sees [-10, 18), at column 14 [46, 74); the image has 64 pixels.
    low, high = boxes(np.array([0, 14]), layer_geometry("relu3_1"), 64)
    assert (low.tolist(), high.tolist()) == ([0, 46], [18, 64])
    low, high = boxes(np.array([1, 1]), layer_geometry("relu4_1"), np.array([40, 60]))
    assert (low.tolist(), high.tolist()) == ([0, 0], [40, 54])


def test_a_box_contains_the_pixels_that_are_mirrored_into_the_padding() -> None:
    # 50 pixels are padded to 56 with the pixels 48, 47, 46, 45, 44 and 43. At relu2_1 a patch sees 12 pixels:
    # from cell 26 on [48, 60), so 48, 49 and all six mirrored ones; from cell 23 on [42, 54), so [42, 50) and [45, 49).
    low, high = boxes(np.array([23, 26]), layer_geometry("relu2_1"), 50)
    assert (low.tolist(), high.tolist()) == ([42, 43], [50, 50])


def test_the_padding_changes_no_box_of_the_layer_that_an_image_is_padded_for() -> None:
    for layer, stride in (("relu1_1", 1), ("relu2_1", 2), ("relu3_1", 4), ("relu4_1", 8)):
        cells = level_geometry(layer)
        for length in range(16, 65):
            start = np.arange(-(-length // stride) - 1)
            low, high = (stride * start + edge for edge in cells.interval(0, 2))
            found = boxes(start, cells, length)
            np.testing.assert_array_equal(found, (np.maximum(low, 0), np.minimum(high, length)))


@pytest.mark.parametrize("name", [PARK, "park/a.jpg.png", "park/a.jpg", "a.jpg", "a.jpg.png"])
def test_an_output_may_be_named_by_any_unique_suffix(made: Made, name: str) -> None:
    assert explain(str(made.blended), name, 0, 0).output == PARK


@pytest.mark.parametrize("name", [HOSTILE, LONG])
def test_an_output_may_be_named_by_any_name_of_its_input(made: Made, name: str) -> None:
    assert Path(explain(str(made.blended), name, 0, 0).input).name == name


def test_an_ambiguous_or_unknown_output_name_is_refused_with_candidates(made: Made) -> None:
    with pytest.raises(UsageError, match=r"3 outputs end in 'png'.*park/a\.jpg\.png"):
        explain(str(made.blended), "png", 0, 0)
    with pytest.raises(UsageError, match=r"no output is called 'b\.jpg'.*park/a\.jpg\.png"):
        explain(str(made.blended), "b.jpg", 0, 0)


@pytest.mark.parametrize(("x", "y"), [(60, 0), (0, 56), (-1, 0), (0, -1)])
def test_the_refusal_of_a_pixel_outside_names_the_size(made: Made, x: int, y: int) -> None:
    with pytest.raises(UsageError, match=f"60 x 56 pixels, so there is none at {x},{y}"):
        explain(str(made.blended), PARK, x, y)


def test_a_moved_library_can_be_given_by_name(made: Made, tmp_path: Path) -> None:
    run = shutil.copytree(made.blended, tmp_path / "run")
    summary = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**summary, "library": str(tmp_path / "gone")}))
    with pytest.raises(MissingError, match="gone'; say where it is now"):
        explain(str(run), PARK, 0, 0)
    moved = explain(str(run), PARK, 0, 0, library=str(made.library))
    assert moved.contributions == explain(str(made.blended), PARK, 0, 0).contributions


def test_an_unfinished_run_names_its_library_in_its_provenance(made: Made, tmp_path: Path) -> None:
    run = shutil.copytree(made.blended, tmp_path / "run")
    (run / "run.json").unlink()
    assert explain(str(run), PARK, 0, 0).library == made.library.as_uri()


def test_another_library_is_refused(made: Made, tmp_path: Path) -> None:
    draw(tmp_path / "other.png", 64, 64, seed=9)
    digest = make_library([str(tmp_path / "other.png")], tmp_path / "other")
    with pytest.raises(MismatchError, match=f"does not have the index {made.index} of .*, only {digest}"):
        explain(str(made.blended), PARK, 0, 0, library=str(tmp_path / "other"))


def test_a_place_that_is_not_a_run_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="neither a knowledge library nor a run"):
        explain(str(tmp_path), PARK, 0, 0)
    with pytest.raises(UsageError, match="is a knowledge library"):
        explain(str(made.library), PARK, 0, 0)
    with pytest.raises(MismatchError, match="is a run; name a knowledge library"):
        explain(str(made.blended), PARK, 0, 0, library=str(made.sparse))


def test_an_output_that_is_no_longer_an_image_is_damaged(made: Made, tmp_path: Path) -> None:
    run = shutil.copytree(made.blended, tmp_path / "run")
    (run / PARK).write_bytes(b"nothing")
    with pytest.raises(DamagedError, match="is not an image"):
        explain(str(run), PARK, 0, 0)


def test_an_explanation_can_be_written_as_json(made: Made) -> None:
    found = json.loads(json.dumps(explain(str(made.blended), PARK, 0, 0).to_dict()))
    assert (found["width"], found["height"], found["cell_row"]) == (60, 56, 0)
    assert set(found["contributions"][0]["file_box"]) == {"x0", "y0", "x1", "y1"}
