"""The bytes of a finished index: its tree, and its shards in memory or mapped from a verified file.

Nothing is read whose size, kind of file and hash are not those of `index.json`. A shard that is mapped from the library
itself is hashed once for each start of a machine (store.verified), and so is a staged copy (store.cache).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from kt_batch.errors import DamagedError, MissingError, StorageError
from kt_batch.store import layout
from kt_batch.store.cache import CachePlace, ShardCache, open_cache
from kt_batch.store.indexes import IndexSummary, ShardRef
from kt_batch.store.locations import Location
from kt_batch.store.mapped import MappedFile
from kt_batch.store.private_folder import UnwritableError
from kt_batch.store.verified import hash_of

LEAST_BACKED = 16  # a file with less than a 16th of its size on disk is a hole; legitimate shards and trees have none


class ShardFiles:
    """The shards of one library, as bytes or as files to map. The cache is opened when it is needed.

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
        local = self._library.local_path(layout.shard_path(shard.sha256))
        with self._opened(local, shard) if local else self._staged(shard) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            raise DamagedError(f"{self.name(shard)} does not have the content its name says.")
        return data

    def map(self, shard: ShardRef) -> MappedFile:
        """Return the verified file of a shard: that of the library, or a staged copy.

        Raises:
            DamagedError: Size or hash are wrong.
        """
        local = self._library.local_path(layout.shard_path(shard.sha256))
        with self._opened(local, shard) if local else self._staged(shard) as file:
            if local and not self._is_verified(file, shard):
                raise DamagedError(f"{self.name(shard)} does not have the content its name says.")
            return MappedFile(file, self.name(shard))

    def name(self, shard: ShardRef) -> str:
        """Return what errors call a shard."""
        return f"'{layout.shard_path(shard.sha256)}' at '{self._library.uri}'"

    def _staged(self, shard: ShardRef) -> BinaryIO:
        self._cache = self._cache or open_cache(self._place)
        return self._cache.open(self._library, shard, partial(self._check_file, self.name(shard)))

    def _check_file(self, name: str, file: BinaryIO) -> None:
        mapped = MappedFile(file, name)
        self._check(mapped.path, name)
        mapped.check()

    def _opened(self, path: Path, shard: ShardRef) -> BinaryIO:
        return open_whole(path, shard.bytes, self.name(shard))

    def _is_verified(self, file: BinaryIO, shard: ShardRef) -> bool:
        """Tell whether a file of the library has its hash; without a folder for the record, hash it every time."""
        try:
            self._cache = self._cache or open_cache(self._place)
        except UnwritableError:
            if hash_of(file) != shard.sha256:
                return False
            self._check_file(self.name(shard), file)
            return True
        return self._cache.verify(file, shard, partial(self._check_file, self.name(shard)))


def read_tree(library: Location, summary: IndexSummary) -> bytes:
    """Return the bytes of an index's tree. Raises DamagedError when they are not those of `index.json`."""
    path = layout.tree_path(summary.digest)
    name, local = f"'{path}' at '{library.uri}'", library.local_path(path)
    if local is not None:
        with open_whole(local, summary.tree_bytes, name) as file:
            data = file.read()
    else:
        if (size := library.size(path)) != summary.tree_bytes:
            raise DamagedError(f"{name} has {size} bytes, not {summary.tree_bytes}.")
        data = library.read_bytes(path)
    if hashlib.sha256(data).hexdigest() != summary.tree_sha256:
        raise DamagedError(f"{name} does not have the content that index.json says.")
    return data


def open_whole(path: Path, size: int, name: str) -> BinaryIO:
    """Open a regular file of `size` bytes that lie on disk.

    A file may claim gigabytes that its disk does not hold: most of it is a hole, which reads as zeros.

    Raises:
        MissingError: There is no file.
        DamagedError: It is no regular file, has another size, or is mostly a hole.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(f"nothing lies at {path}") from error
    except OSError as error:
        raise StorageError(f"{name} cannot be read: {error.strerror}.") from error
    try:
        _check_whole(descriptor, size, name)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb", buffering=0)


def _check_whole(descriptor: int, size: int, name: str) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise DamagedError(f"{name} is not a regular file.")
    if status.st_size != size:
        raise DamagedError(f"{name} has {status.st_size} bytes, not {size}.")
    if bytes_on_disk(descriptor, size) < size // LEAST_BACKED:
        raise DamagedError(f"{name} claims {size} bytes, and nearly all of them are a hole in the file.")


def bytes_on_disk(descriptor: int, size: int) -> int:
    """Return the bytes of a file outside its holes; all of them where a file system does not tell."""
    end, total = 0, 0
    try:
        while end < size:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            total += end - start
    except OSError as error:
        if error.errno != errno.ENXIO:  # ENXIO: nothing but a hole is left
            total = size
    with suppress(OSError):
        os.lseek(descriptor, 0, os.SEEK_SET)
    return total
