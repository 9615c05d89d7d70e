"""The influence of sources: an output once more, without each of them."""

from __future__ import annotations

import re
from collections import defaultdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kt_batch.evaluation.left_out import shares_of_pixels
from kt_batch.report.session import Session, find_output
from tests.cli.conftest import QUICK, Say
from tests.support.banks import save_bank, save_network
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


def made_by(run: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the picture of a run, in [0, 1]."""
    with Image.open(run / "images/photo.png.png") as picture:
        return np.asarray(picture, np.float64) / 255


def libraries_of(kt: Say, place: Path, **seeds: list[int]) -> list[Path]:
    """Extract and index a library for each name, of drawings with these seeds."""
    for name, drawn in seeds.items():
        kt("extract", draw_all(place / f"{name}.paintings", drawn), "--library", place / name, *QUICK)
        kt("index", place / name, *ONE)
    return [place / name for name in seeds]


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
    assert (
        "is of the method adain, which searches no library, learns from no pairs and mixes no filter banks" in said.err
    )
    (tmp_path / "run").rename(tmp_path / "first")
    run = run_of(kt, photo, "--library", library)
    draw(photo, 12)
    said = kt("influence", run, "photo.png", "--out", tmp_path / "sheet")
    assert said.code == 1
    assert "holds other bytes than 'images/photo.png.png' was made from" in said.err


def test_a_source_is_left_out_of_all_libraries_that_hold_it(kt: Say, photo: Path, tmp_path: Path) -> None:
    first, second = libraries_of(kt, tmp_path, first=[11, 1], second=[2, 11])  # 11 is the photograph itself
    report = influence(kt, run_of(kt, photo, "--library", first, "--library", second))
    own = report["sources"][0]
    assert (report["left_out"], Path(own["uri"]).name) == ("image", "11.png")
    assert own["share"] > 0.9
    assert own["sources_changed"] >= own["share"]  # no patch of it is found in the second library
    assert own["change"] > 0.01


def test_without_a_library_the_picture_is_that_of_a_run_of_the_others(kt: Say, photo: Path, tmp_path: Path) -> None:
    first, second = libraries_of(kt, tmp_path, first=[11, 1], second=[2, 3])
    run = run_of(kt, photo, "--library", first, "--library", second)
    whole, picture = run.rename(tmp_path / "whole"), made_by(tmp_path / "whole")
    changed = float(np.abs(picture - made_by(run_of(kt, photo, "--library", second))).mean())
    report = influence(kt, whole, "--by", "library")
    assert report["left_out"] == "library"
    own, *others = report["sources"]  # a library without a match is no source
    assert own["id"] == str(first)
    assert {own["id"], *(other["id"] for other in others)} <= {str(first), str(second)}
    assert own["share"] + sum(other["share"] for other in others) == pytest.approx(1, abs=1e-5)
    assert own["share"] > 0.9
    assert own["sources_changed"] >= own["share"]
    assert own["change"] == pytest.approx(changed, abs=0.002)  # the pictures of runs have 8 bits
    assert own["change"] > 0.01
    assert "Without first" in (tmp_path / "sheet/index.html").read_text()


def test_the_libraries_of_regions_cannot_be_left_out_and_a_run_of_one_has_none(
    kt: Say, photo: Path, tmp_path: Path
) -> None:
    first, second = libraries_of(kt, tmp_path, first=[1, 3], second=[2])
    (tmp_path / "masks").mkdir()
    labels = np.zeros((56, 72), np.uint8)
    labels[:, 36:] = 1
    Image.fromarray(labels).save(tmp_path / "masks/photo.png")
    run = run_of(kt, photo, "--library", first, "--library", second, "--mask", tmp_path / "masks")
    report = influence(kt, run)
    absent = {Path(source["uri"]).name: source["absent"] for source in report["sources"]}
    assert absent == {"1.png": None, "3.png": None, "2.png": "a region has no other source"}
    assert report["recorded_change"] < 0.002  # the label image is used here too
    (tmp_path / "run").rename(tmp_path / "regions")
    said = kt("influence", run_of(kt, photo, "--library", first), "photo.png", "--out", tmp_path, "--by", "library")
    assert said.code == 2
    assert "was not made from several libraries, so --by library has none to leave out" in said.err


def test_the_share_of_a_source_is_its_share_of_the_pixels_without_padding(
    kt: Say, library: Path, tmp_path: Path
) -> None:
    photo = draw(tmp_path / "photo.png", 11, 30, 21)  # padded to 32 x 24
    session = Session.open(str(run_of(kt, photo, "--library", library, "--top-k", "2")))
    output = find_output(session.run, "photo.png")
    rows = session.provenance(output).to_pylist()
    covering = defaultdict(list)
    for row in rows:
        for place in ((0, 0), (0, 1), (1, 0), (1, 1)):
            covering[row["row"] + place[0], row["col"] + place[1]].append(row)
    shares: defaultdict[str, float] = defaultdict(float)
    for y in range(21):
        for x in range(30):
            found = covering[y // 4, x // 4]
            for row in found:  # each patch has two matches, whose weights sum to 1
                shares[row["source_image_id"].hex()] += row["weight"] / (len(found) / 2) / (30 * 21)
    assert shares_of_pixels(session, output, "source_image_id") == pytest.approx(dict(shares), abs=1e-6)


def test_without_a_bank_the_others_have_their_weights_divided_by_what_is_left(
    kt: Say, photo: Path, tmp_path: Path
) -> None:
    network = save_network(tmp_path / "banks")
    one, two, three = (save_bank(tmp_path / f"banks/{n}.bank.safetensors", network, n) for n in (1, 2, 3))
    run = run_of(kt, photo, "--method", "stylebank", "--bank", f"{one}=2", "--bank", two, "--bank", f"{three}=1")
    report = influence(kt, run)
    assert (report["left_out"], report["recorded_change"] < 0.002) == ("bank", True)
    main, *others = report["sources"]
    assert (main["uri"], main["share"], {other["share"] for other in others}) == (str(one), 0.5, {0.25})
    whole = made_by(run)
    run.rename(tmp_path / "whole")
    alone = run_of(kt, photo, "--method", "stylebank", "--bank", two, "--bank", three)  # of 1/4 and 1/4: 1/2 and 1/2
    changed = float(np.abs(whole - made_by(alone)).mean())
    assert main["change"] == pytest.approx(changed, abs=0.002)  # the pictures of runs have 8 bits
    assert main["change"] > 0.005
    alone.rename(tmp_path / "alone")
    single = run_of(kt, photo, "--method", "stylebank", "--bank", two)
    said = kt("influence", single, "photo.png", "--out", tmp_path / "sheet")
    assert said.code == 2
    assert "was made with a single filter bank; without it there is no picture to compare" in said.err


def test_a_page_among_the_files_of_a_run_is_refused_before_anything_is_written(
    kt: Say, photo: Path, library: Path
) -> None:
    run = run_of(kt, photo, "--library", library)
    before = sorted(run.rglob("*"))
    for command in (("influence", run, "photo.png"), ("sheet", run), ("compare", photo, "--style", photo)):
        said = kt(*command, "--out", run / "images/new")
        assert said.code == 2
        assert "lies among the files of the library or run" in said.err
    assert sorted(run.rglob("*")) == before
