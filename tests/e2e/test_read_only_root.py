"""On a read-only root without a temporary folder, a command needs its output place, or names the folder it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import COMMAND, Ended, Small, run
from tests.support.read_only_root import on_read_only_root, skip_where_there_can_be_none

NOTHING = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), "")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return the only folder that can be written to."""
    skip_where_there_can_be_none(tmp_path)
    return tmp_path


def kt(place: Path, *words: object, **environment: str) -> Ended:
    return run(*on_read_only_root(place, COMMAND, *words), environment={**NOTHING, **environment})


def test_the_main_job_needs_its_output_place_alone(small: Small, place: Path) -> None:
    library, out = place / "library", place / "run"
    for words in (
        ("extract", small.paintings, "--library", library, "--size", 64, "--threads", 1),
        ("index", library, "--threads", 1),
        ("translate", small.photos, "--library", library, "--out", out, "--threads", 1),
    ):
        ended = kt(place, *words)
        assert ended.code == 0, ended.err
    assert len(list(out.glob("images/*.png"))) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "translate PHOTOS --library LIBRARY --out PLACE/dry --dry-run",
        "translate PHOTOS --method adain --style STYLES --size 64 --out PLACE/adain --threads 1",
        "try PHOTOS/11.png --style STYLES --size 64 --threads 1 --out PLACE/result.png",
        "verify LIBRARY",
        "inspect LIBRARY",
        "inspect LIBRARY --sql",
        "gc LIBRARY",
        "gc --cache",
        "report LIBRARY",
        "report LIBRARY --html PLACE/page.html",
        "models",
    ],
)
def test_every_other_command_works_too(words: str, small: Small, place: Path) -> None:
    names = {"PHOTOS": small.photos, "STYLES": small.paintings, "LIBRARY": small.library, "PLACE": place}
    for name, path in names.items():
        words = words.replace(name, str(path))
    ended = kt(place, *words.split())
    assert ended.code == 0, ended.err


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_to_is_listed_and_not_emptied(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("above") / "cache"
    cache.mkdir(mode=0o700)
    (cache / "lock").touch(mode=0o600)
    (cache / ("0" * 64)).write_bytes(b"shard")
    listed = kt(place, "gc", "--cache", "--cache-dir", cache)
    assert listed.code == 0, listed.err
    assert "0" * 64 in listed.out
    refused = kt(place, "gc", "--cache", "--cache-dir", cache, "--delete")
    assert refused.err.splitlines()[-1] == f"kt-batch: The cache folder '{cache}' cannot be written to."
    assert (cache / ("0" * 64)).exists()


def test_a_pilot_names_the_folder_it_needs(small: Small, place: Path) -> None:
    words = ("translate", small.photos, "--library", small.library, "--out", place / "run", "--dry-run", "--pilot", 1)
    refused = kt(place, *words)
    assert refused.code == 1
    assert refused.err.splitlines()[-1].endswith("name one with TMPDIR=/a/directory")
    (place / "scratch").mkdir()
    assert kt(place, *words, TMPDIR=str(place / "scratch")).code == 0
    assert list((place / "scratch").iterdir()) == []


def test_ray_names_the_memory_it_needs(small: Small, place: Path) -> None:
    refused = kt(
        place, "translate", small.photos, "--library", small.library, "--out", place / "run", "--runner", "ray"
    )
    assert refused.code == 1
    assert refused.err.splitlines()[-1].endswith("'/dev/shm' cannot be written to; leave out --runner ray.")
