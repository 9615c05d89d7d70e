"""The sheet of a run that edits photographs: tone curve, influential pairs, and doubtful edits first."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from kt_batch.config import RunOptions
from kt_batch.errors import DamagedError, UsageError
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.report.recorded_edits import Review, edit_facts, review_edits
from kt_batch.report.session import Session
from kt_batch.report.sheet import Extras, write_sheet
from kt_batch.report.sheet_edits import PairedSources
from kt_batch.runners.local import LocalRunner
from kt_batch.store import layout
from tests.report.conftest import HOSTILE
from tests.report.test_sheet import Page
from tests.support.gain import make_gain_run
from tests.support.hostile_libraries import column, part_with
from tests.support.pairs import draw_pairs, edit_file, fitted, paired
from tests.support.tiny import draw, rows

UNLIKE = "unlike.png"


def retouch(photographs: Path, library: Path, run: Path, **settings: object) -> Path:
    config, sources = choose("retouch", settings, Choice(library=str(library)))
    options = RunOptions(threads=1)
    translate(TranslateRequest([str(photographs)], str(run), config, sources, options), LocalRunner(), no_progress)
    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a fitted library of five pairs and a run of three photographs, one unlike the pairs."""
    folder = tmp_path_factory.mktemp("edits")
    before, after = draw_pairs(folder, range(1, 5))
    edit_file(draw(before / f"{HOSTILE}.png", 5, 96, 72), after / f"{HOSTILE}.png")
    paired(before, after, folder / "library")
    fitted(folder / "library")
    for number in (1, 2):
        draw(folder / "photographs" / f"{number}.png", 20 + number, 90, 120)
    Image.new("RGB", (90, 60), (3, 3, 200)).save(folder / "photographs" / UNLIKE)
    retouch(folder / "photographs", folder / "library", folder / "run")
    return folder


@pytest.fixture
def copied(place: Path, tmp_path: Path) -> Path:
    """Return a copy of the folder, to damage."""
    return Path(shutil.copytree(place, tmp_path / "copy"))


def text_of(page: Path) -> str:
    return " ".join(Page(page).text.split())


def confidences(place: Path) -> dict[str, float]:
    return {Path(row["output"]).name.removesuffix(".png"): row["confidence"] for row in rows(place / "run", "edits")}


def forge_edits(run: Path, name: str, value: object) -> None:
    """Give all edits of a run another value of a column, with a receipt that fits."""

    def changed(table: pa.Table) -> pa.Array:
        return pa.array([value] * len(table), table.schema.field(name).type)

    part_with(layout.EDITS, column(name, changed))(run)


def test_each_photograph_has_before_after_a_curve_and_three_pairs(place: Path, tmp_path: Path) -> None:
    page = Page(write_sheet({"Mine": str(place / "run")}, tmp_path))
    assert len(page.all("img")) == 3 * (2 + 3 * 2)
    assert len(page.all("polyline")) == 3 * 3
    words = " ".join(page.text.split())
    assert words.count("Before") == words.count("After") == words.count("Tone curve of greys") == 3
    assert "Paired library" in words
    assert "5 pairs" in words
    assert not [word for word in ("Not at hand", "Sources used most", "NCC") if word in words]
    addresses = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(address.startswith("sheet-files/") for address in addresses)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object", "form")]


def test_the_pairs_shown_are_those_with_the_largest_shares_of_either_sign(place: Path, tmp_path: Path) -> None:
    recorded = [row for row in rows(place / "run", "provenance") if row["output"] == "images/1.png.png"]
    wanted = sorted((row["share"] for row in recorded), key=abs, reverse=True)[:3]
    words = text_of(write_sheet({"Mine": str(place / "run")}, tmp_path))
    own = words[words.index(str(place / "photographs" / "1.png")) :]
    assert re.findall(r"([+-]\d+\.\d) %", own)[:3] == [f"{100 * share:+.1f}" for share in wanted]


def test_doubtful_edits_come_first_and_are_marked(place: Path, tmp_path: Path) -> None:
    found = confidences(place)
    assert found[UNLIKE] < 0.5
    words = text_of(write_sheet({"Mine": str(place / "run")}, tmp_path, inputs_shown=1))
    assert "1 of 3 photographs, each with the tone curve" in words
    assert str(place / "photographs" / UNLIKE) in words
    assert str(place / "photographs" / "1.png") not in words
    assert f"Look at this one: it is unlike the pairs (confidence {found[UNLIKE]:.2f})." in words


def test_the_limit_of_doubt_can_be_chosen(place: Path, tmp_path: Path) -> None:
    run = {"Mine": str(place / "run")}
    none = text_of(write_sheet(run, tmp_path / "none", extras=Extras(below=0.0)))
    assert "No edit has a confidence below 0.0." in none
    assert "Look at this one" not in none
    below = max(confidences(place).values()) + 0.001
    assert text_of(write_sheet(run, tmp_path / "all", extras=Extras(below=below))).count("Look at this one") == 3


def test_a_limit_of_doubt_without_edits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--review-below has no effect"):
        write_sheet({"Gain": str(make_gain_run(tmp_path))}, tmp_path / "sheet", extras=Extras(below=0.4))
    assert not (tmp_path / "sheet").exists()


