"""List and remove the shards in the cache of this user on this machine."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from kt_batch.store.cache import CachedShard, CachePlace, find_cache


@dataclass(frozen=True)
class CacheSummary:
    """The result of `gc_cache`.

    Attributes:
        folder: The cache folder; None where there is none.
        deleted: Whether the shards were removed.
        shards: Shards that nobody has open, the least recently used first.
        bytes: Their size.
        in_use: The number of other shards, which stay.
    """

    folder: str | None
    deleted: bool
    shards: tuple[CachedShard, ...]
    bytes: int
    in_use: int


def gc_cache(folder: str | None, *, delete: bool = False) -> CacheSummary:
    """List the shards in a cache folder that nobody has open; remove them on request.

    Args:
        folder: The folder; None is the user's own default.
        delete: Remove them, and what killed processes left.

    Raises:
        StorageError: The folder is a link, belongs to somebody else, is open to others, or cannot be used.
    """
    cache = find_cache(CachePlace(folder), read_only=not delete)
    if cache is None:
        return CacheSummary(None, delete, (), 0, 0)
    with closing(cache):
        there = cache.shards()
        unused = cache.clear() if delete else [shard for shard in there if not shard.in_use]
        size, in_use = sum(shard.bytes for shard in unused), sum(shard.in_use for shard in there)
        return CacheSummary(str(cache.path), delete, tuple(unused), size, in_use)
