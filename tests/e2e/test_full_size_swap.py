"""The real commands lend photographs the colours of a library, at their full size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import kt
from tests.support.tiny import draw, draw_all, extracted, indexed


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("season")
    extracted([draw_all(folder / "pictures", [1, 2, 3])], folder / "library")
    indexed(folder / "library")
    return folder / "library"


def test_a_preset_gives_photographs_of_their_own_size_whose_colours_are_explained(
    library: Path, tmp_path: Path
) -> None:
    photo = draw(tmp_path / "photos/a.png", 21, 300, 200)
    ended = kt(
        "translate", photo, "--preset", "season", "--library", library, "--out", tmp_path / "run", "--threads", 1
    )
    assert ended.code == 0, ended.err
    made = tmp_path / "run/images/a.png.png"
    before, after = (np.asarray(Image.open(path).convert("RGB"), np.float64) for path in (photo, made))
    assert after.shape == before.shape
    assert np.abs(after - before).mean() > 1
    assert b"algorithmicallyEnhanced" in made.read_bytes()
    told = kt("explain", tmp_path / "run", "a.png", "--at", "299,199", "--json").json
    assert (told["width"], told["height"], told["kind"]) == (300, 200, "patches")
    assert {Path(source["uris"][0]).parent.name for source in told["contributions"]} == {"pictures"}


@pytest.mark.parametrize("words", [("--full-size",), ("--preset", "season", "--swap", "geometric")])
def test_a_geometric_swap_at_full_size_is_refused_in_one_sentence(
    words: tuple[str, ...], library: Path, tmp_path: Path
) -> None:
    photo = draw(tmp_path / "a.png", 21)
    ended = kt("translate", photo, *words, "--library", library, "--out", tmp_path / "run")
    assert ended.code == 2
    assert ended.err.strip() == "kt-batch: full_size is for the swap statistics, not for geometric."
    assert not (tmp_path / "run").exists()
