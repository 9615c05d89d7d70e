"""Open a large index: its tree, its leaves and its shards are mapped, so that all processes of a machine share them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from kt_batch.index.index import Index, leaf_statistics
from kt_batch.index.leaf_statistics import check_leaves, map_leaves
from kt_batch.index.shards import LEAF_NAMES, check_values, open_shard
from kt_batch.index.tree import Tree
from kt_batch.index.validation import check_fit, check_statistics, check_summary
from kt_batch.store.advice import read_at_random, read_soon
from kt_batch.store.cache import CachePlace
from kt_batch.store.indexes import IndexSummary, ShardRef
from kt_batch.store.locations import Location
from kt_batch.store.mapped import MappedFile
from kt_batch.store.shard_files import ShardFiles


def map_index(library: Location, summary: IndexSummary, cache: CachePlace) -> Index:
    """Map an index of any size, from the library itself or from copies that are staged in the cache.

    Every file is hashed, and its content checked, once for each start of a machine; the values of centres are checked
    where they are read. An index without a file of its leaves (formats 3 and 4) has their statistics in memory.

    Raises:
        MissingError: A file is gone.
        DamagedError: A file is damaged, or does not fit the others.
    """
    name = f"{summary.digest} of '{library.uri}'"
    tree_file = map_file(library, summary.tree, cache, check_tree)
    tree = Tree.map(tree_file.path)
    check_summary(tree, summary.channels, summary.leaves, name)
    with closing(ShardFiles(library, cache, check_shard)) as files:
        shard_files = files.map_all(summary.shards)
    shards = [open_shard(file.path, file.name, checked=True) for file in shard_files]
    check_fit(tree, shards, name)
    files_in_use = [tree_file, *shard_files]
    if summary.leaf_statistics:
        files_in_use.append(map_file(library, summary.leaf_statistics, cache, check_leaf_statistics))
        leaves = map_leaves(files_in_use[-1].path)
        check_statistics(tree, shards, leaves, name)
    else:
        leaves = leaf_statistics(shards)
    for shard in shards:
        read_at_random(tensor for key, tensor in shard.tensors().items() if key not in LEAF_NAMES)
    read_at_random([tree.centres, leaves.variances])
    index = Index(tree, shards, files_in_use, read_soon, leaves)
    index.check_files()
    return index


def map_file(library: Location, file: ShardRef, cache: CachePlace, check: Callable[[Path, str], None]) -> MappedFile:
    """Map a file of an index that is no shard, hashed and checked once for each start of a machine."""
    with closing(ShardFiles(library, cache, check)) as files:
        return files.map(file)


def check_shard(path: Path, name: str) -> None:
    """Raise DamagedError when a file is no shard, or holds NaN or infinity."""
    check_values(open_shard(path, name), name)


def check_tree(path: Path, _: str) -> None:
    """Raise DamagedError when a file is no tree that a search can descend; its centres are not read."""
    Tree.map(path).check_structure()


def check_leaf_statistics(path: Path, _: str) -> None:
    """Raise DamagedError when a file is not that of the leaves of an index, or holds NaN or infinity."""
    check_leaves(path)
