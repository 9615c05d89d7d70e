"""`kt-batch merge`: its output, after kill -9, and in a bucket."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import pytest

import kt_batch
from kt_batch.errors import UsageError
from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import no_progress
from tests.e2e.conftest import Small, kt, run
from tests.e2e.test_resume import DRIVER, nothing_half_written
from tests.support.s3_server import S3Server, moto_server  # noqa: F401  # the fixture
from tests.support.tiny import draw, draw_all, extracted, hashes


@pytest.fixture(scope="module")
def more(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of a painting that `small` has and of two that it has not."""
    root = tmp_path_factory.mktemp("more")
    draw_all(root / "paintings", [8, 9])
    shutil.copy(min(small.paintings.iterdir()), root / "paintings/copy.png")
    extracted([root / "paintings"], root / "library")
    return root / "library"


def content(place: Path | str) -> dict[str, str]:
    return {name: sha for name, sha in hashes(place).items() if name.split("/")[0] not in ("receipts", "options")}


@pytest.mark.parametrize(
    ("folder", "number", "when"),
    [
        pytest.param("plan", 1, "after", marks=pytest.mark.slow),
        ("patches", 2, "before"),
        pytest.param("receipts", 1, "before", marks=pytest.mark.slow),
        pytest.param("receipts", 2, "after", marks=pytest.mark.slow),
    ],
)
def test_a_killed_merge_continues(
    small: Small, more: Path, tmp_path: Path, folder: str, number: int, when: str
) -> None:
    words = ["merge", small.library, more, "--into"]
    assert kt(*words, tmp_path / "whole").code == 0
    ended = run(sys.executable, "-c", DRIVER, folder, number, when, *words, tmp_path / "new")
    assert ended.code == -signal.SIGKILL
    nothing_half_written(tmp_path / "new")
    assert kt(*words, tmp_path / "new").code == 0
    assert content(tmp_path / "new") == content(tmp_path / "whole")
    found = verify(str(tmp_path / "new"), no_progress)
    assert (found.faults, found.pending) == ((), 0)


def test_what_the_command_says(small: Small, more: Path, tmp_path: Path) -> None:
    words = ["merge", small.library, more, "--into", tmp_path / "new"]
    dry = kt(*words, "--dry-run")
    assert (dry.code, (tmp_path / "new").exists()) == (0, False)
    assert "5 images (1 of them in several libraries, taken once), 0 rejected" in dry.out
    said = kt(*words)
    assert f"{tmp_path / 'new'}: 5 images (1 of them in several libraries, taken once), " in said.out
    assert f"next: kt-batch index {tmp_path / 'new'}" in said.out
    again = kt(*words, "--json").json
    assert (again["images"], again["shared"], again["rejected"], again["new_units"]) == (5, 1, 0, 0)
    saved = next((tmp_path / "new/options").iterdir())
    assert str(more) in saved.read_text()


def test_a_merge_is_indexed_searched_and_explained(small: Small, more: Path, tmp_path: Path) -> None:
    new, photo = tmp_path / "new", draw(tmp_path / "photo.png", 30)
    assert kt_batch.merge([small.library, more], new).images == 5
    assert kt("index", new, "--threads", 1).code == 0
    assert kt("statistics", new, "--threads", 1).code == 0
    assert kt("translate", photo, "--library", new, "--out", tmp_path / "run", "--threads", 1).code == 0
    said = kt("explain", tmp_path / "run", "photo.png", "--at", "9,9", "--json")
    assert said.code == 0, said.err
    assert "uri" in said.out
    again = kt("verify", new, "--recompute", 5, "--seed", 1, "--json").json
    assert (again["faults"], len(again["recompute"]["equal"])) == ([], 5)


def test_a_merge_from_and_into_a_bucket_is_that_of_local_libraries(
    small: Small,
    more: Path,
    tmp_path: Path,
    moto_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kt_batch.merge([small.library, more], tmp_path / "new")
    place = moto_server.new_location(monkeypatch).uri
    kt_batch.merge([small.library, more], f"{place}/new")
    assert content(f"{place}/new") == content(tmp_path / "new")
    extracted([more.parent / "paintings"], f"{place}/more")
    kt_batch.merge([small.library, f"{place}/more"], tmp_path / "mixed")
    assert content(tmp_path / "mixed") == content(tmp_path / "new")
    with pytest.raises(UsageError, match="is named twice"):
        kt_batch.merge([f"{place}/more", f"{place}/more/"], tmp_path / "other")
