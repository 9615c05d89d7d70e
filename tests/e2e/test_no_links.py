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

from kt_batch.store.local import LocalLocation
from tests.e2e.conftest import COMMAND, Small, kt
from tests.support.preloads import preload
from tests.support.tiny import hashes

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


def content(place: Path) -> dict[str, dict[str, str]]:
    """Return the hashes of a library's parts and indexes and of a run's pictures below `place`."""
    folders = ("library/images", "library/patches", "library/index", "run/images")
    return {folder: hashes(place / folder) for folder in folders if (place / folder).exists()}


def at_once(place: Path, environment: Mapping[str, str], *words: object) -> list[int]:
    """Run the same command in two processes at the same time; return their exit codes."""
    line = [str(COMMAND), *map(str, words)]
    both = [
        subprocess.Popen(line, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in "ab"
    ]
    for each in both:
        each.communicate()
    return [each.returncode for each in both]


def two_drivers(place: Path, small: Small, environment: Mapping[str, str]) -> None:
    """Do the main job below `place` in two processes at once; kill one of those that translate, and finish."""
    library, run, photos = place / "library", place / "run", small.photos
    extract = ("extract", small.paintings, "--library", library, "--size", 64, "--threads", 1, "--unit-size", 1)
    assert at_once(place, environment, *extract) == [0, 0]
    assert at_once(place, environment, "index", library, "--threads", 1) == [0, 0]
    translate = ("translate", photos, "--library", library, "--out", run, "--threads", 1, "--unit-size", 1)
    line = [str(COMMAND), *map(str, translate)]
    shell = {**os.environ, **environment}
    with subprocess.Popen(line, env=shell, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as victim:
        while not list(run.glob("receipts/*.json")) and victim.poll() is None:
            time.sleep(0.01)
        victim.send_signal(signal.SIGKILL)
    assert at_once(place, environment, *translate) == [0, 0]


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
    assert content(place) == content(ordinary)
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


@pytest.mark.parametrize(
    "shims", [pytest.param(SHIMS[0], marks=pytest.mark.slow), SHIMS[1], pytest.param(SHIMS[2], marks=pytest.mark.slow)]
)
def test_two_processes_and_a_killed_one_change_nothing(
    shims: tuple[str, ...], ordinary: Path, small: Small, tmp_path: Path
) -> None:
    two_drivers(tmp_path, small, preload(tmp_path, *shims))
    assert content(tmp_path) == content(ordinary)
    assert kt("verify", tmp_path / "run").code == 0
    assert kt("verify", tmp_path / "library").code == 0


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
def test_the_main_job_gives_the_same_bytes_on_exfat(exfat: Path, ordinary: Path, small: Small) -> None:
    main_job(exfat / "place", small, {})
    assert content(exfat / "place") == content(ordinary)
    assert kt("verify", exfat / "place/run").code == 0
    assert kt("verify", exfat / "place/library").code == 0
    receipts = [json.loads(path.read_text()) for path in (exfat / "place/run/receipts").iterdir()]
    assert {receipt["publishing"] for receipt in receipts} <= {"rename", "lock"}
    dry_run = ("translate", small.photos, "--library", small.library, "--out", exfat / "other", "--dry-run")
    assert "no hard links there: files get their names by a rename" in kt(*dry_run).out
    assert [path.name for path in exfat.iterdir()] == ["place"]


@pytest.mark.slow
def test_two_processes_and_a_killed_one_change_nothing_on_exfat(exfat: Path, ordinary: Path, small: Small) -> None:
    two_drivers(exfat / "place", small, {})
    assert content(exfat / "place") == content(ordinary)


@pytest.mark.slow
def test_a_mount_without_hard_links_inside_a_place_with_them_is_written_to(exfat: Path) -> None:
    location = LocalLocation(exfat.parent)
    scratch = location.scratch_directory() / ".tmp-1"
    scratch.write_bytes(b"large")
    assert location.put_if_absent("mounted/a", b"1")
    assert not location.put_if_absent("mounted/a", b"2")
    location.put_content("mounted/parts/b", scratch)
    assert (exfat / "a").read_bytes() == b"1"
    assert (exfat / "parts/b").read_bytes() == b"large"
