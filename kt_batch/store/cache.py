"""The cache of index shards: copies of shards from object storage, named by their SHA-256, in a folder of the user.

The tree of a large index and the statistics of its leaves are kept as its shards are.

    <sha256>              a shard
    <sha256>.used         empty; its time of change is the shard's last opening
    verified-<boot id>    which files were hashed since the machine started (store.verified)
    lock                  held while a shard is staged, hashed or removed
    .tmp-<hex>            a shard on its way; whoever holds the lock removes what a killed process left

A few shards are copied at a time, each once per folder while others wait for the lock. Size and hash are checked on the
way, and again once for each start of a machine; a damaged copy is removed and staged again. Whoever works with a shard
holds a shared lock on it. The least recently used shards that nobody holds are removed when a new one would exceed the
limit or the disk.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kt_batch.errors import DamagedError, StorageError
from kt_batch.events import log_event
from kt_batch.store.indexes import ShardRef
from kt_batch.store.locations import Location
from kt_batch.store.names import TEMP_PREFIX
from kt_batch.store.private_folder import PrivateFolder, UnwritableError
from kt_batch.store.verified import VerifiedFiles, hash_of

DEFAULT_BYTES = 100 * 10**9
BLOCK = 1 << 24  # bytes copied at a time
TOGETHER_FROM = 2  # shards; `open` stages a single one
USED = ".used"

Check = Callable[[BinaryIO], None]

_SHARD = re.compile(r"[0-9a-f]{64}")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class CachePlace:
    """Where shards are staged.

    folder: None is the user's own default, which every machine finds for itself.
    most: Bytes up to which shards stay. An index in use may take more.
    """

    folder: str | None = None
    most: int = DEFAULT_BYTES


@dataclass(frozen=True)
class CachedShard:
    """One shard in the cache: its SHA-256, its size, when it was last opened (Unix nanoseconds), and whether it is."""

    sha256: str
    bytes: int
    used: int
    in_use: bool


class ShardCache:
    """An open cache folder."""

    def __init__(self, folder: PrivateFolder, most: int = DEFAULT_BYTES) -> None:
        self._folder = folder
        self._most = most
        self._verified = VerifiedFiles(folder)

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    def close(self) -> None:
        """Close the folder; shards opened from it stay open."""
        self._folder.close()

    def open(self, location: Location, shard: ShardRef, check: Check) -> BinaryIO:
        """Return an open, verified copy of a shard; stage it first where there is none. It stays while it is open.

        Args:
            location: The library.
            shard: One of its shards.
            check: Called with a file that has the right hash before it is recorded as verified.

        Raises:
            DamagedError: The library's shard has another size or hash.
            StorageError: The folder cannot be used, or its disk is full.
        """
        with self._explained():
            file = self._verified_file(shard)
            if file is None:
                with self._folder.locked():
                    file = self._verified_file(shard) or self._whole(shard, check)
                    if file is None:
                        self._stage(location, [shard])
                        file = self._whole(shard, check)
            self._folder.touch(f"{shard.sha256}{USED}")
        if file is None:
            raise StorageError(f"The cache folder '{self.path}' does not keep what is written to it.")
        return file

    def stage(self, location: Location, shards: Sequence[ShardRef], check: Callable[[ShardRef], Check]) -> None:
        """Stage those of `shards` of which there is no copy, all at a time, so that `open` finds them.

        Args:
            location: The library.
            shards: A few of its shards.
            check: Gives for a shard what `open` takes as `check`.

        Raises:
            DamagedError: As in `open`, for the first of the shards at fault; the others are staged.
            StorageError: As in `open`.
        """
        with self._explained():
            missing = [shard for shard in dict.fromkeys(shards) if not _closed(self._verified_file(shard))]
            if len(missing) < TOGETHER_FROM:
                return
            with self._folder.locked():
                absent = [
                    shard
                    for shard in missing
                    if not _closed(self._verified_file(shard) or self._whole(shard, check(shard)))
                ]
                if absent:
                    self._stage(location, absent)

    def verify(self, file: BinaryIO, shard: ShardRef, check: Check) -> bool:
        """Tell whether a file of the library itself has the hash of a shard; hash it unless that is recorded."""
        with self._explained():
            if self._verified.holds(shard.sha256, file):
                return True
            with self._folder.locked():
                return self._verified.holds(shard.sha256, file) or self._hashed(file, shard, check)

    def shards(self) -> list[CachedShard]:
        """Return the shards in the cache, the least recently used first."""
        with self._explained():
            found = [self._described(name) for name in self._folder.names() if _SHARD.fullmatch(name)]
        return sorted((shard for shard in found if shard), key=lambda shard: (shard.used, shard.sha256))

    def clear(self) -> list[CachedShard]:
        """Remove all shards that nobody has open, and what killed processes left; return them."""
        with self._explained(), self._folder.locked():
            self._remove_leftovers()
            unused = [shard for shard in self.shards() if not shard.in_use]
            for shard in unused:
                self._remove(shard.sha256)
            return unused

    def _verified_file(self, shard: ShardRef) -> BinaryIO | None:
        """Return the open copy of a shard if it is whole and recorded as verified."""
        file = self._held(shard)
        if file is None or self._verified.holds(shard.sha256, file):
            return file
        file.close()
        return None

    def _whole(self, shard: ShardRef, check: Check) -> BinaryIO | None:
        """Return the open copy of a shard if its bytes are right; remove it if they are not."""
        file = self._held(shard)
        if file is not None:
            try:
                if self._hashed(file, shard, check):
                    return file
            except BaseException:
                file.close()
                raise
            file.close()
        if shard.sha256 in self._folder.names():
            path = str(self.path / shard.sha256)
            log_event("cache_damaged", f"The cached shard '{path}' is damaged: staging it again.", logging.WARNING)
            self._remove(shard.sha256)
        return None

    def _held(self, shard: ShardRef) -> BinaryIO | None:
        """Open the copy of a shard and take a shared lock on it; None where it is absent or has another size."""
        file = self._folder.open(shard.sha256)
        if file is None:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)  # waits only while somebody looks whether it is in use
        if os.fstat(file.fileno()).st_size == shard.bytes:
            return file
        file.close()
        return None

    def _hashed(self, file: BinaryIO, shard: ShardRef, check: Check) -> bool:
        if os.fstat(file.fileno()).st_size != shard.bytes or hash_of(file) != shard.sha256:
            return False
        check(file)
        try:
            self._verified.add(shard.sha256, file)
        except OSError as error:
            log_event("unrecorded", f"'{self.path}' cannot record what was verified: {error.strerror}.")
        return True

    def _stage(self, location: Location, shards: Sequence[ShardRef]) -> None:
        """Copy shards, each on its own thread; raise the error of the first one at fault when all have ended."""
        self._remove_leftovers()
        self._make_room(sum(shard.bytes for shard in shards))
        with ThreadPoolExecutor(len(shards)) as pool:
            copies = [pool.submit(self._copy, location, shard) for shard in shards]
        for copy in copies:
            copy.result()

    def _copy(self, location: Location, shard: ShardRef) -> None:
        try:
            with self._folder.new_file(shard.sha256) as copy:
                _copy(location, shard, copy)
        except OSError as error:
            if error.errno in _FULL:
                raise self._no_room(shard.bytes) from error
            raise
        log_event("staged", shard=shard.sha256, bytes=shard.bytes)

    def _make_room(self, need: int) -> None:
        """Remove the least recently used shards that nobody holds until `need` bytes fit."""
        shards = self.shards()
        total = sum(shard.bytes for shard in shards)
        for shard in shards:
            if total + need <= self._most and need <= self._folder.free_bytes():
                return
            if not shard.in_use:
                self._remove(shard.sha256)
                total -= shard.bytes
                log_event("evicted", shard=shard.sha256, bytes=shard.bytes)
        if need > self._folder.free_bytes():
            raise self._no_room(need)

    def _no_room(self, need: int) -> StorageError:
        return StorageError(
            f"The disk of the cache folder '{self.path}' is full: an index shard needs {need:,} bytes and "
            f"{self._folder.free_bytes():,} are free; name a folder on another disk with --cache-dir."
        )

    def _described(self, name: str) -> CachedShard | None:
        # Network file systems give an exclusive lock to writers alone.
        file = self._folder.open(name, os.O_RDONLY if self._folder.read_only else os.O_RDWR)
        if file is None:
            return None
        with file:
            status, used = os.fstat(file.fileno()), self._folder.status(f"{name}{USED}")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                in_use = False
            except BlockingIOError:
                in_use = True
        return CachedShard(name, status.st_size, (used or status).st_mtime_ns, in_use)

    def _remove(self, sha256: str) -> None:
        self._folder.remove(sha256)
        self._folder.remove(f"{sha256}{USED}")

    def _remove_leftovers(self) -> None:
        names = self._folder.names()
        for name in names:
            if name.startswith(TEMP_PREFIX) or (name.endswith(USED) and name.removesuffix(USED) not in names):
                self._folder.remove(name)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnwritableError(
                f"The cache folder '{self.path}' cannot be used: {error.strerror or error}."
            ) from error


def open_cache(place: CachePlace) -> ShardCache:
    """Open the cache folder, which is created where it is missing.

    Raises:
        UnwritableError: There is no folder that can be written to.
        StorageError: The folder is a link, belongs to somebody else, or is open to others.
    """
    faults = []
    for folder in _folders(place):
        try:
            return ShardCache(PrivateFolder(folder), place.most)
        except UnwritableError as error:
            faults.append(str(error))
    if not faults:
        raise UnwritableError("There is no home and no folder for temporary files; name a folder with --cache-dir.")
    raise UnwritableError(faults[0] if len(faults) == 1 else f"No cache folder can be written to: {' '.join(faults)}")


def find_cache(place: CachePlace, *, read_only: bool = False) -> ShardCache | None:
    """Open the cache folder if there is one: see `open_cache`. One that is only read need not be writable."""
    there = [folder for folder in _folders(place) if os.path.lexists(folder)]
    return ShardCache(PrivateFolder(there[0], read_only=read_only), place.most) if there else None


def _folders(place: CachePlace) -> list[Path]:
    """Return the folder of a place, or by default that in the user's home and that among temporary files."""
    if place.folder:
        return [Path(place.folder)]
    folders = []
    home = os.environ.get("XDG_CACHE_HOME", "")
    with suppress(RuntimeError):  # this user has no home
        folders.append((Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "kt-batch")
    with suppress(FileNotFoundError):  # nothing here can be written to
        folders.append(Path(tempfile.gettempdir()) / f"kt-batch-cache-{os.geteuid()}")
    return folders


def _closed(file: BinaryIO | None) -> bool:
    """Close a file; tell whether there was one."""
    if file is None:
        return False
    file.close()
    return True


def _copy(location: Location, shard: ShardRef, copy: BinaryIO) -> None:
    """Copy a shard and check its size and hash on the way; never write more than its size."""
    name, digest, left = shard.path, hashlib.sha256(), shard.bytes
    with location.open(name) as source:
        while block := source.read(min(BLOCK, left + 1)):
            left -= len(block)
            if left < 0:
                raise DamagedError(f"'{name}' at '{location.uri}' has more than {shard.bytes} bytes.")
            digest.update(block)
            copy.write(block)
    if left:
        raise DamagedError(f"'{name}' at '{location.uri}' has {shard.bytes - left} bytes, not {shard.bytes}.")
    if digest.hexdigest() != shard.sha256:
        raise DamagedError(f"'{name}' at '{location.uri}' does not have the content its name says.")
