"""The real command tells what pairs teach, on photographs that were left out."""

from __future__ import annotations

from html import escape
from pathlib import Path

import pytest

from tests.e2e.conftest import kt
from tests.support.pairs import draw_pairs, edit_file, listed, paired


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    before, after = draw_pairs(folder, range(1, 7))
    paired(before, after, folder / "library")
    return folder / "library"


def test_the_figures_are_printed_and_written_as_a_page(library: Path, tmp_path: Path) -> None:
    page = tmp_path / "pairs.html"
    ended = kt("evaluate", "pairs", library, "--html", page, "--json", "--threads", 1)
    assert ended.code == 0, ended.err
    report = ended.json
    assert report["sentence"] == "With 6 pairs, edits are closer to yours than no edit on 6 of 6 photographs."
    assert report["methods"]["retouch"]["psnr"] > report["methods"]["no edit"]["psnr"] + 5
    assert {gain["over"] for gain in report["gains"]} == report["methods"].keys() - {"retouch"}
    content = page.read_text()
    assert report["sentence"] in content
    assert all(f"<td>{escape(name)}</td>" in content for name in report["methods"] if name != "retouch")
    assert all(name in content for name in report["names"].values())
    assert "<script" not in content


def test_the_statistics_swap_of_the_paper_is_measured_when_asked_for(library: Path) -> None:
    words = ("evaluate", "pairs", library, "--json", "--threads", 1)
    plain, more = kt(*words), kt(*words, "--statistics-swap")
    assert (plain.code, more.code) == (0, 0), more.err
    added = {"statistics swap, decoded", "statistics swap, at full size"}
    assert more.json["methods"].keys() - plain.json["methods"].keys() == added
    assert {name: more.json["methods"][name] for name in plain.json["methods"]} == plain.json["methods"]


def test_the_page_replaces_an_earlier_one_and_no_other_file(library: Path, tmp_path: Path) -> None:
    page, other = tmp_path / "pairs.html", tmp_path / "other.html"
    other.write_text("mine")
    assert kt("evaluate", "pairs", library, "--html", page).code == 0
    assert kt("evaluate", "pairs", library, "--html", page).code == 0
    refused = kt("evaluate", "pairs", library, "--html", other)
    assert (refused.code, other.read_text()) == (2, "mine")


def test_a_pair_whose_file_is_gone_is_named(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2, 3])
    paired(before, after, tmp_path / "library")
    (after / "2.png").unlink()
    ended = kt("evaluate", "pairs", tmp_path / "library")
    assert ended.code == 1
    assert "2.png" in ended.err


def test_two_pairs_are_said_to_be_too_few_and_one_cannot_be_evaluated(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2])
    paired(before, after, tmp_path / "library")
    for words in (("fit", tmp_path / "library"), ("evaluate", "pairs", tmp_path / "library")):
        assert "warning: 2 photographs are too few to learn from" in kt(*words).out
        assert kt(*words, "--json").json["warning"].startswith("2 photographs are too few to learn from")
    paired(before / "1.png", after / "1.png", tmp_path / "one")
    assert "warning: 1 photograph is too few to learn from" in kt("fit", tmp_path / "one").out
    refused = kt("evaluate", "pairs", tmp_path / "one")
    assert (refused.code, "at least 2 photographs; those here show 1" in refused.err) == (2, True)


def test_two_edits_of_one_photograph_are_left_out_together(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, range(1, 5))
    (tmp_path / "two.csv").write_text("before,after\nbefore/1.png,second/1.png\n")
    edit_file(before / "1.png", tmp_path / "second/1.png", lambda values: values**1.4)
    paired(before, after, tmp_path / "library")
    listed(tmp_path / "two.csv", tmp_path / "library")
    assert "fitted 5 pairs of 4 photographs" in kt("fit", tmp_path / "library").out
    ended = kt("evaluate", "pairs", tmp_path / "library", "--html", tmp_path / "pairs.html")
    assert "With 5 pairs of 4 photographs, edits are closer to yours than no edit on " in ended.out
    assert "pairs of one photograph were left out together" in ended.out
    assert "those of each of 4 photographs left out together" in (tmp_path / "pairs.html").read_text()
