"""Names for files where there are no hard links, in real processes with system calls that fail."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kt_batch.errors import StorageError
from kt_batch.store.local import LocalLocation
from kt_batch.store.locations import check_kernel, sole_kernel
from kt_batch.store.publish import LOCK_NAME, Way, kernel_id, way_in
from tests.support.preloads import preload

SHIMS = {
    "rename": ("nolink",),
    "lock": ("nolink", "norename"),
    "lock, since renames replace": ("nolink", "replacing"),
}

CALL = """
import sys
from pathlib import Path
from kt_batch.errors import StorageError
from kt_batch.store.local import LocalLocation
location = LocalLocation(Path(sys.argv[1]))
try:
    print(eval(sys.argv[2]))
except StorageError as error:
    print("refused:", error)
"""

RACE = """
import sys
from pathlib import Path
from kt_batch.store.local import LocalLocation
location = LocalLocation(Path(sys.argv[1]))
location.put_if_absent("ready/" + sys.argv[2], b"")
sys.stdin.readline()
print(sum(location.put_if_absent(f"deep/{n}", sys.argv[2].encode()) for n in range(200)))
"""


def call(place: Path, expression: str, environment: dict[str, str]) -> str:
    """Return what an expression about `location` prints in a process of its own."""
    command = [sys.executable, "-c", CALL, str(place), expression]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_an_ordinary_file_system_has_hard_links_and_the_probe_leaves_nothing(tmp_path: Path) -> None:
    assert way_in(tmp_path) is Way.LINK
    assert list(tmp_path.iterdir()) == []
    assert LocalLocation(tmp_path).publishing() is None


@pytest.mark.parametrize("shim", SHIMS)
def test_files_get_their_names_without_hard_links(shim: str, tmp_path: Path) -> None:
    environment, place = preload(tmp_path, *SHIMS[shim]), tmp_path / "place"
    assert call(place, "location.publishing()", environment) == shim.split(",", maxsplit=1)[0]
    assert not place.exists()  # the probe of a place to come leaves nothing
    assert call(place, 'location.put_if_absent("a/b", b"1"), location.put_if_absent("a/b", b"2")', environment) == (
        "(True, False)"
    )
    assert (place / "a/b").read_bytes() == b"1"
    assert LocalLocation(place).list() == ["a/b"]
    assert LocalLocation(place).list_temporary() == {}


@pytest.mark.parametrize("shim", SHIMS)
def test_scratch_content_is_moved_to_its_name_without_hard_links(shim: str, tmp_path: Path) -> None:
    environment, place = preload(tmp_path, *SHIMS[shim]), tmp_path / "place"
    place.mkdir()
    (place / ".tmp-1").write_bytes(b"large")
    (tmp_path / "elsewhere").write_bytes(b"large")
    call(place, 'location.put_content("parts/a", location.root / ".tmp-1")', environment)
    assert (place / "parts/a").read_bytes() == b"large"
    assert not (place / ".tmp-1").exists()
    call(place, 'location.put_content("parts/a", location.root.parent / "elsewhere")', environment)
    assert (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "code", [errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EMLINK]
)
def test_every_answer_of_a_system_without_hard_links_is_understood(code: int, tmp_path: Path) -> None:
    environment = {**preload(tmp_path, "nolink"), "NO_LINK": str(code)}
    assert call(tmp_path / "place", 'location.put_if_absent("a", b"1")', environment) == "True"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_full_or_broken_disk_is_no_lack_of_hard_links(code: int, tmp_path: Path) -> None:
    environment = {**preload(tmp_path, "nolink"), "NO_LINK": str(code)}
    answer = call(tmp_path / "place", 'location.put_if_absent("a", b"1")', environment)
    assert answer == f"refused: cannot write {tmp_path}/place/a: {os.strerror(code)}"


@pytest.mark.parametrize("shim", SHIMS)
def test_exactly_one_of_several_processes_wins_each_of_200_names(shim: str, tmp_path: Path) -> None:
    environment, place = preload(tmp_path, *SHIMS[shim]), tmp_path / "place"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", RACE, str(place)]
    writers = [subprocess.Popen([*command, str(n)], env={**os.environ, **environment}, **pipes) for n in range(4)]
    while len(list(place.glob("ready/[0-9]"))) < 4:
        assert all(writer.poll() is None for writer in writers)
    won = [int(answer) for answer in (writer.communicate("go\n")[0] for writer in writers)]
    assert sum(won) == 200
    for writer, count in enumerate(won):
        assert sum(path.read_bytes() == b"%d" % writer for path in place.glob("deep/*")) == count
    assert not list(place.glob("**/.tmp-?????*[0-9a-f]"))


DIE_UNDER_LOCK = """
import os, signal, sys
from pathlib import Path
from kt_batch.store.local import LocalLocation
os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
LocalLocation(Path(sys.argv[1])).put_if_absent("a", b"half a life")
"""


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    environment, place = preload(tmp_path, "nolink", "norename"), tmp_path / "place"
    command = [sys.executable, "-c", DIE_UNDER_LOCK, str(place)]
    assert subprocess.run(command, env={**os.environ, **environment}, check=False).returncode == -signal.SIGKILL
    assert (place / LOCK_NAME).exists()
    assert LocalLocation(place).list() == []
    assert call(place, 'location.put_if_absent("a", b"whole")', environment) == "True"
    assert (place / "a").read_bytes() == b"whole"


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    environment, place = preload(tmp_path, "nolink", "norename"), tmp_path / "place"
    place.mkdir()
    (tmp_path / "letter").write_bytes(b"dear")
    (place / LOCK_NAME).symlink_to(tmp_path / "letter")
    answer = call(place, 'location.put_if_absent("a", b"1")', environment)
    assert answer == f"refused: cannot write {place}/a: {os.strerror(errno.ELOOP)}"
    assert (tmp_path / "letter").read_bytes() == b"dear"


def test_a_system_without_links_renames_and_locks_is_refused_in_one_sentence(tmp_path: Path) -> None:
    environment = preload(tmp_path, "nolink", "norename", "noflock")
    for expression in ('location.put_if_absent("a", b"1")', "location.publishing()"):
        answer = call(tmp_path / "place", expression, environment)
        assert re.fullmatch(r"refused: the file system of \S+ has no hard links, .* \(s3://bucket/prefix\)", answer)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_system_that_cannot_sync_directories_is_written_to(code: int, tmp_path: Path) -> None:
    environment = {**preload(tmp_path, "nodirsync"), "NO_SYNC": str(code)}
    expression = 'location.put_if_absent("a/b", b"1"), location.delete("a/b"), location.put_if_absent("a/b", b"2")'
    assert call(tmp_path / "place", expression, environment) == "(True, None, True)"


def test_a_directory_whose_sync_fails_is_an_error(tmp_path: Path) -> None:
    environment = {**preload(tmp_path, "nodirsync"), "NO_SYNC": str(errno.EIO)}
    answer = call(tmp_path / "place", 'location.put_if_absent("a", b"1")', environment)
    assert answer.endswith(os.strerror(errno.EIO))


def test_only_processes_of_one_kernel_write_where_there_are_no_hard_links(tmp_path: Path) -> None:
    location = LocalLocation(tmp_path)
    assert sole_kernel(location) is None
    check_kernel(location, None)
    check_kernel(location, kernel_id())
    with pytest.raises(StorageError, match=r"without hard links, where writers on several hosts .* object storage"):
        check_kernel(location, "another kernel")
    environment = preload(tmp_path, "nolink")
    code = "__import__('kt_batch.store.locations', fromlist=['sole_kernel']).sole_kernel(location)"
    assert call(tmp_path / "place", code, environment) == kernel_id()
