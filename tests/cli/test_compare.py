"""Options of `compare`: which methods they name, and that nothing of others is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from kt_batch.cli.compare import Compared
from kt_batch.errors import UsageError
from kt_batch.evaluation.style.contenders import OwnMethod
from kt_batch.evaluation.style.side_by_side import MethodRow
from kt_batch.methods.table import METHODS
from kt_batch.models.banks import shipped_banks
from tests.cli.conftest import Say
from tests.support import style


def names(*texts: str) -> list[str]:
    return [method.name for method in Compared(methods=texts).chosen()]


def test_all_is_every_method_of_the_table_and_the_one_that_needs_pairs_has_a_reason() -> None:
    chosen = Compared().chosen()
    assert [method.name for method in chosen] == list(METHODS)
    assert {row.name: row.absent for row in chosen if isinstance(row, MethodRow)} == {
        "retouch": "The method retouch needs pairs, which no painting gives."
    }
    (stylebank,) = (method for method in chosen if isinstance(method, OwnMethod) and method.needs_banks)
    assert {bank.name for bank in stylebank.banks.values()} == set(shipped_banks())


def test_a_bank_that_no_method_or_no_painting_takes_is_refused(kt: Say, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--bank has no effect without the method stylebank"):
        Compared(methods=("adain",), bank=("scream",)).chosen()
    style.photograph().save(tmp_path / "picture.png")
    words = ("compare", tmp_path / "picture.png", "--style", tmp_path / "picture.png", "--out", tmp_path / "sheet")
    said = kt(*words, "--methods", "stylebank", "--bank", "scream", "--threads", 1)
    assert (said.code, (tmp_path / "sheet").exists()) == (2, False)
    assert "--bank got 'scream', which was trained for 'Edvard Munch, The Scream, 1893'" in said.err


def test_commas_separate_methods_and_the_settings_of_one() -> None:
    settings = "knowledge:alpha=0.5,swap=statistics"
    assert names(f"{settings},wct", "adain,wct") == [settings, "wct", "adain"]
    assert names("fast,gatys:iterations=2,painting:strength=0.5,stroke=2") == [
        "fast", "gatys:iterations=2", "painting:strength=0.5,stroke=2",
    ]  # fmt: skip
    assert names("ift", "all")[:2] == ["ift", "knowledge"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("magic", "--methods got 'magic': there is no method or preset 'magic'"),
        ("adain,", "there is no method or preset ''"),
        ("adain:strength=1", "The method adain has no option --strength"),
        ("knowledge:alpha=2", "'knowledge:alpha=2' cannot be used"),
        ("fast:layer=relu1_1", "painting begins at relu4_1, and the encoder is cut at relu1_1"),
    ],
)
def test_a_method_that_cannot_be_is_named_before_the_work(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Compared(methods=(text,)).chosen()


@pytest.mark.parametrize("name", ["index.html", "compare.json"])
def test_files_of_others_are_not_replaced(kt: Say, tmp_path: Path, name: str) -> None:
    style.photograph().save(tmp_path / "picture.png")
    (tmp_path / name).write_text("mine")
    picture = tmp_path / "picture.png"
    said = kt("compare", picture, "--style", picture, "--methods", "identity", "--out", tmp_path, "--threads", 1)
    assert said.code == 2
    assert (tmp_path / name).read_text() == "mine"


def test_the_page_does_not_go_into_a_folder_of_inputs_where_the_next_comparison_would_find_its_pictures(
    kt: Say, tmp_path: Path
) -> None:
    for folder in ("photographs", "paintings"):
        (tmp_path / folder).mkdir()
        style.photograph().save(tmp_path / folder / "picture.png")
    words = ("compare", tmp_path / "photographs", "--style", tmp_path / "paintings", "--methods", "identity")
    for folder in ("photographs", "paintings"):
        said = kt(*words, "--out", tmp_path / folder, "--threads", 1)
        assert (said.code, [each.name for each in (tmp_path / folder).iterdir()]) == (2, ["picture.png"])
        assert "is the folder of the input" in said.err


def test_a_painting_of_one_colour_is_refused_since_no_distance_to_it_is_finite(kt: Say, tmp_path: Path) -> None:
    style.photograph().save(tmp_path / "picture.png")
    Image.new("RGB", (64, 64), (40, 40, 40)).save(tmp_path / "flat.png")
    words = ("compare", tmp_path / "picture.png", "--style", tmp_path / "flat.png", "--methods", "identity")
    said = kt(*words, "--out", tmp_path / "sheet", "--threads", 1)
    assert (said.code, (tmp_path / "sheet").exists()) == (2, False)
    assert "flat.png' is of one colour, so the style measures have nothing to compare" in said.err
