"""The influence of sources: an output once more, without each of them."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cli.conftest import QUICK, Say
from tests.support.pairs import draw_pairs, fitted, paired
from tests.support.tiny import draw, draw_all

ONE = ("--threads", "1")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return draw(tmp_path / "photo.png", 11)


def run_of(kt: Say, photo: Path, *words: object) -> Path:
    """Translate a photograph and return the run."""
    run = photo.parent / "run"
    said = kt("translate", photo, "--out", run, *ONE, *words)
    assert said.code == 0, said.err
    return run


def influence(kt: Say, run: Path, *words: object) -> dict[str, Any]:
    said = kt("influence", run, "photo.png", "--out", run.parent / "sheet", "--json", *words)
    assert said.code == 0, said.err
    return said.json


def test_the_patches_of_a_source_that_is_left_out_come_from_others(kt: Say, photo: Path, tmp_path: Path) -> None:
    draw_all(tmp_path / "paintings", [1, 2, 3])
    draw(tmp_path / "paintings/<b>own.png", 11)  # the photograph itself is in the library
    library = tmp_path / "library"
    kt("extract", tmp_path / "paintings", "--library", library, *QUICK)
    kt("index", library, *ONE)
    run = run_of(kt, photo, "--library", library, "--certify")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    report = influence(kt, run)
    own, *others = report["sources"]
    assert Path(own["uri"]).name == "<b>own.png"
    assert own["share"] > 0.9
    assert own["sources_changed"] >= own["share"]
    assert own["change"] > 0.01
    assert own["ncc_loss"] > 0.05
    assert all(other["sources_changed"] < 0.1 and other["change"] < own["change"] for other in others)
    assert report["recorded_change"] < 0.002  # what is made here is the run's own picture, which has 8 bits
    assert report["ncc_mean"] == pytest.approx(1, abs=0.01)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    page = (tmp_path / "sheet/index.html").read_text()
    assert "<b>own" not in page
    assert escape("<b>own") in page
    for file in re.findall(r'src="([^"]+)"', page):
        with Image.open(tmp_path / "sheet" / file) as picture:
            picture.load()
    only = influence(kt, run, "--sources", 1)
    assert (only["sources"], only["left"]) == ([own], len(others))
    said = kt("influence", run, "photo.png", "--out", tmp_path / "sheet")
    assert f"{own['uri']}: share " in said.out


def test_a_painting_is_compared_at_its_coarse_level(kt: Say, photo: Path, tmp_path: Path) -> None:
    paintings, library = draw_all(tmp_path / "paintings", [1, 2]), tmp_path / "library"
    kt("extract", paintings, "--library", library, "--preset", "painting", "--size", 64, *ONE)
    kt("index", library, *ONE)
    report = influence(kt, run_of(kt, photo, "--library", library, "--preset", "painting"))
    assert [source["absent"] for source in report["sources"]] == [None, None]
    assert all(source["sources_changed"] >= source["share"] - 0.05 for source in report["sources"])


def test_the_only_source_cannot_be_left_out(kt: Say, photo: Path, tmp_path: Path) -> None:
    kt("extract", draw_all(tmp_path / "paintings", [1]), "--library", tmp_path / "library", *QUICK)
    kt("index", tmp_path / "library", *ONE)
    report = influence(kt, run_of(kt, photo, "--library", tmp_path / "library"))
    assert [source["absent"] for source in report["sources"]] == ["it is the only source there is"]
    assert "it is the only source there is" in (tmp_path / "sheet/index.html").read_text()


def test_retouch_is_fitted_again_without_the_pair(kt: Say, photo: Path, tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2, 3])
    paired(before, after, tmp_path / "pairs")
    fitted(tmp_path / "pairs")
    run = run_of(kt, photo, "--method", "retouch", "--library", tmp_path / "pairs")
    report = influence(kt, run)
    assert len(report["sources"]) == 3
    assert report["recorded_change"] < 0.003
    assert report["ncc_mean"] is None
    assert {(source["sources_changed"], source["ncc_loss"]) for source in report["sources"]} == {(None, None)}
    assert all(0 < source["change"] < 0.2 for source in report["sources"])
    page = (tmp_path / "sheet/index.html").read_text()
    assert page.count("<strong>Before</strong>") == page.count("<strong>After</strong>") == 3


def test_a_method_without_sources_to_leave_out_says_so_and_so_does_a_changed_photograph(
    kt: Say, photo: Path, library: Path, tmp_path: Path
) -> None:
    painting = draw(tmp_path / "painting.png", 1)
    run = run_of(kt, photo, "--method", "adain", "--style", painting, "--size", 64)
    said = kt("influence", run, "photo.png", "--out", tmp_path / "sheet")
    assert said.code == 2
    assert "is of the method adain, which searches no library and learns from no pairs" in said.err
    (tmp_path / "run").rename(tmp_path / "first")
    run = run_of(kt, photo, "--library", library)
    draw(photo, 12)
    said = kt("influence", run, "photo.png", "--out", tmp_path / "sheet")
    assert said.code == 1
    assert "holds other bytes than 'images/photo.png.png' was made from" in said.err
