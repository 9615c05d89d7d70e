"""A folder of one user: what it refuses, and that it follows no link."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kt_batch.errors import StorageError
from kt_batch.store.private_folder import LOCK, PrivateFolder, UnwritableError

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[PrivateFolder]:
    opened = PrivateFolder(tmp_path / "mine")
    yield opened
    opened.close()


def refusal(path: Path) -> str:
    with pytest.raises(StorageError) as caught:
        PrivateFolder(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_new_folder_is_the_users_alone_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        PrivateFolder(tmp_path / "above" / "mine").close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "above" / "mine").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o701, 0o704, 0o710, 0o740, 0o750, 0o755, 0o770, 0o777, 0o1777])
def test_a_folder_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    assert f"is open to other users (mode {mode:04o}, allowed is 0700)" in refusal(tmp_path / "open")


def test_a_link_to_a_private_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("there")
    assert "is a link" in refusal(tmp_path / "link")


def test_a_link_to_nothing_is_refused_and_creates_nothing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert "is a link" in refusal(tmp_path / "link")
    assert not (tmp_path / "nowhere").exists()


def test_a_file_or_a_pipe_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for name in ("file", "pipe"):
        assert "cannot be used" in refusal(tmp_path / name)


@AS_ROOT
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 12345, 12345)
    assert "belongs to user 12345, not to user 0" in refusal(tmp_path / "theirs")


def test_a_folder_that_cannot_exist_is_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnwritableError, match="cannot be used"):
        PrivateFolder(tmp_path / "file" / "below")


def test_a_folder_that_is_swapped_after_it_was_opened_is_still_the_old_one(
    folder: PrivateFolder, tmp_path: Path
) -> None:
    folder.append("name", b"ours")
    (tmp_path / "mine").rename(tmp_path / "moved")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "name").write_bytes(b"theirs")
    file = folder.open("name")
    assert file is not None
    with file:
        assert file.read() == b"ours"


def test_no_link_is_read_or_written_through(folder: PrivateFolder, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for name in (LOCK, "shard", "shard.used", "verified"):
        (folder.path / name).symlink_to(victim)
    assert folder.open("shard") is None
    assert folder.status("shard") is None
    folder.append("verified", b"more")
    folder.touch("shard.used")
    with pytest.raises(StorageError, match="is not a regular file"), folder.locked():
        pass
    with folder.new_file("shard") as file:
        file.write(b"new")
    assert victim.read_bytes() == b"precious"
    assert not (folder.path / "shard").is_symlink()


def test_a_pipe_or_a_folder_under_a_name_counts_as_no_file_and_does_not_block(folder: PrivateFolder) -> None:
    os.mkfifo(folder.path / "pipe")
    (folder.path / "folder").mkdir()
    assert folder.open("pipe") is None
    assert folder.open("folder") is None


def test_a_lock_is_not_truncated(folder: PrivateFolder) -> None:
    (folder.path / LOCK).write_bytes(b"content")
    with folder.locked():
        pass
    assert (folder.path / LOCK).read_bytes() == b"content"


def test_a_file_that_fails_half_way_leaves_no_trace(folder: PrivateFolder) -> None:
    def fail() -> None:
        with folder.new_file("shard") as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert folder.names() == []


def test_the_death_of_a_holder_frees_the_lock(folder: PrivateFolder) -> None:
    program = (
        "import sys, time; from pathlib import Path; from kt_batch.store.private_folder import PrivateFolder\n"
        "with PrivateFolder(Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    with folder.locked():
        pass
