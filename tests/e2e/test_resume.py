"""After any kill, a restart loses nothing, repeats nothing and shows no partial file."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import kt_batch.store.local
import kt_batch.store.publish
from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.config import IndexConfig
from kt_batch.pipelines.index.status import index_status
from kt_batch.store.locations import open_location
from kt_batch.store.receipts import parse_receipt
from tests.e2e.conftest import COMMAND, Small, run
from tests.support.tiny import (
    draw_all,
    extracted,
    hashes,
    indexed,
    patches,
    results,
    rows,
    translate_request,
    translated,
)

# Runs kt-batch and kills it at one write: `before` or just `after` the file gets its name.
DRIVER = """
import os, signal, sys
import kt_batch.store.local as local
from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app

folder, number, when, words = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
publish, seen = local.publish, 0

def deadly(temporary, target, root):
    global seen
    here = f"/{folder}/" in target.as_posix()
    seen += here
    if here and seen == number and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    done = publish(temporary, target, root)
    if here and seen == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

local.publish = deadly
sys.exit(run_app(app, words))
"""


def nothing_half_written(place: Path) -> None:
    """Assert that every named file is complete."""
    location = open_location(str(place))
    for name in location.list():
        if name.endswith(".parquet"):
            with location.open(name) as file:
                pq.read_table(file)
        elif name.startswith("receipts/"):
            parse_receipt(location.read_bytes(name), name)


@pytest.mark.parametrize(
    ("folder", "number", "when"),
    [
        pytest.param("plan", 1, "after", marks=pytest.mark.slow),
        pytest.param("patches", 2, "before", marks=pytest.mark.slow),
        pytest.param("receipts", 1, "before", marks=pytest.mark.slow),
        ("receipts", 1, "after"),
        pytest.param("receipts", 3, "after", marks=pytest.mark.slow),
    ],
)
def test_a_killed_extract_continues(small: Small, tmp_path: Path, folder: str, number: int, when: str) -> None:
    words = ["extract", str(small.paintings), "--library", str(tmp_path / "library"), "--size", "64"]
    words += ["--threads", "1", "--unit-size", "1"]
    ended = run(sys.executable, "-c", DRIVER, folder, number, when, *words)
    assert ended.code == -signal.SIGKILL
    nothing_half_written(tmp_path / "library")
    assert not (tmp_path / "library/library.json").exists()
    assert run_app(app, words) == 0
    assert patches(tmp_path / "library") == patches(small.library)
    assert rows(tmp_path / "library", "images") == rows(small.library, "images")
    assert indexed(tmp_path / "library").kept == indexed(small.library).kept


@pytest.mark.parametrize(
    ("folder", "number", "when"),
    [
        ("images", 2, "after"),
        pytest.param("provenance", 1, "after", marks=pytest.mark.slow),
        pytest.param("receipts", 2, "before", marks=pytest.mark.slow),
        pytest.param("receipts", 1, "after", marks=pytest.mark.slow),
    ],
)
def test_a_killed_translate_continues(small: Small, tmp_path: Path, folder: str, number: int, when: str) -> None:
    place = tmp_path / "run"
    words = ["translate", str(small.photos), "--library", str(small.library), "--out", str(place)]
    words += ["--threads", "1", "--unit-size", "2"]
    ended = run(sys.executable, "-c", DRIVER, folder, number, when, *words)
    assert ended.code == -signal.SIGKILL
    nothing_half_written(place)
    assert run_app(app, words) == 0
    translated([small.photos], translate_request(small.library, tmp_path / "undisturbed", small.index))
    assert results(place) == results(tmp_path / "undisturbed")


@pytest.mark.parametrize("number", [2, pytest.param(7, marks=pytest.mark.slow)])
def test_a_killed_index_continues(small: Small, tmp_path: Path, number: int) -> None:
    place = Path(shutil.copytree(small.library, tmp_path / "library", ignore=shutil.ignore_patterns("index")))
    words = ["index", str(place), "--threads", "1", "--max-leaf", "64"]
    ended = run(sys.executable, "-c", DRIVER, "receipts", number, "after", *words)
    assert ended.code == -signal.SIGKILL
    assert run_app(app, words) == 0
    shutil.copytree(small.library, tmp_path / "undisturbed", ignore=shutil.ignore_patterns("index"))
    assert run_app(app, ["index", str(tmp_path / "undisturbed"), *words[2:]]) == 0
    assert hashes(place, "index") == hashes(tmp_path / "undisturbed", "index")


LEAVES = ("--threads", "1", "--max-leaf", "64")


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of six paintings with their index, and one painting that was added since."""
    root = tmp_path_factory.mktemp("growing")
    extracted([draw_all(root / "paintings", range(1, 7))], root / "library")
    assert run_app(app, ["index", str(root / "library"), *LEAVES]) == 0
    extracted([draw_all(root / "more", [21])], root / "library")
    return root / "library"


