"""Options of `evaluate style` that cannot be used are named, and nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Said, Say
from tests.support import style


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """One photograph and one painting."""
    for side, draw in (("photographs", style.photograph), ("paintings", style.painting)):
        (tmp_path / side).mkdir()
        draw().save(tmp_path / side / "picture.png")
    return tmp_path


def evaluate(kt: Say, images: Path, *options: object) -> Said:
    places = (images / "photographs", "--style", images / "paintings")
    return kt("evaluate", "style", *places, "--size", 192, "--threads", 1, *options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "magic"), "there is no method or preset 'magic'; allowed are knowledge,"),
        (("--method", "knowledge:alpha"), "'alpha' is not SETTING=VALUE"),
        (("--method", "knowledge:alpha=2"), "The method 'knowledge:alpha=2' cannot be used: the option alpha got"),
        (("--method", "knowledge:colour=red"), "no method has a setting 'colour'"),
        (("--method", "knowledge:layer=relu9_1"), "allowed layers are relu1_1"),
        (("--method", "identity:alpha=1"), "The method identity has no option --alpha"),
        (("--method", "retouch"), "retouch needs pairs, which no painting gives"),
        (("--method", "adain", "--method", "adain"), "Two methods are called 'adain'"),
        (("--results", "folder"), "give NAME=DIR"),
        (("--peer-weights", "nowhere"), "--peer-weights 'nowhere' is no folder"),
    ],
)
def test_a_wrong_option_is_named(kt: Say, images: Path, options: tuple[str, ...], said: str) -> None:
    ended = evaluate(kt, images, *options)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


def test_results_are_never_written_among_other_files(kt: Say, images: Path) -> None:
    ended = evaluate(kt, images, "--pictures", images / "paintings")
    assert ended.code == 2
    assert "is no empty folder" in ended.err
    assert sorted(path.name for path in (images / "paintings").iterdir()) == ["picture.png"]


def test_a_page_of_others_is_not_replaced(kt: Say, images: Path) -> None:
    (images / "index.html").write_text("mine")
    ended = evaluate(kt, images, "--out", images)
    assert ended.code == 2
    assert (images / "index.html").read_text() == "mine"


def test_a_weight_file_that_ends_too_early_is_named(kt: Say, images: Path) -> None:
    (images / "short.safetensors").write_bytes(style.vgg_file("conv3_1"))
    ended = evaluate(kt, images, "--vgg-weights", images / "short.safetensors")
    assert ended.code == 1
    assert "need VGG-19 up to relu4_1" in ended.err


def test_a_photograph_that_is_too_small_is_named(kt: Say, images: Path) -> None:
    style.photograph().resize((90, 50)).save(images / "photographs/small.png")
    ended = evaluate(kt, images)
    assert ended.code == 2
    assert "small.png' has 90 x 50 pixels" in ended.err
