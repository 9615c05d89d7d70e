"""Names for files where there are no hard links, in real processes with system calls that fail."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import kt_batch.store.publish
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


# ---- verdicts of the probe -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
def test_every_answer_of_a_system_without_flags_of_renames_is_understood(code: int, tmp_path: Path) -> None:
    environment = {**preload(tmp_path, "nolink", "norename"), "NO_RENAME": str(code)}
    assert call(tmp_path, "location.publishing()", environment) == "lock"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS])
def test_a_probe_that_fails_for_another_reason_is_no_verdict(code: int, tmp_path: Path) -> None:
    # A process that took this for a lack of the call would lock, while others rename: both would win a name.
    environment = {**preload(tmp_path, "nolink", "norename"), "NO_RENAME": str(code)}
    answer = call(tmp_path / "place", 'location.put_if_absent("a", b"1")', environment)
    assert answer == f"refused: cannot write {tmp_path}/place/a: {os.strerror(code)}"
    assert list((tmp_path / "place").iterdir()) == []


@pytest.mark.parametrize("shims", [("nolink", "norename", "noflock"), ("nolink", "replacing", "fakelock")])
def test_a_system_that_excludes_nobody_is_refused_and_left_as_it_was(shims: tuple[str, ...], tmp_path: Path) -> None:
    answer = call(tmp_path / "place", 'location.put_if_absent("a", b"1")', preload(tmp_path, *shims))
    assert answer.startswith(f"refused: the file system of {tmp_path}/place has no hard links, no rename")
    assert list((tmp_path / "place").iterdir()) == []


@pytest.mark.parametrize("shims", [("onefolder",), ("nolink", "onefolder"), ("nolink", "norename", "onefolder")])
def test_scratch_content_is_copied_where_it_cannot_leave_its_folder(shims: tuple[str, ...], tmp_path: Path) -> None:
    environment, place = preload(tmp_path, *shims), tmp_path / "place"
    place.mkdir()
    (place / ".tmp-1").write_bytes(b"large")
    call(place, 'location.put_content("parts/a", location.root / ".tmp-1")', environment)
    assert (place / "parts/a").read_bytes() == b"large"
    assert [path.name for path in (place / "parts").iterdir()] == ["a"]


# ---- the lock --------------------------------------------------------------------------------------------------------


@pytest.fixture
def locking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalLocation:
    """Return a location in which this process gives names under the lock."""
    monkeypatch.setattr(kt_batch.store.publish, "_known_ways", {(tmp_path, tmp_path.stat().st_dev): Way.LOCK})
    return LocalLocation(tmp_path)


def is_locked(path: Path) -> bool:
    """Tell whether somebody holds the lock of the file that is at `path` now."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_the_lock_is_held_while_a_file_is_renamed_and_not_afterwards(
    locking: LocalLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, rename, held = locking.root / LOCK_NAME, os.rename, []

    def watched(source: Path, target: Path) -> None:
        held.append(is_locked(lock))
        rename(source, target)

    monkeypatch.setattr(os, "rename", watched)
    assert locking.put_if_absent("a", b"1")
    assert held == [True]
    assert not is_locked(lock)


def test_a_lock_file_that_somebody_removes_meanwhile_is_locked_anew(
    locking: LocalLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, flock, rename, left, held = locking.root / LOCK_NAME, fcntl.flock, os.rename, [2], []

    def swept(file: int, operation: int) -> None:
        flock(file, operation)
        if operation == fcntl.LOCK_EX and left[0]:
            left[0] -= 1
            lock.unlink()
            if left[0] == 0:
                lock.touch()  # another writer has made it again

    def watched(source: Path, target: Path) -> None:
        held.append(is_locked(lock))
        rename(source, target)

    monkeypatch.setattr(fcntl, "flock", swept)
    monkeypatch.setattr(os, "rename", watched)
    assert locking.put_if_absent("a", b"1")
    assert held == [True]


def test_a_child_that_is_forked_under_the_lock_does_not_keep_it(
    locking: LocalLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, children = os.rename, []

    def forking(source: Path, target: Path) -> None:
        children.append(os.fork())
        if children[-1] == 0:
            signal.pause()
        rename(source, target)

    monkeypatch.setattr(os, "rename", forking)
    try:
        assert locking.put_if_absent("a", b"1")
        assert not is_locked(locking.root / LOCK_NAME)
    finally:
        os.kill(children[0], signal.SIGKILL)
        os.waitpid(children[0], 0)


def test_nothing_is_renamed_while_the_name_cannot_be_looked_up(
    locking: LocalLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    (locking.root / "a").write_bytes(b"there")
    lstat = Path.lstat

    def failing(path: Path) -> os.stat_result:
        if path.name == "a":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", failing)
    with pytest.raises(StorageError, match=os.strerror(errno.EIO)):
        locking.put_if_absent("a", b"1")
    assert (locking.root / "a").read_bytes() == b"there"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_lock_that_does_not_fit_on_the_disk_is_one_sentence(
    locking: LocalLocation, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    system_open = os.open

    def full(path: Any, flags: int, mode: int = 0o777) -> int:
        if Path(path).name == LOCK_NAME:
            raise OSError(code, os.strerror(code))
        return system_open(path, flags, mode)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(StorageError) as caught:
        locking.put_if_absent("a", b"1")
    assert str(caught.value) == f"cannot write {locking.root}/a: {os.strerror(code)}"
    assert list(locking.root.iterdir()) == []


def test_the_lock_of_another_user_can_be_held_if_it_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / LOCK_NAME).touch(mode=0o444)
        folder.chmod(0o777)
        monkeypatch.setattr(kt_batch.store.publish, "_known_ways", {(folder, folder.stat().st_dev): Way.LOCK})
        user = os.geteuid()
        os.seteuid(user or 65534)
        try:
            assert LocalLocation(folder).put_if_absent("a", b"1")
        finally:
            os.seteuid(user)


# ---- death at every moment -------------------------------------------------------------------------------------------

DIE_AT_CALL = """
import fcntl, os, signal, sys
from pathlib import Path
from kt_batch.store import publish
from kt_batch.store.local import LocalLocation
left = int(sys.argv[2])

def deadly(function):
    def call(*arguments, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call

location = LocalLocation(Path(sys.argv[1]))
location.publishing()
for module, name in ((os, "open"), (os, "close"), (os, "fsync"), (os, "link"), (os, "rename"), (os, "unlink"),
                     (fcntl, "flock"), (publish, "_rename_without_replacing")):
    setattr(module, name, deadly(getattr(module, name)))
location.put_if_absent("deep/a", b"a whole life")
"""


@pytest.mark.parametrize("shims", [("nolink",), ("nolink", "norename")], ids="+".join)
def test_death_before_any_call_leaves_a_whole_file_or_none_and_no_lock(shims: tuple[str, ...], tmp_path: Path) -> None:
    environment = {**os.environ, **preload(tmp_path, *shims)}
    for number in range(1, 100):
        place = tmp_path / f"place{number}"
        place.mkdir()
        command = [sys.executable, "-c", DIE_AT_CALL, str(place), str(number)]
        died = subprocess.run(command, env=environment, check=False).returncode
        names = LocalLocation(place).list()
        assert all((place / name).read_bytes() == b"a whole life" for name in names)
        if (place / LOCK_NAME).exists():
            assert not is_locked(place / LOCK_NAME)
        if died == 0:
            break
        assert died == -signal.SIGKILL
    assert names == ["deep/a"]
    assert number > (10 if "norename" in shims else 6)
