"""The real commands show edits: contact sheet, report, counts and tables."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from kt_batch.report.views import connect
from tests.e2e.conftest import kt
from tests.report.test_sheet import Page
from tests.support.pairs import draw_pairs
from tests.support.tiny import draw

UNLIKE = "unlike.png"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two photographs, one of them unlike the pairs."""
    folder = tmp_path_factory.mktemp("edits")
    before, after = draw_pairs(folder, range(1, 5))
    assert kt("extract", "--before", before, "--after", after, "--library", folder / "library").code == 0
    assert kt("fit", folder / "library").code == 0
    draw(folder / "photographs" / "like.png", 21, 90, 120)
    Image.new("RGB", (90, 60), (3, 3, 200)).save(folder / "photographs" / UNLIKE)
    ended = kt(
        "translate", folder / "photographs", "--method", "retouch", "--library", folder / "library",
        "--out", folder / "run",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return folder / "run"


def test_the_sheet_shows_the_doubtful_edit_first(run: Path, tmp_path: Path) -> None:
    ended = kt("sheet", run, "--out", tmp_path / "sheet", "--json")
    assert ended.code == 0, ended.err
    page = Page(Path(ended.json["page"]))
    words = " ".join(page.text.split())
    assert "1 of 2 photographs: look at this one." in words
    assert words.index(UNLIKE) < words.index("like.png", words.index(UNLIKE) + len(UNLIKE))
    assert len(page.all("img")) == 2 * (2 + 3 * 2)
    ended = kt("sheet", run, "--out", tmp_path / "sheet", "--review-below", 0, "--images", 1)
    assert ended.code == 0, ended.err
    assert "No edit has a confidence below 0.0." in (tmp_path / "sheet/index.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--images", 0), "--images"),
        (("--review-below", 2), "--review-below"),
        (("RUN",), "is named twice"),
    ],
)
def test_what_a_sheet_cannot_show_is_refused_in_words(
    words: tuple[object, ...], said: str, run: Path, tmp_path: Path
) -> None:
    ended = kt("sheet", run, *(run if word == "RUN" else word for word in words), "--out", tmp_path / "sheet")
    assert ended.code == 2
    assert said in ended.err


def test_a_page_of_others_is_never_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    ended = kt("sheet", run, "--out", tmp_path)
    assert ended.code == 2
    assert "exists already" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_the_report_names_the_edit_to_look_at_first(run: Path, tmp_path: Path) -> None:
    ended = kt("report", run, "--html", tmp_path / "report.html")
    assert f"1 of 2 edits with a confidence below 0.5; look at {UNLIKE} first" in ended.out
    page = " ".join(Page(tmp_path / "report.html").text.split())
    assert "1 of 2 edits has a confidence below 0.5" in page
    assert UNLIKE in page
    review = kt("report", run, "--review-below", 0, "--json").json["review"]
    assert review == {"edits": 2, "below": 0.0, "count": 0, "first": []}


def test_inspect_counts_the_edits_and_sql_has_them(run: Path) -> None:
    edits = kt("inspect", run, "--json").json["edits"]
    assert (edits["count"], edits["to_review"], edits["review_below"]) == (2, 1, 0.5)
    with closing(connect(str(run))) as connection:
        found = connection.execute("SELECT output FROM edits WHERE confidence < 0.5").fetchall()
    assert found == [(f"images/{UNLIKE}.png",)]


def test_a_limit_of_doubt_has_no_effect_on_a_library(run: Path) -> None:
    ended = kt("report", run.parent / "library", "--review-below", 0.4)
    assert ended.code == 2
    assert "--review-below has no effect" in ended.err
