"""The real command compares methods, and writes a page and a table."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.e2e.conftest import Ended, kt
from tests.support import style
from tests.support.browser import check_page, page_of

METHODS = "identity,adain,retouch,knowledge:swap=statistics,full_size=true"


def compare(images: Path, out: Path, *options: object) -> Ended:
    places = (images / "photographs", "--style", images / "paintings")
    return kt("compare", *places, "--out", out, "--size", 96, "--threads", 1, *options)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a comparison, of a photograph whose name is markup and a painting, and its JSON."""
    folder = tmp_path_factory.mktemp("compare")
    for side, draw in (("photographs", style.photograph), ("paintings", style.painting)):
        (folder / side).mkdir()
        draw(1).save(folder / side / "<b>first.png")
    (folder / "vgg.safetensors").write_bytes(style.vgg_file())
    ended = compare(
        folder, folder / "sheet", "--methods", METHODS, "--vgg-weights", folder / "vgg.safetensors", "--json"
    )
    assert ended.code == 0, ended.err
    return folder / "sheet", ended.json


def test_the_table_has_a_row_for_every_method_with_figures_or_a_reason(compared: tuple[Path, dict[str, Any]]) -> None:
    folder, report = compared
    rows = {method["name"]: method for method in report["methods"]}
    identity, adain, retouch, swap = rows.values()
    assert [each["explains"] for each in rows.values()] == ["nothing", "shares", None, "patches"]
    assert identity["means"] == report["photograph"]
    assert identity["means"]["structure"]["mean"] == 1
    assert adain["peak_bytes"] > identity["peak_bytes"] > 50e6
    assert retouch["absent"] == "The method retouch needs pairs, which no painting gives."
    assert swap["settings"]["full_size"] is True
    assert all(each["seconds"] >= 0 for each in (identity, adain, swap))
    table = json.loads((folder / "compare.json").read_text())
    assert table.pop("kind") == "kt-batch compare"
    for pair in table["pairs"]:
        for name, file in pair.pop("pictures").items():
            with Image.open(folder / file) as picture:
                assert (name, picture.size) == (name, (96, 64))
    assert table == {key: value for key, value in report.items() if key not in ("page", "table")}


def test_the_page_stands_alone_and_every_link_on_it_leads_somewhere(compared: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = compared
    page = (folder / "index.html").read_text()
    places = re.findall(r' id="([^"]+)"', page)
    assert len(places) == len(set(places))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(places)
    files = set(re.findall(r'src="([^"]+)"', page))
    assert all((folder / file).is_file() for file in files)
    assert page.count("<figure") == 2 + 3  # photograph and style; retouch has no column
    assert "<script" not in page
    assert "http:" not in page
    assert "<b>first" not in page
    assert escape("<b>first") in page
    assert "No picture by retouch: The method retouch needs pairs" in page


@pytest.mark.browser
def test_a_picture_opens_and_closes_without_a_script_and_a_phone_needs_no_scrolling(
    compared: tuple[Path, dict[str, Any]],
) -> None:
    page_file = compared[0] / "index.html"
    check_page(page_file)
    with page_of(page_file, 390, java_script_enabled=False) as page:
        width = page.locator("main").bounding_box()["width"]
        assert page.locator(".row").first.bounding_box()["width"] <= width <= 390
        view = page.locator(".view").first
        assert not view.is_visible()
        page.locator("figure a.frame").first.click()
        assert view.is_visible()
        view.locator("a.close").click()
        assert not view.is_visible()


def test_a_second_comparison_replaces_the_first_and_says_why_pictures_are_missing(
    compared: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = compared
    ended = compare(folder.parent, folder, "--methods", "retouch")
    assert ended.code == 0, ended.err
    assert "retouch  no picture: The method retouch needs pairs" in ended.out
    assert "No structure: VGG-19 is not given" in ended.out
    assert "by 0 methods" in (folder / "index.html").read_text()


def test_an_image_that_cannot_be_used_is_passed_over_and_named(tmp_path: Path) -> None:
    for side, draw in (("photographs", style.photograph), ("paintings", style.painting)):
        (tmp_path / side).mkdir()
        draw(1).save(tmp_path / side / "good.png")
        (tmp_path / side / "cut.png").write_bytes((tmp_path / side / "good.png").read_bytes()[:90])
    Image.new("RGB", (8, 8)).save(tmp_path / "photographs" / "small.png")
    ended = compare(tmp_path, tmp_path / "sheet", "--methods", "identity", "--json")
    assert ended.code == 0, ended.err
    names = [Path(each["uri"]).name for each in ended.json["unusable"]]
    assert names == ["cut.png", "small.png", "cut.png"]
    assert all(each["uri"] in each["reason"] for each in ended.json["unusable"])
    page = (tmp_path / "sheet/index.html").read_text()
    assert page.count("Passed over: ") == 3
    (tmp_path / "paintings/good.png").unlink()
    ended = compare(tmp_path, tmp_path / "none", "--methods", "identity")
    assert (ended.code, (tmp_path / "none").exists()) == (2, False)
    assert "None of 1 paintings can be used; the last: " in ended.err
