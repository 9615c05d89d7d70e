"""A painting names its sources at every level: explained, verified and made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from kt_batch.config import RunOptions
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.report.explain import explain
from kt_batch.report.inspect import inspect
from kt_batch.report.sheet import write_sheet
from kt_batch.report.sources import level_geometry
from kt_batch.runners.local import LocalRunner
from kt_batch.store.opening import open_library, open_run
from kt_batch.store.run import provenance_of
from tests.report.test_sheet import Page
from tests.support.tiny import draw_all, painted_library, rows

LEVELS = ("relu4_1", "relu3_1", "relu2_1")

# Photographs have 72 x 56 pixels, their working images 64 x 50, padded to 64 x 56: 8 x 7, 16 x 14 and 32 x 28 cells.
PATCHES = {"relu4_1": 7 * 6, "relu3_1": 15 * 13, "relu2_1": 31 * 27}


def painted(root: Path, run: str, unit_size: int) -> Path:
    """Paint the photographs `root/photos` like the pictures of `root/library`."""
    config, sources = choose("painting", {}, Choice(library=root / "library", cache=root / "cache"))
    options = RunOptions(threads=1, unit_size=unit_size)
    request = TranslateRequest([str(root / "photos")], str(root / run), config, sources, options)
    translate(request, LocalRunner(), no_progress)
    return root / run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("paintings")
    draw_all(root / "paintings", [1, 2, 3])
    draw_all(root / "photos", [11, 12])
    painted_library(root / "paintings", root / "library")
    return root


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    return painted(root, "run", unit_size=1)


def test_every_patch_of_every_level_has_a_source_that_is_there(root: Path, run: Path) -> None:
    opened = open_run(str(run))
    images = {image["image_id"]: (image["width"], image["height"]) for image in rows(root / "library", "images")}
    for output in opened.outputs.values():
        for level, patches in PATCHES.items():
            table = provenance_of(opened, output, level)
            assert table.num_rows == patches
            stride = level_geometry(level).stride
            for row in table.to_pylist():
                width, height = images[row["source_image_id"]]
                # A source is padded to whole cells of the coarse level: 64 x 50 pixels to 64 x 56.
                assert row["source_col"] <= -(-width // 8) * 8 // stride - 2
                assert row["source_row"] <= -(-height // 8) * 8 // stride - 2


def test_the_receipt_counts_the_patches_that_the_index_was_asked_for(run: Path) -> None:
    receipts = open_run(str(run)).committed.receipts.values()
    assert [receipt.patches for receipt in receipts] == [PATCHES["relu4_1"]] * 2
    assert inspect(str(run))["patches"] == 2 * PATCHES["relu4_1"]


def test_a_pixel_is_explained_at_every_level(root: Path, run: Path) -> None:
    found = explain(str(run), "11.png", 30, 20)
    assert tuple(each.level for each in found.levels) == LEVELS
    assert [(each.cell_row, each.cell_col) for each in found.levels] == [(2, 3), (5, 7), (10, 15)]
    uris = {item.uri for unit in open_library(str(root / "library")).committed.ledger.units() for item in unit.items}
    for each in found.levels:
        assert sum(part.weight for part in each.contributions) == pytest.approx(1.0)
        for part in each.contributions:
            assert set(part.uris) <= uris
            assert 0 <= part.file_box.x0 < part.file_box.x1 <= 72
            assert 0 <= part.file_box.y0 < part.file_box.y1 <= 56


def test_the_texture_of_a_pixel_comes_from_a_smaller_box_than_its_form(run: Path) -> None:
    levels = explain(str(run), "11.png", 30, 20).levels
    widths = [max(part.box.x1 - part.box.x0 for part in each.contributions) for each in levels]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] <= 12  # two cells of relu2_1 see 12 pixels


def test_paintings_are_verified_made_again_and_shown(root: Path, run: Path, tmp_path: Path) -> None:
    found = verify(str(run), no_progress)
    assert found.faults == ()
    assert found.digest == verify(str(painted(root, "one unit", unit_size=2)), no_progress).digest
    summary = recompute(str(run), Recompute(2), no_progress)
    assert (sorted(summary.equal), summary.close, summary.different) == (["11.png", "12.png"], [], [])
    text = " ".join(Page(write_sheet({"Painted": str(run)}, tmp_path)).text.split())
    assert "Painted painting " in text
    assert "decoders_sha256" not in text
    assert text.index("Where forms came from") < text.index("Where textures came from")
