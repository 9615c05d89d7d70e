"""The real commands take pairs from a list, and learn mild edits from finished photographs alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import kt
from tests.support.pairs import draw_pairs
from tests.support.tiny import draw, draw_all

QUICK = ("--size", 96, "--threads", 1)


def test_a_list_of_pairs_becomes_an_edit(tmp_path: Path) -> None:
    draw_pairs(tmp_path, range(1, 7))
    lines = [json.dumps({"before": f"before/{seed}.png", "after": f"after/{seed}.png"}) for seed in range(1, 7)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    ended = kt("extract", "--pairs", tmp_path / "pairs.jsonl", "--library", tmp_path / "library", *QUICK)
    assert ended.code == 0, ended.err
    assert "6 pairs, 0 rejected" in ended.out
    assert kt("fit", tmp_path / "library").code == 0
    photo = draw(tmp_path / "photo.png", 21)
    words = ("--method", "retouch", "--library", tmp_path / "library", "--out", tmp_path / "run", "--threads", 1)
    ended = kt("translate", photo, *words)
    assert ended.code == 0, ended.err
    before, made = (np.asarray(Image.open(path), float) for path in (photo, tmp_path / "run/images/photo.png.png"))
    assert np.abs(made - before).mean() > 5


def test_finished_photographs_alone_teach_a_mild_edit_and_every_summary_says_so(tmp_path: Path) -> None:
    finished, library = draw_all(tmp_path / "finished", range(1, 5)), tmp_path / "library"
    ended = kt("extract", "--after", finished, "--synthetic-befores", "--library", library, *QUICK)
    assert ended.code == 0, ended.err
    assert "12 pairs, 0 rejected" in ended.out
    assert "the pictures before are synthetic: edits learned from them are mild" in ended.out
    assert "are mild" in kt("fit", library).out
    words = ("--method", "retouch", "--library", library, "--out", tmp_path / "run", "--threads", 1)
    ended = kt("translate", draw(tmp_path / "photo.png", 21), *words)
    assert ended.code == 0, ended.err
    refused = kt("evaluate", "pairs", library)
    assert refused.code == 2
    assert "are synthetic" in refused.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--after", "PHOTOS"), "For finished photographs alone, give --after with --synthetic-befores"),
        (("--before", "PHOTOS"), "--before and --after go together"),
        (("--synthetic-befores",), "--synthetic-befores goes with --after alone"),
        (("--synthetic-befores", "--before", "PHOTOS", "--after", "PHOTOS"), "goes with --after alone"),
        (("--pairs", "LIST", "--after", "PHOTOS"), "--pairs names both sides"),
        (("--pairs", "LIST", "PHOTOS"), "other images cannot go with --before, --after and --pairs"),
        (("--pairs", "LIST", "--manifest", "LIST"), "--manifest cannot go with"),
        (("--pairs", "LIST", "--rejects-csv", "LIST"), "is the input"),
    ],
)
def test_options_that_exclude_each_other_are_refused_in_words(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    photos = draw_all(tmp_path / "photos", [1])
    (tmp_path / "pairs.csv").write_text("before,after\nphotos/1.png,photos/1.png\n")
    places = {"PHOTOS": photos, "LIST": tmp_path / "pairs.csv"}
    ended = kt("extract", *(places.get(word, word) for word in words), "--library", tmp_path / "library")
    assert ended.code == 2
    assert said in ended.err
