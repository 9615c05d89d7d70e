"""The main job where there are no hard links: with system calls that fail, and on a real exFAT."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.conftest import COMMAND, Small, kt
from tests.support.preloads import preload
from tests.support.tiny import draw_all, hashes

EXFAT_MIB = 64
SHIMS = [("nolink",), ("nolink", "norename"), ("nolink", "replacing", "nodirsync")]


def main_job(place: Path, small: Small, environment: Mapping[str, str]) -> None:
    """Extract, index and translate below `place`."""
    library, run = place / "library", place / "run"
    extract = ("extract", small.paintings, "--library", library, "--size", 64, "--threads", 1, "--unit-size", 1)
    for words in (
        extract,
        ("index", library, "--threads", 1),
        ("translate", small.photos, "--library", library, "--out", run, "--threads", 1, "--unit-size", 1),
    ):
        ended = kt(*words, environment=environment)
        assert ended.code == 0, ended.err
        assert "Traceback" not in ended.err


def pictures(place: Path) -> dict[str, str]:
    """Return the hash of every output image below `place`."""
    return hashes(place / "run/images")


@pytest.fixture(scope="module")
def ordinary(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ordinary")
    main_job(place, small, {})
    return place


@pytest.mark.parametrize("shims", SHIMS, ids="+".join)
def test_the_main_job_gives_the_same_pictures_without_hard_links(
    shims: tuple[str, ...], ordinary: Path, small: Small, tmp_path: Path
) -> None:
    environment, place = preload(tmp_path, *shims), tmp_path / "place"
    main_job(place, small, environment)
    assert pictures(place) == pictures(ordinary)
    assert kt("verify", place / "run").code == 0
    assert kt("verify", place / "library").code == 0
    receipts = [json.loads(path.read_text()) for path in (place / "run/receipts").iterdir()]
    assert {receipt["publishing"] for receipt in receipts} == {"rename" if shims == ("nolink",) else "lock"}


def test_ordinary_receipts_say_nothing_of_it(ordinary: Path) -> None:
    receipts = [json.loads(path.read_text()) for path in (ordinary / "run/receipts").iterdir()]
    assert not any("publishing" in receipt for receipt in receipts)


def test_a_dry_run_says_how_files_get_their_names(small: Small, tmp_path: Path) -> None:
    words = ("translate", small.photos, "--library", small.library, "--out", tmp_path / "run", "--dry-run")
    environment = preload(tmp_path, "nolink", "norename")
    assert (
        "no hard links there: files get their names by a rename under a lock" in kt(*words, environment=environment).out
    )
    assert kt(*words, "--json", environment=environment).json["publishing"] == "lock"
    assert kt(*words, "--json").json["publishing"] is None
    assert not (tmp_path / "run").exists()


def test_two_drivers_share_a_run_and_a_killed_one_is_resumed_without_hard_links(small: Small, tmp_path: Path) -> None:
    environment, run = {**os.environ, **preload(tmp_path, "nolink", "norename")}, tmp_path / "run"
    photos = draw_all(tmp_path / "many", range(21, 29))
    line: list[str | Path] = [
        COMMAND,
        "translate",
        photos,
        "--library",
        small.library,
        "--out",
        run,
        "--threads=1",
        "--unit-size=1",
    ]
    drivers = [subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in "ab"]
    while not list(run.glob("receipts/*.json")) and drivers[0].poll() is None:
        time.sleep(0.01)
    drivers[0].send_signal(signal.SIGKILL)
    for driver in drivers:
        driver.communicate()
    assert drivers[1].returncode == 0
    assert len(list(run.glob("images/**/*.png"))) == 8
    assert kt("verify", run).code == 0


@pytest.fixture
def exfat(tmp_path: Path) -> Iterator[Path]:
    """Mount an empty exFAT through FUSE."""
    tools = [shutil.which(name) for name in ("mkfs.exfat", "mount.exfat-fuse", "losetup")]
    if not (all(tools) and os.geteuid() == 0 and Path("/dev/fuse").exists()):
        pytest.skip("mounting an exFAT needs root, /dev/fuse, exfatprogs, exfat-fuse and losetup")
    disk, folder = tmp_path / "disk", tmp_path / "mounted"
    folder.mkdir()
    with disk.open("wb") as file:
        file.truncate(EXFAT_MIB << 20)
    subprocess.run(["mkfs.exfat", disk], check=True, capture_output=True)
    loop = subprocess.run(["losetup", "--find", "--show", disk], capture_output=True, text=True, check=False)
    if loop.returncode != 0:
        pytest.skip(f"there is no loop device here: {loop.stderr.strip()}")
    device = loop.stdout.strip()
    try:
        mounted = subprocess.run(["mount.exfat-fuse", device, folder], capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            pytest.skip(f"an exFAT cannot be mounted here: {mounted.stderr.strip()}")
        yield folder
        subprocess.run(["umount", folder], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.slow
def test_the_main_job_gives_the_same_pictures_on_exfat(exfat: Path, ordinary: Path, small: Small) -> None:
    main_job(exfat / "place", small, {})
    assert pictures(exfat / "place") == pictures(ordinary)
    assert kt("verify", exfat / "place/run").code == 0
    receipts = [json.loads(path.read_text()) for path in (exfat / "place/run/receipts").iterdir()]
    assert {receipt["publishing"] for receipt in receipts} <= {"rename", "lock"}
