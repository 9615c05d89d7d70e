"""Regions that have libraries of their own: what a region's library is not, never reaches it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kt_batch.errors import MismatchError, UsageError
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.store.image_filters import ImageFilter
from tests.support.shelf import Shelf, pixels, run
from tests.support.tiny import draw_all, painted_library, rows

EDGE = 8  # of 16 columns of cells
STATISTICS = {"swap": "statistics"}


def masks(folder: Path, left: int, right: int) -> Path:
    """Write a label image for each photograph, with one label left of the middle and one right of it."""
    labels = np.full((56, 72), left, np.uint8)
    labels[:, 36:] = right
    folder.mkdir(exist_ok=True)
    for name in ("11", "12"):
        Image.fromarray(labels).save(folder / f"{name}.png")
    return folder


def test_every_match_is_from_the_library_of_its_region_and_labels_may_change_places(
    shelf: Shelf, tmp_path: Path
) -> None:
    pair = [shelf.library, shelf.other]
    assert run(tmp_path / "run", shelf.photos, library=pair, mask=masks(tmp_path / "masks", 0, 1)).images == 2
    table = rows(tmp_path / "run", "provenance")
    assert len(table) == 2 * 15 * 12
    for row in table:
        left = row["col"] + 1 <= EDGE  # a patch of two columns; at the edge, its first pixel decides
        assert (row["library"] == str(shelf.library), row["source_image_id"] == shelf.ids[5]) == (left, not left)

    assert len(recompute(str(tmp_path / "run"), Recompute(2), no_progress).equal) == 2
    turned = masks(tmp_path / "turned", 1, 0)
    run(tmp_path / "other", shelf.photos, library=pair[::-1], mask=turned, unit_size=8)
    assert pixels(tmp_path / "run") == pixels(tmp_path / "other")

    masks(tmp_path / "masks", 1, 0)
    with pytest.raises(MismatchError, match="masks_sha256"):
        run(tmp_path / "run", shelf.photos, library=pair, mask=tmp_path / "masks")


@pytest.mark.parametrize("settings", [{}, STATISTICS])
@pytest.mark.parametrize("label", [0, 1])
def test_one_label_everywhere_gives_what_its_library_gives_alone(
    shelf: Shelf, tmp_path: Path, label: int, settings: dict[str, str]
) -> None:
    pair = [shelf.library, shelf.other]
    run(
        tmp_path / "run",
        shelf.photos,
        library=pair,
        mask=masks(tmp_path / "masks", label, label),
        settings=settings,
    )
    run(tmp_path / "alone", shelf.photos, library=pair[label], settings=settings)
    assert pixels(tmp_path / "run") == pixels(tmp_path / "alone")


def test_like_regions_take_libraries_in_turn(shelf: Shelf, tmp_path: Path) -> None:
    run(tmp_path / "run", shelf.photos, library=[shelf.library, shelf.other], regions=3)
    assert {row["library"] for row in rows(tmp_path / "run", "provenance")} == {str(shelf.library), str(shelf.other)}


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two libraries of the method painting, of one painting each."""
    root = tmp_path_factory.mktemp("painted")
    for seed in (1, 2):
        painted_library(draw_all(root / str(seed), [seed]), root / f"{seed}.lib")
    return root / "1.lib", root / "2.lib"


def test_paintings_hold_in_their_regions_and_matches_are_of_their_libraries(
    painted: tuple[Path, Path], shelf: Shelf, tmp_path: Path
) -> None:
    halves, photo = masks(tmp_path / "masks", 0, 1), shelf.photos / "11.png"
    run(tmp_path / "run", photo, method="painting", library=painted, mask=halves)
    strides = {"relu4_1": 8, "relu3_1": 4, "relu2_1": 2}
    for row in rows(tmp_path / "run", "provenance"):
        left = (row["col"] + 1) * strides[row["level"]] <= 32
        assert row["library"] == str(painted[0] if left else painted[1])
    for number in (0, 1):
        run(tmp_path / f"alone-{number}", photo, method="painting", library=painted[number])
    ours, *alone = (
        np.asarray(Image.open(tmp_path / each / "images/11.png.png")) for each in ("run", "alone-0", "alone-1")
    )
    assert (ours[:, :28] == alone[0][:, :28]).all()  # the edge is soft over nine pixels
    assert (ours[:, 36:] == alone[1][:, 36:]).all()
    assert (ours != alone[0]).any()


def test_a_painting_in_regions_is_enlarged_as_any_painting(
    painted: tuple[Path, Path], shelf: Shelf, tmp_path: Path
) -> None:
    everywhere = masks(tmp_path / "masks", 1, 1)
    run(tmp_path / "run", shelf.photos / "11.png", method="painting", library=painted, mask=everywhere, size=72)
    run(tmp_path / "alone", shelf.photos / "11.png", method="painting", library=painted[1], size=72)
    assert pixels(tmp_path / "run") == pixels(tmp_path / "alone")


def test_what_has_no_effect_in_regions_of_libraries_is_refused(shelf: Shelf) -> None:
    pair = (str(shelf.library), str(shelf.other))
    only = ImageFilter(images=(shelf.ids[1].hex(),))
    for name, choice, match in (
        ("knowledge", Choice(library=[f"{pair[0]}=2", pair[1]], regions=2), "so the weight of a --library has no"),
        ("knowledge", Choice(library=pair, regions=2, draw="random"), "so --source random has no effect"),
        ("knowledge", Choice(library=pair, regions=2, only=only), f"take '{shelf.other}', and the filter allows no"),
        ("identity", Choice(regions=2), "the method identity has none here"),
    ):
        with pytest.raises(UsageError, match=match):
            choose(name, {}, choice)
