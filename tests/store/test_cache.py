"""The cache of index shards: what is staged, what is trusted, what is removed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from kt_batch import events
from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.errors import DamagedError, StorageError
from kt_batch.store import cache as cache_module
from kt_batch.store import layout, verified
from kt_batch.store.cache import CachePlace, ShardCache, find_cache, open_cache
from kt_batch.store.indexes import ShardRef
from kt_batch.store.locations import LocalLocation
from kt_batch.store.private_folder import UnwritableError

ONE, TWO, THREE = (letter * 1000 for letter in (b"a", b"b", b"c"))


class Store(LocalLocation):
    """A library that counts how often each shard is read."""

    reads: list[str] = []  # noqa: RUF012 - LocalLocation is frozen

    def open(self, name: str) -> BinaryIO:
        self.reads.append(name)
        return super().open(name)


def ref(content: bytes) -> ShardRef:
    return ShardRef(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


def accept(_: BinaryIO) -> None:
    """Find every file good."""


@pytest.fixture
def library(tmp_path: Path) -> Store:
    store = Store(tmp_path / "library")
    for content in (ONE, TWO, THREE):
        store.put_if_absent(layout.shard_path(ref(content).sha256), content)
    store.reads.clear()
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@contextmanager
def opened(folder: Path, most: int = 10**9) -> Iterator[ShardCache]:
    with closing(open_cache(CachePlace(str(folder), most))) as cache:
        yield cache


def staged(folder: Path, library: Store, content: bytes, most: int = 10**9) -> bytes:
    """Return what a new process of the user reads of a shard."""
    with opened(folder, most) as cache, cache.open(library, ref(content), accept) as file:
        return file.read()


def shards_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if len(path.name) == 64}


# ---- staging and trust ----


def test_a_shard_is_fetched_once_and_is_private(folder: Path, library: Store) -> None:
    for _ in range(3):
        assert staged(folder, library, ONE) == ONE
    assert library.reads == [layout.shard_path(ref(ONE).sha256)]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_shard_is_hashed_once_for_each_start_of_a_machine(
    folder: Path, library: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hashed: list[BinaryIO] = []

    def counted(file: BinaryIO) -> str | None:
        hashed.append(file)
        return verified.hash_of(file)

    monkeypatch.setattr(cache_module, "hash_of", counted)
    for boot, hashes in (("1", 1), ("1", 1), ("2", 2), ("1", 2)):  # the record of an earlier start stays for a while
        (tmp_path / "boot").write_text(f"0000000{boot}-0000-0000-0000-000000000000\n")
        monkeypatch.setattr(verified, "_BOOT_ID", tmp_path / "boot")
        assert staged(folder, library, ONE) == ONE
        assert len(hashed) == hashes
    monkeypatch.setattr(verified, "_BOOT_ID", tmp_path / "none")  # a system that has none
    assert staged(folder, library, ONE) == ONE
    assert len(hashed) == 3


def test_a_shard_is_checked_before_it_is_trusted(folder: Path, library: Store) -> None:
    def refuse(_: BinaryIO) -> None:
        raise DamagedError("It holds NaN.")

    for _ in range(2):  # the second time too
        with opened(folder) as cache, pytest.raises(DamagedError, match="It holds NaN"):
            cache.open(library, ref(ONE), refuse)


def other_bytes(path: Path) -> None:
    path.write_bytes(TWO)


def same_times(path: Path) -> None:
    status = path.stat()
    path.write_bytes(TWO)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def link_to(content: bytes) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        target = path.parent.parent / "target"
        target.write_bytes(content)
        path.unlink()
        path.symlink_to(target)

    return replace


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def hard_link(path: Path) -> None:
    target = path.parent.parent / "target"
    target.write_bytes(TWO)
    path.unlink()
    path.hardlink_to(target)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def hole(path: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, len(ONE))


def one_bit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(500)
        file.write(b"`")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "one bit is flipped": one_bit,
    "another shard of equal size": other_bytes,
    "another one with the times of the old one": same_times,
    "cut by a byte": lambda path: os.truncate(path, 999),
    "cut to nothing": lambda path: os.truncate(path, 0),
    "zeros at its end": lambda path: os.truncate(path, 1001),
    "a hole of its size": hole,
    "a link to another file": link_to(TWO),
    "a link to a file with the right bytes": link_to(ONE),
    "a link to itself": link_to_itself,
    "another name of another file": hard_link,
    "a pipe": pipe,
    "removed": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_copy_is_staged_again_by_itself(folder: Path, library: Store, damage: Callable[[Path], None]) -> None:
    staged(folder, library, ONE)
    damage(folder / ref(ONE).sha256)
    target = folder.parent / "target"
    before = target.read_bytes() if target.exists() else None
    with events.keep_events() as kept:
        assert staged(folder, library, ONE) == ONE
    assert [event["event"] for event in kept.take()] == (
        ["staged"] if damage is DAMAGES["removed"] else ["cache_damaged", "staged"]
    )
    assert len(library.reads) == 2
    assert before is None or target.read_bytes() == before
    assert staged(folder, library, ONE) == ONE
    assert len(library.reads) == 2


def test_two_shards_of_equal_size_that_change_places_are_both_noticed(folder: Path, library: Store) -> None:
    staged(folder, library, ONE)
    staged(folder, library, TWO)
    one, two = folder / ref(ONE).sha256, folder / ref(TWO).sha256
    one.rename(folder / "x")
    two.rename(one)
    (folder / "x").rename(two)
    assert (staged(folder, library, ONE), staged(folder, library, TWO)) == (ONE, TWO)


def test_a_copy_whose_record_no_longer_fits_is_hashed_and_kept(folder: Path, library: Store) -> None:
    staged(folder, library, ONE)
    (folder / ref(ONE).sha256).chmod(0o400)  # changes ctime
    (folder / ref(ONE).sha256).chmod(0o600)
    assert staged(folder, library, ONE) == ONE
    assert len(library.reads) == 1


@pytest.mark.parametrize("record", [b"", b"\0" * 1000, b"\xff\xfe", b"x" * 100_000, b"1 2 3\n" * 1000])
def test_a_damaged_record_trusts_nothing_and_stops_nothing(folder: Path, library: Store, record: bytes) -> None:
    staged(folder, library, ONE)
    (path,) = folder.glob("verified-*")
    path.write_bytes(record)
    other_bytes(folder / ref(ONE).sha256)
    assert staged(folder, library, ONE) == ONE
    assert staged(folder, library, ONE) == ONE
    assert len(library.reads) == 2


def test_records_of_earlier_starts_are_few(folder: Path, library: Store) -> None:
    staged(folder, library, ONE)
    for number in range(100):
        (folder / f"verified-00000000-0000-0000-0000-{number:012}").write_bytes(b"")
    (folder / str(verified.record_name())).unlink()
    staged(folder, library, ONE)
    assert len(list(folder.glob("verified-*"))) == verified.KEPT_RECORDS


# ---- a library that is not what index.json says ----


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (TWO, "does not have the content its name says"),
        (ONE[:-1], "has 999 bytes, not 1000"),
        (b"", "has 0 bytes, not 1000"),
        (ONE + b"a", "has more than 1000 bytes"),
        (ONE * 1000, "has more than 1000 bytes"),
    ],
)
def test_a_damaged_shard_of_the_library_is_one_sentence_and_leaves_nothing(
    folder: Path, library: Store, content: bytes, reason: str
) -> None:
    path = library.root / layout.shard_path(ref(ONE).sha256)
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=rf"^[^\n]*{ref(ONE).sha256}[^\n]* {reason}\.$"):
        staged(folder, library, ONE)
    assert shards_in(folder) == set()
    assert not list(folder.glob(".tmp-*"))


@pytest.mark.parametrize("size", [10**15, 2**62, 2**63 - 1])
def test_a_disk_without_room_is_one_sentence_with_folder_and_need(folder: Path, library: Store, size: int) -> None:
    claimed = ShardRef(sha256=ref(ONE).sha256, bytes=size)
    with opened(folder) as cache, pytest.raises(StorageError) as caught:
        cache.open(library, claimed, accept)
    assert str(caught.value).startswith(
        f"The disk of the cache folder '{folder}' is full: an index shard needs {size:,}"
    )
    assert library.reads == []


def test_a_disk_that_fills_up_while_a_shard_is_copied_is_the_same_sentence(folder: Path, library: Store) -> None:
    class Full(Store):
        def open(self, name: str) -> BinaryIO:
            raise OSError(28, os.strerror(28), name)

    with pytest.raises(StorageError, match=r"is full: an index shard needs 1,000 bytes and [\d,]+ are free"):
        staged(folder, Full(library.root), ONE)
    assert not list(folder.glob(".tmp-*"))


# ---- several shards at a time ----


def stage(folder: Path, library: LocalLocation, *contents: bytes) -> None:
    with opened(folder) as cache:
        cache.stage(library, [ref(content) for content in contents], lambda _: accept)


def test_shards_staged_at_a_time_are_those_staged_in_turn(folder: Path, library: Store) -> None:
    stage(folder, library, ONE, TWO, THREE, ONE)
    assert len(library.reads) == 3
    assert [staged(folder, library, content) for content in (ONE, TWO, THREE)] == [ONE, TWO, THREE]
    stage(folder, library, ONE, TWO, THREE)
    assert len(library.reads) == 3


def test_several_shards_are_read_at_the_same_time(folder: Path, library: Store) -> None:
    together = threading.Barrier(3, timeout=30)

    class Waiting(Store):
        def open(self, name: str) -> BinaryIO:
            together.wait()  # ends when all three are here
            return super().open(name)

    stage(folder, Waiting(library.root), ONE, TWO, THREE)
    assert len(shards_in(folder)) == 3


def test_of_several_shards_at_fault_the_first_is_named_and_the_good_ones_are_kept(folder: Path, library: Store) -> None:
    second_has_failed = threading.Event()

    class Slow(Store):
        def open(self, name: str) -> BinaryIO:
            if ref(ONE).sha256 in name:
                second_has_failed.wait(5)
            elif ref(TWO).sha256 in name:
                second_has_failed.set()
            return super().open(name)

    for content in (ONE, TWO):
        path = library.root / layout.shard_path(ref(content).sha256)
        path.unlink()
        path.write_bytes(content[:-1])
    with pytest.raises(DamagedError, match=rf"^[^\n]*{ref(ONE).sha256}[^\n]* has 999 bytes, not 1000\.$"):
        stage(folder, Slow(library.root), ONE, TWO, THREE)
    assert shards_in(folder) == {ref(THREE).sha256}
    assert not list(folder.glob(".tmp-*"))


def test_room_is_made_for_all_shards_that_are_staged_at_a_time(folder: Path, library: Store) -> None:
    staged(folder, library, ONE)
    with opened(folder, most=2500) as cache:
        cache.stage(library, [ref(TWO), ref(THREE)], lambda _: accept)
    assert shards_in(folder) == {ref(TWO).sha256, ref(THREE).sha256}


def test_a_damaged_copy_is_staged_again_with_others(folder: Path, library: Store) -> None:
    stage(folder, library, ONE, TWO)
    (folder / ref(ONE).sha256).write_bytes(b"x" * 1000)
    stage(folder, library, ONE, THREE)
    assert [staged(folder, library, content) for content in (ONE, TWO, THREE)] == [ONE, TWO, THREE]


# ---- several processes ----


def test_many_that_want_a_shard_at_once_fetch_it_once(folder: Path, library: Store) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(staged(folder, library, ONE))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [ONE] * 8
    assert len(library.reads) == 1


def test_what_a_killed_process_left_is_removed_by_the_next_one_that_stages(folder: Path, library: Store) -> None:
    staged(folder, library, ONE)
    (folder / f".tmp-{'0' * 24}").write_bytes(b"half a shard")
    (folder / f"{'0' * 64}.used").write_bytes(b"")
    staged(folder, library, TWO)
    assert not list(folder.glob(".tmp-*"))
    assert not (folder / f"{'0' * 64}.used").exists()


# ---- the limit ----


def test_the_least_recently_used_shard_makes_room(folder: Path, library: Store) -> None:
    for content in (ONE, TWO, ONE):
        staged(folder, library, content, most=2500)
    staged(folder, library, THREE, most=2500)
    assert shards_in(folder) == {ref(ONE).sha256, ref(THREE).sha256}


def test_a_shard_in_use_is_never_removed_and_may_exceed_the_limit(folder: Path, library: Store) -> None:
    with opened(folder) as cache, cache.open(library, ref(ONE), accept) as file:
        staged(folder, library, TWO, most=0)
        staged(folder, library, THREE, most=0)
        assert shards_in(folder) == {ref(ONE).sha256, ref(THREE).sha256}
        assert file.read() == ONE
    staged(folder, library, TWO, most=0)
    assert shards_in(folder) == {ref(TWO).sha256}


def test_a_shard_that_another_process_holds_is_in_use_until_that_process_dies(folder: Path, library: Store) -> None:
    staged(folder, library, ONE)
    program = (
        "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, 1); print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(folder / ref(ONE).sha256)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder, opened(folder) as cache:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert [shard.in_use for shard in cache.shards()] == [True]
        assert cache.clear() == []
        holder.kill()
        holder.wait()
        assert [shard.sha256 for shard in cache.clear()] == [ref(ONE).sha256]


# ---- the folder ----


def test_the_default_folder_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert find_cache(CachePlace()) is None
    with closing(open_cache(CachePlace())) as cache:
        assert cache.path == tmp_path / ".cache" / "kt-batch"
    for relative in ("", "relative"):  # which the standard says to ignore
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        with closing(open_cache(CachePlace())) as cache:
            assert cache.path == tmp_path / ".cache" / "kt-batch"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    with closing(open_cache(CachePlace())) as cache:
        assert cache.path == tmp_path / "xdg" / "kt-batch"


def test_without_a_home_it_is_among_temporary_files_under_the_users_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "below"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with closing(open_cache(CachePlace())) as cache:
        assert cache.path == tmp_path / f"kt-batch-cache-{os.geteuid()}"


def test_a_planted_default_folder_is_refused_and_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "kt-batch").symlink_to(tmp_path)
    with pytest.raises(StorageError, match="is a link"):
        open_cache(CachePlace())


def test_no_writable_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(UnwritableError, match=r"^No cache folder can be written to: [^\n]*\.$"):
        open_cache(CachePlace())


# ---- gc --cache ----


def test_gc_lists_the_cache_and_removes_what_nobody_uses(
    folder: Path, library: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["gc", "--cache", "--cache-dir", str(folder)]) == 0
    assert capsys.readouterr().out == "There is no cache folder.\n"
    assert not folder.exists()
    staged(folder, library, ONE)
    staged(folder, library, TWO)
    with opened(folder) as cache, cache.open(library, ref(TWO), accept):
        assert run_app(app, ["gc", "--cache", "--cache-dir", str(folder)]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"{folder}: cache, 1 shard, 1,000 bytes: to remove with --delete",
            f"  {ref(ONE).sha256} (1,000 bytes)",
            "  1 shard in use: left alone",
        ]
        assert run_app(app, ["gc", "--cache", "--cache-dir", str(folder), "--delete", "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["deleted"], answer["bytes"], answer["in_use"]) == (True, 1000, 1)
    assert shards_in(folder) == {ref(TWO).sha256}


@pytest.mark.parametrize("words", [[], ["place", "--cache"], ["place", "--cache-dir", "x"]])
def test_gc_takes_a_place_or_the_cache(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["gc", *words]) == 2
    assert capsys.readouterr().err.count("\n") <= 1
