"""The lists of FiveK: which files are pairs, which split, and whether a file changed since."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import pytest

from benchmarks.fivek_pairs import check, faults, write
from kt_batch.store.manifest_files import read_pair_list
from tests.support.pairs import edit_file
from tests.support.tiny import draw


@pytest.fixture
def lists(tmp_path: Path) -> list[Path]:
    """Return the lists of three numbers, and one number without a file after."""
    for number in (1, 4500, 4501):
        before = draw(tmp_path / f"input/a{number:04}-DSC_{number}.png", number, 96, 72)
        edit_file(before, tmp_path / f"tiff16_c/a{number:04}-DSC_{number}.tif")
    draw(tmp_path / "input/a0002-alone.png", 2)
    return write(tmp_path / "input", tmp_path / "tiff16_c", tmp_path / "lists")


def test_the_first_4500_numbers_are_for_training(lists: list[Path]) -> None:
    names = [[Path(row.place).name for row in read_pair_list(str(place)).before.rows] for place in lists]
    assert names == [["a0001-DSC_1.png", "a4500-DSC_4500.png"], ["a4501-DSC_4501.png"]]


def test_places_are_relative_to_the_lists_and_hashes_are_of_the_files(lists: list[Path], tmp_path: Path) -> None:
    with lists[0].open(newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["before"], row["after"]) == ("../input/a0001-DSC_1.png", "../tiff16_c/a0001-DSC_1.tif")
    content = (tmp_path / "tiff16_c/a0001-DSC_1.tif").read_bytes()
    assert row["after_sha256"] == hashlib.sha256(content).hexdigest()


def test_files_that_are_gone_or_differ_are_named(lists: list[Path], tmp_path: Path) -> None:
    assert check(lists) == 0
    (tmp_path / "input/a0001-DSC_1.png").write_bytes(b"another")
    (tmp_path / "tiff16_c/a4500-DSC_4500.tif").unlink()
    found = list(faults(lists[0]))
    assert len(found) == 2
    assert "a0001-DSC_1.png' has another hash" in found[0]
    assert "a4500-DSC_4500.tif' is gone" in found[1]
    assert check(lists) == 2


def test_two_files_of_one_number_are_refused(lists: list[Path], tmp_path: Path) -> None:
    draw(tmp_path / "input/a0001-copy.png", 1)
    with pytest.raises(SystemExit, match="have one number"):
        write(tmp_path / "input", tmp_path / "tiff16_c", tmp_path / "lists")