def test_names_of_pairs_are_text(place: Path, tmp_path: Path) -> None:
    page = Page(write_sheet({"Mine": str(place / "run")}, tmp_path))
    shown = [row for row in rows(place / "run", "provenance") if HOSTILE in row["source_uri"]]
    assert len(shown) == 3
    assert HOSTILE in page.text
    assert all(image["src"] != "x" for image in page.all("img"))


def test_without_its_library_pairs_have_names_and_no_pictures(copied: Path, tmp_path: Path) -> None:
    forge_edits(copied / "run", "library", str(tmp_path / "gone"))
    words = text_of(write_sheet({"Mine": str(copied / "run")}, tmp_path / "sheet"))
    assert words.count("No preview") == 3 * 3 * 2
    assert words.count(".png") > 9


def test_a_library_in_a_store_that_the_caller_did_not_name_is_not_asked(place: Path) -> None:
    session = Session.open(str(place / "run"))
    assert PairedSources().library(session, "s3://elsewhere/library") is None


def test_runs_of_two_strengths_share_a_page(place: Path, tmp_path: Path) -> None:
    half = retouch(place / "photographs", place / "library", tmp_path / "half", strength=0.5)
    words = text_of(write_sheet({"All": str(place / "run"), "Half": str(half)}, tmp_path / "sheet"))
    assert words.count("Tone curve of greys, Half") == 3
    assert words.count("Most influential pairs, before and after: All") == 3
    assert words.count("strength 0.50") == 3


def test_a_run_that_edits_shares_a_page_with_one_that_does_not(place: Path, tmp_path: Path) -> None:
    gain = make_gain_run(tmp_path)
    words = text_of(write_sheet({"Gain": str(gain), "Mine": str(place / "run")}, tmp_path / "sheet"))
    assert words.count("Sources used most") == 3
    assert words.count("Tone curve") == 0  # the second run has no photograph of these names
    words = text_of(write_sheet({"Mine": str(place / "run"), "Gain": str(gain)}, tmp_path / "sheet"))
    assert words.count("Tone curve") == 3


def test_a_page_without_edits_has_nothing_of_them(tmp_path: Path) -> None:
    page = write_sheet({"Gain": str(make_gain_run(tmp_path))}, tmp_path / "sheet").read_text()
    assert not [part for part in ("--warn", ".curve", ".pair", "onfidence", "doubtful") if part in page]


def test_pictures_to_compare_with_stand_beside_results(place: Path, tmp_path: Path) -> None:
    wanted = {"1.png": place / "photographs" / "2.png"}
    extras = Extras(heading="A heading", note="A note & more.", pictures={"Wanted": wanted})
    page = Page(write_sheet({"Learned": str(place / "run")}, tmp_path, extras=extras))
    assert len(page.all("img")) == 3 * (2 + 3 * 2) + 1
    assert "A heading" in page.text
    assert "A note & more." in page.text
    assert page.text.count("Wanted") == 3


@pytest.mark.parametrize(("name", "value"), [("confidence", 2.0), ("confidence", float("nan")), ("guard", -1.0)])
def test_an_impossible_confidence_is_damage(name: str, value: float, copied: Path, tmp_path: Path) -> None:
    forge_edits(copied / "run", name, value)
    with pytest.raises(DamagedError, match="allowed is 0 to 1"):
        write_sheet({"Mine": str(copied / "run")}, tmp_path / "sheet")


@pytest.mark.parametrize("value", [[0.0] * 29, [float("inf")] * 30])
def test_a_map_that_is_none_is_damage(value: object, copied: Path, tmp_path: Path) -> None:
    forge_edits(copied / "run", "map", value)
    with pytest.raises(DamagedError, match="does not hold one edit"):
        write_sheet({"Mine": str(copied / "run")}, tmp_path / "sheet")


# ---- reviews ----


def test_a_review_lists_doubtful_edits_the_lowest_confidence_first(place: Path) -> None:
    run = Session.open(str(place / "run")).run
    found = confidences(place)
    review = review_edits(run, 1.0)
    assert review is not None
    assert [edit.name for edit in review.first] == sorted(
        (name for name in found if found[name] < 1), key=lambda name: (found[name], name)
    )
    assert (review.edits, review.first[0].name, review.first[0].output) == (3, UNLIKE, f"images/{UNLIKE}.png")
    assert review_edits(run, 0.0) == Review(3, 0.0, 0, ())


def test_facts_count_the_edits(place: Path) -> None:
    facts = edit_facts(Session.open(str(place / "run")).run)
    found = confidences(place)
    assert facts is not None
    assert (facts["count"], facts["to_review"]) == (3, sum(value < 0.5 for value in found.values()))
    assert facts["confidence"] == {
        "lowest": round(min(found.values()), 6), "mean": round(sum(found.values()) / 3, 6)
    }  # fmt: skip


def test_a_run_that_edits_nothing_has_no_review(tmp_path: Path) -> None:
    run = Session.open(str(make_gain_run(tmp_path))).run
    assert review_edits(run) is None
    assert edit_facts(run) is None
