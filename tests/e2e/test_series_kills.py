"""Kill a run of series at any write, or start a second driver: series and pictures are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import no_progress
from tests.e2e.conftest import kt
from tests.e2e.paused import paused
from tests.support.bursts import edited, shoot
from tests.support.pairs import draw_pairs, fitted, paired
from tests.support.tiny import hashes

SERIES_WRITTEN = 6  # the write of the series: the plan, and table and receipt of two described units, come before it


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a fitted library, three photographs, and a run of them that nobody stopped."""
    folder = tmp_path_factory.mktemp("kills")
    paired(*draw_pairs(folder, range(1, 9)), folder / "library")
    fitted(folder / "library")
    for number in range(3):
        shoot(folder / f"photos/{number}.jpg", 21, f"2026:06:01 10:00:0{number}", stops=number / 10)
    edited([folder / "photos"], folder / "library", folder / "whole")
    return folder


def words(place: Path, run: Path) -> list[object]:
    return [
        "translate", place / "photos", "--method", "retouch", "--library", place / "library", "--out", run, "--threads",
        1, "--unit-size", 2, "--series", "time",
    ]  # fmt: skip


def frozen(run: Path) -> str:
    """Return the hash of the series of a run; nothing where they are not made yet."""
    return hashes(run, "series").get("series/000000.parquet", "")


def check_same(place: Path, run: Path) -> None:
    assert hashes(run, "images") == hashes(place / "whole", "images")
    assert frozen(run) == frozen(place / "whole") != ""
    found = verify(str(run), no_progress)
    assert (found.faults, found.digest) == ((), verify(str(place / "whole"), no_progress).digest)


@pytest.mark.parametrize(
    "number", [*(pytest.param(number, marks=pytest.mark.slow) for number in (2, 5, 7)), 3, SERIES_WRITTEN]
)
def test_a_killed_run_goes_on_where_it_was(place: Path, tmp_path: Path, number: int) -> None:
    run = tmp_path / "run"
    with paused(number, *words(place, run)) as process:
        assert bool(frozen(run)) == (number >= SERIES_WRITTEN)
        process.kill()
        process.end()
    ended = kt(*words(place, run))
    assert ended.code == 0, ended.err
    check_same(place, run)


@pytest.mark.parametrize("number", [pytest.param(2, marks=pytest.mark.slow), SERIES_WRITTEN])
def test_of_two_drivers_the_first_makes_the_series_and_the_other_adopts_it(
    place: Path, tmp_path: Path, number: int
) -> None:
    run = tmp_path / "run"
    with paused(number, *words(place, run)) as process:
        ended = kt(*words(place, run))
        assert ended.code == 0, ended.err
        process.go_on()
        ended = process.end()
        assert ended.code == 0, ended.err
    check_same(place, run)