@pytest.mark.parametrize(
    ("folder", "number", "when"),
    [
        ("receipts", 2, "after"),
        pytest.param("top", 1, "before", marks=pytest.mark.slow),
        pytest.param("routed", 1, "after", marks=pytest.mark.slow),
        pytest.param("shards", 2, "before", marks=pytest.mark.slow),
    ],
)
def test_a_killed_growth_continues(growing: Path, tmp_path: Path, folder: str, number: int, when: str) -> None:
    place = Path(shutil.copytree(growing, tmp_path / "library"))
    shutil.copytree(growing, tmp_path / "undisturbed")
    words = ["index", str(place), *LEAVES]
    ended = run(sys.executable, "-c", DRIVER, folder, number, when, *words)
    assert ended.code == -signal.SIGKILL
    assert hashes(growing).items() <= hashes(place).items()  # the generation is as it was
    assert run_app(app, words) == 0
    assert run_app(app, ["index", str(tmp_path / "undisturbed"), *LEAVES]) == 0
    assert hashes(place, "index") == hashes(tmp_path / "undisturbed", "index")
    assert any(index.generation for index in index_status(str(place)).indexes)


def test_a_run_that_shuts_down_commits_its_running_units_and_continues_later(small: Small, tmp_path: Path) -> None:
    photos = draw_all(tmp_path / "photos", range(20, 50))
    words = ["translate", str(photos), "--library", str(small.library), "--out", str(tmp_path / "run")]
    words += ["--threads", "1", "--unit-size", "1"]
    with subprocess.Popen([COMMAND, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as driver:
        while driver.poll() is None and not list(tmp_path.glob("run/receipts/*.json")):
            time.sleep(0.02)
        driver.send_signal(signal.SIGTERM)
        _, said = driver.communicate(timeout=120)
    done = len(list(tmp_path.glob("run/receipts/*.json")))
    assert driver.returncode == 1
    assert said.splitlines()[-1].endswith(
        "stopped as asked; what was begun is finished, start the same command again to go on."
    )
    assert len(list(tmp_path.glob("run/images/*.png"))) == done < 30  # nothing is there that no receipt names
    assert run_app(app, words) == 0
    translated([photos], translate_request(small.library, tmp_path / "undisturbed", small.index), unit_size=1)
    assert results(tmp_path / "run") == results(tmp_path / "undisturbed")


# ---- every moment ----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL where one process per moment would take too long."""


def sweep(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any], begin: Callable[[], Any]) -> int:
    """Kill `act` at each of its writes in turn; return the number of writes.

    After each kill, run it to the end and begin anew for the next write.
    """
    publish = kt_batch.store.publish.publish
    left = [0]

    def deadly(temporary: Path, target: Path, root: Path) -> bool:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return publish(temporary, target, root)

    with monkeypatch.context() as patch:
        patch.setattr(kt_batch.store.local, "publish", deadly)
        for number in range(1, 1000):
            begin()
            left[0] = number
            try:
                act()
            except Killed:
                left[0] = 0
                act()
            else:
                return number - 1
    raise AssertionError("there is no end to the writes")


def test_extract_and_translate_survive_a_death_at_any_write(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = draw_all(tmp_path / "photos", [11, 12])
    translated([photos], translate_request(small.library, tmp_path / "expected", small.index))
    expected = hashes(tmp_path / "expected")
    attempt = [0]

    def begin() -> None:
        attempt[0] += 1

    def extract() -> None:
        place = tmp_path / f"library-{attempt[0]}"
        extracted([small.paintings], place)
        assert hashes(place, "patches") == hashes(small.library, "patches")
        assert hashes(place, "images") == hashes(small.library, "images")

    def translate() -> None:
        place = tmp_path / f"run-{attempt[0]}"
        translated([photos], translate_request(small.library, place, small.index))
        found = hashes(place)
        same = [name for name in expected if not name.startswith("receipts/")]
        assert {name: found[name] for name in same} == {name: expected[name] for name in same}
        assert found.keys() == expected.keys()

    # A plan, two units of two tables and a receipt, a summary; a plan, two images, a table, a receipt, a summary.
    assert sweep(monkeypatch, extract, begin) == 1 + 2 * 3 + 1
    assert sweep(monkeypatch, translate, begin) == 1 + 2 + 1 + 1 + 1


@pytest.mark.slow
def test_index_survives_a_death_at_any_write(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "library"

    def begin() -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(small.library, place, ignore=shutil.ignore_patterns("index"))

    def index() -> None:
        indexed(place)
        assert hashes(place, "index") == hashes(small.library, "index")

    assert sweep(monkeypatch, index, begin) > 20


@pytest.mark.slow
def test_growth_survives_a_death_at_any_write(growing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "library"
    shutil.copytree(growing, tmp_path / "undisturbed")
    config = IndexConfig(max_leaf=64)
    expected = indexed(tmp_path / "undisturbed", config=config)
    assert expected.generation is not None
    files = hashes(tmp_path / "undisturbed", "index")

    def begin() -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(growing, place)

    def grow() -> None:
        assert indexed(place, config=config).index == expected.index
        assert hashes(place, "index") == files

    assert sweep(monkeypatch, grow, begin) > 15
