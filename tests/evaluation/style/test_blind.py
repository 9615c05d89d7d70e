"""A blind look: every two results beside photograph and painting, and nothing that tells who made them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kt_batch.errors import MissingError, UsageError
from kt_batch.evaluation.style.blind import GAP, Look, key_text, write_looks
from kt_batch.evaluation.style.contenders import Finished
from kt_batch.evaluation.style.pictures import StylePicture, read_pictures
from tests.support import style

SIZE = 192
COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}


@pytest.fixture
def sides(tmp_path: Path) -> tuple[list[StylePicture], list[StylePicture]]:
    """One photograph and two paintings."""
    style.photograph().save(tmp_path / "photo.png")
    (tmp_path / "paintings").mkdir()
    for seed in (1, 2):
        style.painting(seed).save(tmp_path / f"paintings/{seed}.png")
    return read_pictures([str(tmp_path / "photo.png")], SIZE, "photographs"), read_pictures(
        [str(tmp_path / "paintings")], SIZE, "paintings"
    )


@pytest.fixture
def folders(sides: tuple[list[StylePicture], list[StylePicture]], tmp_path: Path) -> list[Finished]:
    """Three folders of results, each of one colour; the blue ones are a few pixels smaller."""
    for name, colour in COLOURS.items():
        (tmp_path / name).mkdir()
        size = (188, 126) if name == "blue" else (192, 128)
        for painting in sides[1]:
            Image.new("RGB", size, colour).save(tmp_path / name / f"photo__{painting.name}.png")
    return [Finished(name, tmp_path / name, SIZE) for name in COLOURS]


def centre(path: Path, column: int, row: int) -> tuple[int, ...]:
    """Return the colour in the middle of one of the four pictures."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    y, x = GAP + row * (128 + GAP) + 64, GAP + column * (192 + GAP) + 96
    return tuple(pixels[y, x].tolist())


def test_every_two_results_of_a_pair_are_shown_once(
    sides: tuple[list[StylePicture], list[StylePicture]], folders: list[Finished], tmp_path: Path
) -> None:
    key = write_looks(*sides, folders, tmp_path / "looks")
    assert len(key) == 2 * 3  # two paintings, three pairs of methods
    assert {frozenset((look.left, look.right)) for look in key} == {
        frozenset(pair) for pair in (("red", "green"), ("red", "blue"), ("green", "blue"))
    }
    for look in key:
        path = tmp_path / "looks" / look.file
        assert (centre(path, 0, 1), centre(path, 1, 1)) == (COLOURS[look.left], COLOURS[look.right])


def test_all_looks_have_one_size_and_nothing_but_pictures(
    sides: tuple[list[StylePicture], list[StylePicture]], folders: list[Finished], tmp_path: Path
) -> None:
    key = write_looks(*sides, folders, tmp_path / "looks")
    files = sorted((tmp_path / "looks").iterdir())
    assert [file.name for file in files] == [look.file for look in key]
    for file in files:
        with Image.open(file) as picture:
            assert (picture.size, picture.info) == ((2 * 192 + 3 * GAP, 2 * 128 + 3 * GAP), {})
    assert not any(name in file.name for file in files for name in (*COLOURS, "photo"))


def test_names_and_sides_follow_the_seed(
    sides: tuple[list[StylePicture], list[StylePicture]], folders: list[Finished], tmp_path: Path
) -> None:
    once, again, other = (
        write_looks(*sides, folders, tmp_path / name, seed=seed) for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    assert once == again
    assert {look.file for look in once}.isdisjoint({look.file for look in other})


def test_both_orders_show_each_pair_of_results_twice(
    sides: tuple[list[StylePicture], list[StylePicture]], folders: list[Finished], tmp_path: Path
) -> None:
    key = write_looks(*sides, folders[:2], tmp_path / "looks", both_orders=True)
    first = [(look.left, look.right) for look in key if look.painting == sides[1][0].id]
    assert sorted(first) == [("green", "red"), ("red", "green")]


def test_a_missing_result_is_named(
    sides: tuple[list[StylePicture], list[StylePicture]], folders: list[Finished], tmp_path: Path
) -> None:
    (tmp_path / "red/photo__1.png").unlink()
    with pytest.raises(MissingError, match=r"holds no photo__1\.png"):
        write_looks(*sides, folders, tmp_path / "looks")


def test_one_folder_alone_and_a_folder_with_files_are_refused(
    sides: tuple[list[StylePicture], list[StylePicture]], folders: list[Finished], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="there are 1"):
        write_looks(*sides, folders[:1], tmp_path / "looks")
    with pytest.raises(UsageError, match="is no empty folder"):
        write_looks(*sides, folders, tmp_path / "red")


def test_the_key_is_a_table() -> None:
    text = key_text([Look("a.png", "0" * 16, "1" * 16, "red", "green")])
    (row,) = csv.DictReader(io.StringIO(text))
    assert row == {"file": "a.png", "photograph": "0" * 16, "painting": "1" * 16, "left": "red", "right": "green"}
