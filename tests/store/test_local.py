"""A local directory under races, crashes, escaping links and full disks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kt_batch.errors import DamagedError, StorageError
from kt_batch.store.locations import LocalLocation, exists

PUT_WHEN_TOLD = """
import sys
from pathlib import Path
from kt_batch.store.local import LocalLocation
print("ready", flush=True)
sys.stdin.readline()
print(LocalLocation(Path(sys.argv[1])).put_if_absent("deep/race", sys.argv[2].encode()))
"""


def test_exactly_one_of_16_processes_wins_a_name(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PUT_WHEN_TOLD, str(tmp_path / "place")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([*command, str(writer)], **pipes) for writer in range(16)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    answers = [writer.communicate()[0].strip() for writer in writers]
    assert sorted(answers) == ["False"] * 15 + ["True"]
    assert LocalLocation(tmp_path / "place").read_bytes("deep/race") == b"%d" % answers.index("True")


DIE_BEFORE_LINK = """
import os, signal, sys
from pathlib import Path
from kt_batch.store.local import LocalLocation
os.link = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
LocalLocation(Path(sys.argv[1])).put_if_absent("receipts/x.json", b"half a life")
"""


def test_a_writer_killed_before_the_link_leaves_nothing_visible(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", DIE_BEFORE_LINK, str(tmp_path)], check=False)
    assert result.returncode == -signal.SIGKILL
    location = LocalLocation(tmp_path)
    assert len(list((tmp_path / "receipts").iterdir())) == 1  # it had written its temporary file
    assert location.list() == []
    assert not exists(location, "receipts/x.json")
    assert location.put_if_absent("receipts/x.json", b"whole")
    assert location.read_bytes("receipts/x.json") == b"whole"


def test_bytes_are_durable_before_the_name_and_the_name_before_put_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def record(step: str, function: Callable[..., None]) -> None:
        def recorded(*args: Any, **kwargs: Any) -> None:
            steps.append(step)
            function(*args, **kwargs)

        monkeypatch.setattr(os, step, recorded)

    record("fsync", os.fsync)
    record("link", os.link)
    LocalLocation(tmp_path).put_if_absent("x", b"1")
    assert steps == ["fsync", "link", "fsync"]
    steps.clear()
    LocalLocation(tmp_path).put_if_absent("new/y", b"1")
    assert steps == ["fsync", "fsync", "link", "fsync"]  # first the new directory


def test_a_link_out_of_the_location_is_not_written_through(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "place"
    outside.mkdir()
    root.mkdir()
    (root / "images").symlink_to(outside)
    location = LocalLocation(root)
    source = tmp_path / "source"
    source.write_bytes(b"1")
    for write in (
        lambda: location.put_if_absent("images/x", b"1"),
        lambda: location.put_if_absent("images/deep/x", b"1"),
        lambda: location.put_content("images/x", source),
        lambda: location.delete("images/x"),
    ):
        with pytest.raises(StorageError, match="leads out of"):
            write()
    assert list(outside.iterdir()) == []


def test_a_link_at_the_target_name_is_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "place", tmp_path / "outside"
    root.mkdir()
    (root / "x").symlink_to(outside)
    assert not LocalLocation(root).put_if_absent("x", b"1")
    assert not outside.exists()


def test_a_location_may_be_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "place").symlink_to(tmp_path / "disk")
    location = LocalLocation(tmp_path / "place")
    assert location.put_if_absent("a/x", b"1")
    assert location.list() == ["a/x"]
    assert (tmp_path / "disk/a/x").read_bytes() == b"1"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_failed_write_raises_one_sentence_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError) as caught:
        LocalLocation(tmp_path).put_if_absent("x", b"1")
    assert str(caught.value) == f"cannot write {tmp_path}/x: {os.strerror(code)}"
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_a_directory_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        LocalLocation(tmp_path / "file").put_if_absent("x", b"1")


def test_scratch_content_is_linked_and_not_copied(tmp_path: Path) -> None:
    location = LocalLocation(tmp_path / "place")
    scratch = location.scratch_directory() / ".tmp-1"
    scratch.write_bytes(b"large")
    location.put_content("parts/a", scratch)
    assert (tmp_path / "place/parts/a").samefile(scratch)


def test_different_content_under_a_hashed_name_is_damage(tmp_path: Path) -> None:
    location = LocalLocation(tmp_path / "place")
    location.put_if_absent("parts/c0ffee", b"half")
    source = tmp_path / "source"
    source.write_bytes(b"whole content")
    with pytest.raises(DamagedError, match="holds 4 bytes, but its content has 13"):
        location.put_content("parts/c0ffee", source)
