"""Paintings larger than their library's pictures: planned, made, explained, verified and made again."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kt_batch.cli.inspection import enlarged_lines
from kt_batch.config import MethodConfig, RunOptions
from kt_batch.kernels.sizes import fit
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.report.explain import explain
from kt_batch.report.session import Session, find_output
from kt_batch.report.sheet import write_sheet
from kt_batch.runners.local import LocalRunner
from kt_batch.store.opening import open_run
from kt_batch.store.run import Run, provenance_of, read_output
from tests.support.tiny import draw, draw_all, painted_library

SIZE = 64  # of the library


def painted(root: Path, run: str, size: int | None) -> tuple[Path, MethodConfig]:
    """Paint the photographs `root/photos` at a size, like the pictures of `root/library`."""
    config, sources = choose("painting", {}, Choice(library=root / "library", cache=root / "cache", size=size))
    request = TranslateRequest([str(root / "photos")], str(root / run), config, sources, RunOptions(threads=1))
    translate(request, LocalRunner(), no_progress)
    return root / run, config


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("large")
    draw_all(root / "paintings", [1, 2])
    draw(root / "photos/wide.png", 11, 130, 50)
    draw(root / "photos/small.png", 12, 60, 48)
    draw(root / "photos/twice.png", 13, 128, 96)
    painted_library(root / "paintings", root / "library")
    return root


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    return painted(root, "run", 100)[0]


def output(run: Path, name: str) -> np.ndarray:
    opened = open_run(str(run))
    data = read_output(opened, opened.outputs[f"images/{name}.png"])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)


def test_the_painter_works_at_the_size_of_its_library(root: Path) -> None:
    choice = Choice(library=root / "library", cache=root / "cache")
    sizes = {}
    for size in (None, 32, 64, 65, 4096):
        config, _ = choose("painting", {}, Choice(**{**vars(choice), "size": size}))
        assert config.encoder is not None
        sizes[size] = (config.encoder.size, config.size, config.working_size)
    assert sizes == {
        None: (64, None, 64),
        32: (32, None, 32),
        64: (64, None, 64),
        65: (64, 65, 65),
        4096: (64, 4096, 4096),
    }


def test_pictures_are_as_large_as_was_asked_for_and_never_enlarged_beyond_the_photograph(run: Path) -> None:
    assert output(run, "wide.png").shape == (38, 100, 3)
    assert output(run, "small.png").shape == (48, 60, 3)


def test_a_photograph_no_larger_than_the_librarys_pictures_is_painted_as_without_a_size(root: Path, run: Path) -> None:
    plain, _ = painted(root, "plain", None)
    assert (output(run, "small.png") == output(plain, "small.png")).all()
    tables = [provenance_of(opened, opened.outputs["images/small.png.png"]) for opened in map(_open, (run, plain))]
    assert tables[0].drop_columns(["library"]).equals(tables[1].drop_columns(["library"]))


def _open(run: Path) -> Run:
    return open_run(str(run))


def test_a_large_picture_reduced_is_like_the_small_one(root: Path, run: Path) -> None:
    plain, _ = painted(root, "plain", None)
    small = output(plain, "twice.png")
    assert small.shape == (48, 64, 3)
    large = Image.fromarray(output(run, "twice.png").astype(np.uint8))
    reduced = np.asarray(large.resize((64, 48), Image.Resampling.BOX), int)
    assert np.abs(reduced - small).mean() < 16


def test_a_pixel_is_explained_by_the_cells_at_which_the_painter_worked(run: Path) -> None:
    # The painter saw 64 x 24 pixels: the output's size reduced. The file's own, reduced, would be 64 x 25, and have
    # one more row of cells.
    assert (fit(130, 50, 64), fit(100, 38, 64)) == ((64, 25), (64, 24))
    found = explain(str(run), "wide.png", 99, 37)
    assert found.enlarged_from == (64, 24)
    said = "Finer detail: the photograph's own, in painted colours (painted at 64 x 24, then enlarged)"
    assert enlarged_lines(found) == [said]
    # Pixel 99 of 100 is 63 of 64, and 37 of 38 is 23 of 24; cells have 8, 4 and 2 pixels.
    assert [(each.cell_row, each.cell_col) for each in found.levels] == [(2, 7), (5, 15), (11, 31)]
    for each in found.levels:
        assert sum(part.weight for part in each.contributions) == pytest.approx(1.0)


def test_the_cells_of_a_large_picture_are_those_of_its_provenance(run: Path) -> None:
    session = Session.open(str(run))
    named = find_output(session.run, "wide.png")
    table = session.provenance(named)
    rows, cols = (table[name].to_numpy().max() + 2 for name in ("row", "col"))
    assert session.cell_shape(named) == (rows, cols) == (3, 8)


def test_a_picture_that_was_not_enlarged_is_not_said_to_be(run: Path) -> None:
    found = explain(str(run), "small.png", 5, 5)
    assert (found.enlarged_from, enlarged_lines(found)) == (None, [])


def test_large_paintings_are_verified_made_again_and_shown(root: Path, run: Path, tmp_path: Path) -> None:
    assert verify(str(run), no_progress).faults == ()
    summary = recompute(str(run), Recompute(3), no_progress)
    assert (sorted(summary.equal), summary.close, summary.different) == (["small.png", "twice.png", "wide.png"], [], [])
    assert write_sheet({"Large": str(run)}, tmp_path).is_file()
