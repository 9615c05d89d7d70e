"""The real commands edit bursts: on Ray, on S3, as a job; and say which photographs share an edit."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from kt_batch.config import RunOptions
from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import no_progress
from kt_batch.runners.ray.runner import RayRunner
from kt_batch.store.locations import open_location
from tests.e2e.conftest import ROOT, kt
from tests.e2e.conftest import run as start
from tests.support.bursts import edited, shoot
from tests.support.pairs import draw_pairs, fitted, paired
from tests.support.ray_local import ray_here, ray_runner  # noqa: F401  # the fixtures
from tests.support.s3_server import S3Server, moto_server  # noqa: F401  # the fixture
from tests.support.tiny import hashes, rows


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    paired(*draw_pairs(folder, range(1, 9)), folder / "library")
    fitted(folder / "library")
    return folder / "library"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a burst of three photographs and one of the next day."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        shoot(folder / f"burst{number}.jpg", 21, f"2026:06:01 10:00:0{number}", stops=number / 10)
    shoot(folder / "alone.jpg", 21, "2026:06:02 10:00:00")
    return folder


@pytest.fixture(scope="module")
def finished(library: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("finished") / "run"
    ended = kt(
        "translate", photos, "--method", "retouch", "--library", library, "--out", place, "--threads", 1, "--series",
        "time",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return place


def test_explain_says_how_many_photographs_share_an_edit(finished: Path) -> None:
    said = kt("explain", finished, "burst1.jpg", "--at", "3,4")
    assert "the edit is shared by 3 photographs, the series " in said.out
    facts = kt("explain", finished, "burst1.jpg", "--at", "3,4", "--json").json["edit"]
    assert facts["series"]["photographs"] == 3
    assert f"the series {facts['series']['name']}; its confidence is {facts['confidence']:.2f}" in said.out
    assert "is shared by" not in kt("explain", finished, "alone.jpg", "--at", "3,4").out


def test_inspect_counts_series_and_the_view_of_edits_names_them(finished: Path) -> None:
    facts = kt("inspect", finished, "--json").json
    assert facts["series"] == "time"
    assert facts["edits"]["series"] == {"count": 1, "photographs": 3, "largest": 3}
    assert "edits" in kt("inspect", finished, "--sql").out


def test_the_sheet_says_that_an_edit_is_shared(finished: Path, tmp_path: Path) -> None:
    assert kt("sheet", finished, "--out", tmp_path / "sheet").code == 0
    assert (tmp_path / "sheet/index.html").read_text().count("Shared by 3 photographs, series ") == 3


def test_the_shared_map_is_exported(finished: Path, tmp_path: Path) -> None:
    for number in range(2):
        assert kt("lut", finished, f"burst{number}.jpg", "--to", tmp_path / f"{number}.cube", "--size", 17).code == 0
    tables = [(tmp_path / f"{number}.cube").read_text().splitlines()[-4913:] for number in range(2)]
    assert tables[0] == tables[1]


def test_the_job_has_the_option_and_gives_the_same_bytes(
    finished: Path, library: Path, photos: Path, tmp_path: Path
) -> None:
    line = [photos, "--method", "retouch", "--library", library, "--out", tmp_path / "run", "--threads", 1]
    done = start(sys.executable, ROOT / "jobs/translate.py", *line, "--series", "time", "--runner", "local")
    assert done.code == 0, done.err
    assert hashes(tmp_path / "run", "images") == hashes(finished, "images")


def test_other_values_and_other_methods_are_refused(library: Path, photos: Path, tmp_path: Path) -> None:
    words = ("translate", photos, "--out", tmp_path / "run")
    refused = kt(*words, "--method", "retouch", "--library", library, "--series", "day")
    assert refused.code == 2
    assert "none" in refused.err
    refused = kt(*words, "--method", "identity", "--series", "time")
    assert refused.code == 2
    assert "series" in refused.err


def test_a_run_of_edits_of_their_own_does_not_become_one_of_series(library: Path, photos: Path, tmp_path: Path) -> None:
    edited([photos], library, tmp_path / "run", "none")
    refused = kt(
        "translate", photos, "--method", "retouch", "--library", library, "--out", tmp_path / "run", "--series", "time"
    )
    assert refused.code == 1
    assert "series" in refused.err


def test_two_workers_of_ray_give_the_same_bytes(
    finished: Path,
    library: Path,
    photos: Path,
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    edited([photos], library, tmp_path / "run", runner=ray_runner, unit_size=1)
    assert hashes(tmp_path / "run", "images") == hashes(finished, "images")
    frozen = [hashes(place, "series")["series/000000.parquet"] for place in (tmp_path / "run", finished)]
    assert frozen[0] == frozen[1]
    digests = [verify(str(place), no_progress).digest for place in (tmp_path / "run", finished)]
    assert digests[0] == digests[1]


def test_series_on_s3_have_the_edits_of_series_here(
    finished: Path,
    library: Path,
    photos: Path,
    moto_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = moto_server.new_location(monkeypatch).uri
    for photo in photos.iterdir():
        open_location(f"{place}/photos").put_if_absent(photo.name, photo.read_bytes())
    edited([f"{place}/photos"], library, f"{place}/run")
    assert hashes(f"{place}/run", "images") == hashes(finished, "images")
    assert verify(f"{place}/run", no_progress).faults == ()


def test_members_of_an_archive_are_in_the_folder_that_they_have_there(
    library: Path, photos: Path, tmp_path: Path
) -> None:
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    edited([archive], library, tmp_path / "run", options=RunOptions(threads=1))
    edits = {Path(row["output"]).name: row for row in rows(tmp_path / "run", "edits")}
    assert np.array_equal(edits["burst0.jpg.png"]["map"], edits["burst2.jpg.png"]["map"])
    assert edits["burst0.jpg.png"]["series"] != edits["alone.jpg.png"]["series"]
