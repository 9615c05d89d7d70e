"""The bytes of a finished index: tree and shards in memory, or these and the leaves mapped from verified files.

Nothing is read whose size, kind of file and hash are not those of `index.json`. A shard that is mapped from the library
itself is hashed once for each start of a machine (store.verified), and so is a staged copy (store.cache).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from kt_batch.errors import DamagedError, StorageError
from kt_batch.events import log_event
from kt_batch.store.cache import CachePlace, ShardCache, open_cache
from kt_batch.store.copies import copy_to_file
from kt_batch.store.indexes import IndexSummary, ShardRef
from kt_batch.store.locations import Location, read_bounded
from kt_batch.store.mapped import MappedFile, allow_open_files
from kt_batch.store.private_folder import UnwritableError
from kt_batch.store.regular import open_regular, reading
from kt_batch.store.scratch import scratch_path, writing_scratch
from kt_batch.store.verified import hash_of

STAGED_TOGETHER = 4  # shards; one connection to object storage rarely fills the network


class ShardFiles:
    """The shards and other files of one library's indexes, as bytes or to map. The cache is opened when it is needed.

    `check` is called with the path and the name of a file that has the right hash, before it is recorded as verified.
    """

    def __init__(self, library: Location, place: CachePlace, check: Callable[[Path, str], None]) -> None:
        self._library = library
        self._place = place
        self._check = check
        self._cache: ShardCache | None = None

    def close(self) -> None:
        """Close the cache; mapped files stay open."""
        if self._cache:
            self._cache.close()

    def read(self, shard: ShardRef) -> bytes:
        """Return the verified bytes of a shard.

        Raises:
            DamagedError: They are not those of `index.json`.
        """
        local = self._library.local_path(shard.path)
        with reading(self.name(shard)), self._opened(local, shard) if local else self._staged(shard) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            raise DamagedError(f"{self.name(shard)} does not have the content its name says.")
        return data

    def map(self, shard: ShardRef) -> MappedFile:
        """Return the verified file of a shard: that of the library, or a staged copy.

        Raises:
            MissingError: It is gone.
            DamagedError: Size or hash are wrong.
        """
        local = self._library.local_path(shard.path)
        with self._opened(local, shard) if local else self._staged(shard) as file:
            if local and not self._is_verified(file, shard):
                raise DamagedError(f"{self.name(shard)} does not have the content its name says.")
            return MappedFile(file, self.name(shard))

    def map_all(self, shards: Sequence[ShardRef]) -> list[MappedFile]:
        """Return the verified files of shards, as `map` does. From object storage, a few are staged at a time.

        Raises:
            DamagedError: As `map`, for the first of the shards at fault.
            StorageError: The system does not let this process keep so many files open.
        """
        files = []
        allow_open_files(len(shards))
        for start in range(0, len(shards), STAGED_TOGETHER):
            some = shards[start : start + STAGED_TOGETHER]  # held once they are mapped, before others need room
            if self._library.local_path(some[0].path) is None:
                self._cache = self._cache or open_cache(self._place)
                self._cache.stage(self._library, some, lambda shard: partial(self._check_file, self.name(shard)))
            files += [self.map(shard) for shard in some]
        return files

    def name(self, shard: ShardRef) -> str:
        """Return what errors call a shard or another file."""
        return f"'{shard.path}' at '{self._library.uri}'"

    def _staged(self, shard: ShardRef) -> BinaryIO:
        self._cache = self._cache or open_cache(self._place)
        return self._cache.open(self._library, shard, partial(self._check_file, self.name(shard)))

    def _check_file(self, name: str, file: BinaryIO) -> None:
        mapped = MappedFile(file, name)
        self._check(mapped.path, name)
        mapped.check()

    def _opened(self, path: Path, shard: ShardRef) -> BinaryIO:
        with reading(self.name(shard)):
            return open_regular(path, self.name(shard), shard.bytes)

    def _is_verified(self, file: BinaryIO, shard: ShardRef) -> bool:
        """Tell whether a file of the library has its hash; hash it every time where no record can be kept."""
        check = partial(self._check_file, self.name(shard))
        try:
            self._cache = self._cache or open_cache(self._place)
            return self._cache.verify(file, shard, check)
        except UnwritableError as error:
            log_event("unrecorded", f"Shards are hashed at every opening: {error}")
        try:
            right = hash_of(file) == shard.sha256
        except OSError as error:
            raise StorageError(f"{self.name(shard)} cannot be read: {error.strerror}.") from error
        if right:
            check(file)
        return right


def read_tree(library: Location, summary: IndexSummary) -> bytes:
    """Return the bytes of an index's tree. Raises DamagedError when they are not those of `index.json`."""
    name = _check_tree_size(library, summary)
    data = read_bounded(library, summary.tree.path, summary.tree_bytes)
    _check_tree_hash(hashlib.sha256(data).hexdigest(), summary, name)
    return data


@contextmanager
def tree_copy(library: Location, summary: IndexSummary) -> Iterator[Path]:
    """Yield a scratch file with the bytes of an index's tree; raises as `read_tree` does."""
    name = _check_tree_size(library, summary)
    with scratch_path(library, ".safetensors") as path:
        with writing_scratch(path):
            sha256 = copy_to_file(library, summary.tree.path, summary.tree_bytes, path)
        _check_tree_hash(sha256, summary, name)
        yield path


def _check_tree_size(library: Location, summary: IndexSummary) -> str:
    """Raise DamagedError when the tree has another size than `index.json` says; return what errors call it."""
    name = f"'{summary.tree.path}' at '{library.uri}'"
    if (size := library.size(summary.tree.path)) != summary.tree_bytes:
        raise DamagedError(f"{name} has {size} bytes, not {summary.tree_bytes}.")
    return name


def _check_tree_hash(sha256: str, summary: IndexSummary, name: str) -> None:
    if sha256 != summary.tree_sha256:
        raise DamagedError(f"{name} does not have the content that index.json says.")
