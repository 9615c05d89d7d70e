"""The contact sheet is complete, self-contained and safe with any names."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kt_batch.errors import UsageError
from kt_batch.report.sheet import write_sheet
from tests.report.conftest import HOSTILE, Made
from tests.support.browser import check_page, page_of


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def sheet(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = {"Blended": str(made.blended), "Statistics": str(made.statistics), "Sparse": str(made.sparse)}
    return write_sheet(runs, tmp_path_factory.mktemp("sheet"))


def test_every_picture_is_stored_with_the_page_and_described(sheet: Path) -> None:
    images = Page(sheet).all("img")
    for image in images:
        path = sheet.parent / image["src"]
        assert path.resolve().is_relative_to(sheet.parent)
        with Image.open(path) as picture:
            assert (image["width"], image["height"]) == (str(picture.width), str(picture.height))
        assert image["alt"]
    # Per input: itself, 3 results, 2 maps (two runs match alike), 2 scales, 2 sources twice; and the lines once.
    assert len(images) == 3 * (1 + 3 + 2 + 2 + 4) + 1


@pytest.mark.browser
def test_a_browser_shows_every_picture_and_runs_nothing_that_a_name_says(sheet: Path) -> None:
    check_page(sheet)
    with page_of(sheet) as page:
        assert HOSTILE in page.inner_text("main")


def test_the_page_loads_no_remote_content_and_runs_no_script(sheet: Path) -> None:
    page = Page(sheet)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object", "form")]
    addresses = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(address.startswith("sheet-files/") for address in addresses)
    assert "url(" not in sheet.read_text()
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_a_hostile_name_is_text(sheet: Path) -> None:
    page = Page(sheet)
    assert HOSTILE in page.text
    assert all(image["src"] != "x" for image in page.all("img"))
    assert {path.suffix for path in (sheet.parent / "sheet-files").iterdir()} == {".jpg", ".png"}


def test_a_hostile_title_or_credit_is_text(made: Made, tmp_path: Path) -> None:
    page = Page(write_sheet({"<script>alert(1)</script>": str(made.blended)}, tmp_path, inputs_shown=1))
    assert "<script>alert(1)</script>" in page.text
    assert "A. Painter, CC0" in page.text
    assert not page.all("script")


def test_the_header_lists_runs_with_their_numbers(made: Made, sheet: Path) -> None:
    text = " ".join(Page(sheet).text.split())
    summary = json.loads((made.blended / "run.json").read_text())
    assert f"Blended geometric tree, 4 probes, top 2 kt-vgg relu3_1, 64 px 3 380 {summary['ncc_mean']:.3f}" in text
    assert f"{made.library.as_uri()} 2 images, 300 patches; licence: CC0; credit: A. Painter" in text


def test_the_sheet_shows_at_most_the_requested_inputs(made: Made, tmp_path: Path) -> None:
    page = Page(write_sheet({"Blended": str(made.blended)}, tmp_path, inputs_shown=2))
    assert len(page.all("article")) == 2
    assert "The first 2 of 3 images" in page.text


def test_equal_runs_give_equal_pages(made: Made, sheet: Path, tmp_path: Path) -> None:
    runs = {"Blended": str(made.blended), "Statistics": str(made.statistics), "Sparse": str(made.sparse)}
    again = write_sheet(runs, tmp_path)
    assert again.read_bytes() == sheet.read_bytes()
    files = [sorted((page.parent / "sheet-files").iterdir()) for page in (sheet, again)]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_a_missing_picture_is_reported_in_its_own_place(made: Made, tmp_path: Path) -> None:
    run = shutil.copytree(made.blended, tmp_path / "run")
    summary = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**summary, "library": str(tmp_path / "gone")}))
    (made.root / "photos" / "park").rename(made.root / "photos" / "away")
    try:
        page = Page(write_sheet({"Blended": str(run)}, tmp_path / "sheet"))
    finally:
        (made.root / "photos" / "away").rename(made.root / "photos" / "park")
    assert page.text.count("The input is no longer where it was") == 1
    assert "Not at hand" in page.text
    assert page.text.count("No preview") == 3 * 2
    assert "Where patches came from" not in page.text


def test_bytes_that_are_not_an_image_are_not_copied_to_the_page(made: Made, tmp_path: Path) -> None:
    library, run = (shutil.copytree(made.root / name, tmp_path / name) for name in ("library", "blended"))
    summary = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**summary, "library": str(library)}))
    for path in (library / "images").iterdir():
        table = pq.read_table(path)
        previews = pa.array([b"<svg onload='alert(1)'/>"] * len(table), pa.binary())
        table = table.set_column(table.schema.get_field_index("preview"), "preview", previews)
        path.unlink()
        pq.write_table(table, path)
        receipt = library / "receipts" / f"{path.name.split('-')[1]}.json"
        content = json.loads(receipt.read_text())
        for entry in content["tables"]:
            if entry["kind"] == "images":
                entry["bytes"] = path.stat().st_size  # whoever forges a table forges its receipt
        receipt.write_text(json.dumps(content))
    page = write_sheet({"Blended": str(run)}, tmp_path / "sheet")
    assert Page(page).text.count("No preview") == 3 * 2
    assert not [path for path in (page.parent / "sheet-files").iterdir() if b"alert" in path.read_bytes()]


def test_a_sheet_without_inputs_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no output to show in no run"):
        write_sheet({}, tmp_path)
    with pytest.raises(UsageError, match="a sheet of 0 inputs shows nothing"):
        write_sheet({"Blended": str(made.blended)}, tmp_path, inputs_shown=0)
    with pytest.raises(UsageError, match="is a knowledge library"):
        write_sheet({"Library": str(made.library)}, tmp_path)
