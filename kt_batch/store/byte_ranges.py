"""The bytes of a file or an object by ranges."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from kt_batch.errors import StorageError
from kt_batch.store.objects import is_object, object_range, object_size

BLOCK = 8 << 20  # bytes of a request to a store: a small object costs as much as its request
LOCAL_BLOCK = 1 << 18


class Ranges:
    """A file or an object of a known size. The last block is kept, so that small reads in order cost few requests."""

    def __init__(self, size: int, fetch: Callable[[int, int], bytes], block: int, ahead: bool) -> None:
        """Take the size in bytes, a function of start and length, the bytes of a block, and whether to read ahead."""
        self.size = size
        self._fetch, self._block, self._ahead = fetch, block, block if ahead else 0
        self._start, self._kept = 0, b""

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`; fewer at the end, and none beyond it.

        Raises:
            StorageError, OSError: They cannot be read.
        """
        length = max(0, min(length, self.size - start))
        if not length:
            return b""
        if not self._start <= start <= start + length <= self._start + len(self._kept):
            self._start, self._kept = start, self._fetch(start, min(max(length, self._ahead), self.size - start))
        offset = start - self._start
        return self._kept[offset : offset + length]

    def chunks(self, start: int, length: int) -> Iterator[bytes]:
        """Yield `length` bytes from `start`, a block at most at a time; fewer where the content ends."""
        end = min(start + length, self.size)
        while start < end and (chunk := self.read(start, min(self._block, end - start))):
            start += len(chunk)
            yield chunk


@contextmanager
def open_ranges(place: str | Path, end: int | None = None) -> Iterator[Ranges]:
    """Open a regular file, by its path, or an object, by its URI.

    Args:
        place: A path or a URI.
        end: Where the only range to be read ends; an object is not asked for its size then. None reads all in order.

    Raises:
        StorageError, OSError, UsageError: It cannot be read by ranges.
    """
    if isinstance(place, str) and is_object(place):
        size = object_size(place) if end is None else end
        if size is None:
            raise StorageError(f"the store does not say the size of {place}, so it cannot be read in parts")
        yield Ranges(size, lambda start, length: object_range(place, start, length), BLOCK, end is None)
        return
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe without a writer must not hang
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        fetch = partial(_read_at, descriptor)
        yield Ranges(status.st_size, fetch, LOCAL_BLOCK, end is None)
    finally:
        os.close(descriptor)


def _read_at(descriptor: int, start: int, length: int) -> bytes:
    return os.pread(descriptor, length, start)
