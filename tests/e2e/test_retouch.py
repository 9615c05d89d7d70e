"""The real commands learn a hand from pairs and edit photographs at their full size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kt_batch.kernels.quadratic import reference_map
from tests.e2e.conftest import kt
from tests.support.pairs import draw_pairs, edit_file, warm
from tests.support.tiny import draw, hashes, rows


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a fitted library of eight pairs of one hand."""
    folder = tmp_path_factory.mktemp("pairs")
    before, after = draw_pairs(folder, range(1, 9))
    ended = kt("extract", "--before", before, "--after", after, "--library", folder / "library", "--threads", 1)
    assert ended.code == 0, ended.err
    assert "8 pairs, 0 rejected" in ended.out
    ended = kt("fit", folder / "library", "--json")
    assert (ended.code, ended.json["pairs"]) == (0, 8)
    return folder / "library"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    draw(folder / "a.png", 21, 400, 300)
    draw(folder / "b.png", 22, 90, 120)
    return folder


@pytest.fixture(scope="module")
def run(library: Path, photos: Path) -> Path:
    place = photos.parent / "run"
    ended = kt("translate", photos, "--method", "retouch", "--library", library, "--out", place, "--threads", 1)
    assert ended.code == 0, ended.err
    return place


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), np.float64) / 255


def test_photographs_come_back_at_their_size_and_nearer_to_the_hand_than_unedited(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png"):
        before, made = pixels(photos / name), pixels(run / f"images/{name}.png")
        wanted = pixels(edit_file(photos / name, tmp_path / name, warm))
        assert made.shape == before.shape
        assert np.mean((made - wanted) ** 2) < 0.2 * np.mean((before - wanted) ** 2)


def test_the_recorded_map_is_what_was_applied(run: Path, photos: Path) -> None:
    edits = {row["output"]: row for row in rows(run, "edits")}
    assert edits.keys() == {"images/a.png.png", "images/b.png.png"}
    row = edits["images/a.png.png"]
    before = pixels(photos / "a.png").astype(np.float32)
    wanted = reference_map(before, np.reshape(row["map"], (10, 3))).clip(0, 1)
    assert np.abs(wanted - pixels(run / "images/a.png.png")).max() <= 1 / 255
    assert 0 <= row["confidence"] <= 1
    assert 0 <= row["guard"] <= 1


def test_explain_names_the_pairs_that_shaped_the_edit_with_signed_shares(run: Path, library: Path) -> None:
    ended = kt("explain", run, "a.png", "--at", "3,4", "--json")
    assert ended.code == 0, ended.err
    sources = ended.json["sources"]
    assert len(sources) == 8
    assert sum(source["share"] for source in sources) == pytest.approx(1, abs=1e-4)
    assert all(Path(source["uri"]).parent.name == "before" for source in sources)
    assert ended.json["edit"]["library"] == str(library)
    shown = kt("explain", run, "a.png", "--at", "3,4")
    assert "edited after the pairs of" in shown.out


def test_no_strength_is_the_photograph(library: Path, photos: Path, tmp_path: Path) -> None:
    ended = kt(
        "translate", photos, "--method", "retouch", "--strength", 0, "--library", library, "--out", tmp_path / "run"
    )
    assert ended.code == 0, ended.err
    for name in ("a.png", "b.png"):
        assert np.array_equal(pixels(tmp_path / f"run/images/{name}.png"), pixels(photos / name))


def test_two_workers_and_other_units_give_the_same_bytes(
    library: Path, photos: Path, run: Path, tmp_path: Path
) -> None:
    ended = kt(
        "translate", photos, "--method", "retouch", "--library", library, "--out", tmp_path / "run", "--threads", 1,
        "--unit-size", 1,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert hashes(tmp_path / "run", "images") == hashes(run, "images")
    verdicts = [kt("verify", place, "--json").json for place in (run, tmp_path / "run")]
    assert verdicts[0]["faults"] == []
    assert verdicts[0]["digest"] == verdicts[1]["digest"]


def test_outputs_are_computed_again_and_are_equal(run: Path) -> None:
    ended = kt("verify", run, "--recompute", 2, "--json")
    assert ended.code == 0, ended.err
    assert sorted(ended.json["recompute"]["equal"]) == ["a.png", "b.png"]


def test_edits_are_exported_as_a_table_and_as_the_map(run: Path, library: Path, tmp_path: Path) -> None:
    assert kt("lut", run, "a.png", "--to", tmp_path / "a.cube", "--size", 17).code == 0
    lines = (tmp_path / "a.cube").read_text().splitlines()
    assert "LUT_3D_SIZE 17" in lines
    assert sum(line[0].isdigit() for line in lines if line) == 17**3
    assert kt("lut", run, "a.png", "--to", tmp_path / "a.json").code == 0
    (row,) = (row for row in rows(run, "edits") if row["output"] == "images/a.png.png")
    assert np.array_equal(np.ravel(json.loads((tmp_path / "a.json").read_text())["map"]), row["map"])
    assert kt("lut", library, "--to", tmp_path / "hand.cube").code == 0
    refused = kt("lut", run, "a.png", "--to", tmp_path / "a.cube")
    assert refused.code == 2
    assert "exists already" in refused.err


def test_an_exported_edit_is_written_among_the_files_of_no_run_and_no_library(run: Path, library: Path) -> None:
    before = [hashes(place) for place in (run, library)]
    for words in (
        (run, "a.png", "--to", run / "images/a.cube"),
        (run, "a.png", "--to", run / "edits/a.json"),
        (run, "a.png", "--to", library / "fits/a.json"),
        (library, "--to", library / "pairs/hand.cube"),
        (library, "--to", run / "receipts/hand.json"),
    ):
        refused = kt("lut", *words, "--force")
        assert (refused.code, "lies among the files of the library or run" in refused.err) == (2, True)
    assert [hashes(place) for place in (run, library)] == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--library", "LIBRARY", "--size", "64"), "--size 64 has no effect with retouch"),
        ((), "The method retouch needs --library"),
        (("--library", "LIBRARY", "--style", "a.png"), "does not use --style"),
        (("--library", "LIBRARY", "--strength", "1.5"), "strength"),
    ],
)
def test_what_retouch_cannot_use_is_refused_in_words(
    words: tuple[str, ...], said: str, library: Path, photos: Path, tmp_path: Path
) -> None:
    named = [str(library) if word == "LIBRARY" else word for word in words]
    ended = kt("translate", photos, "--method", "retouch", *named, "--out", tmp_path / "run")
    assert ended.code == 2
    assert said in ended.err


def test_a_library_that_grew_asks_for_a_new_fit(tmp_path: Path, photos: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2, 3])
    words = ("--before", before, "--after", after, "--library", tmp_path / "library")
    assert kt("extract", *words).code == 0
    refused = kt("translate", photos, "--method", "retouch", "--library", tmp_path / "library", "--out", tmp_path / "r")
    assert "has no fit of the pairs that it holds now; run: kt-batch fit" in refused.err
    refused = kt("extract", *words, "--stride", 2)
    assert "--stride 2 has no effect on pairs" in refused.err


def test_the_metadata_of_an_edit_says_how_it_was_made(run: Path, library: Path) -> None:
    (fit,) = (path for path in (library / "fits").iterdir() if path.suffix != ".json")
    content = (run / "images/a.png.png").read_bytes()
    assert b"algorithmicallyEnhanced" in content
    assert b"retouch" in content
    assert fit.name[:16].encode() in content
