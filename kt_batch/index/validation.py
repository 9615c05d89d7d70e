"""Check that the parts of an index that was read from files fit together."""

from __future__ import annotations

from collections.abc import Sequence

from kt_batch.errors import DamagedError
from kt_batch.index.leaf_statistics import LeafStatistics
from kt_batch.index.shards import Shard
from kt_batch.index.tree import Tree


def check_summary(tree: Tree, channels: int, leaves: int, name: str) -> None:
    """Raise DamagedError when a tree has other channels or leaves than the summary of the index `name` says."""
    if (tree.mean.shape[1], tree.leaves) != (channels, leaves):
        raise DamagedError(f"The tree of the index {name} does not fit its summary: it has other channels or leaves.")


def check_statistics(tree: Tree, shards: Sequence[Shard], leaves: LeafStatistics, name: str) -> None:
    """Raise DamagedError when the statistics of leaves are not of the sizes of an index's tree and shards."""
    found = (len(leaves.lengths), leaves.coordinates, leaves.variances.shape[1])
    wanted = (tree.leaves, tree.directions.shape[1], shards[0].leaf_variances.shape[1])
    if found != wanted:
        raise DamagedError(
            f"The file of the leaves of the index {name} has {found[0]} leaves with {found[1]} coordinates and "
            f"{found[2]} variances; its tree and shards have {wanted[0]} with {wanted[1]} and {wanted[2]}."
        )


def check_leaves_fit(tree: Tree, leaves: LeafStatistics, name: str) -> None:
    """Raise DamagedError when the statistics of leaves are not of the sizes of an index's tree."""
    found, wanted = (len(leaves.lengths), leaves.coordinates), (tree.leaves, tree.directions.shape[1])
    if found != wanted or leaves.variances.shape[1] > wanted[1]:
        raise DamagedError(
            f"The file of the leaves of the index {name} has {found[0]} leaves with {found[1]} coordinates and "
            f"{leaves.variances.shape[1]} variances; its tree has {wanted[0]} with {wanted[1]}."
        )


def check_fit(tree: Tree, shards: Sequence[Shard], name: str) -> None:
    """Check that the leaves of a tree are the patches of its shards, and that all have the same basis.

    Args:
        tree: The tree, which is well formed in itself.
        shards: All shards, well formed in themselves.
        name: What errors call the index.

    Raises:
        DamagedError: A leaf lies outside its shard, some patches are in no leaf or in two, or sizes differ.
    """
    values, directions = tree.directions.shape
    for number, shard in enumerate(shards):
        if shard.level.shape[1] != directions + 1 or _values(shard) != values:
            raise DamagedError(
                f"Shard {number} of the index {name} holds patches of {_values(shard)} values with "
                f"{shard.level.shape[1] - 1} coordinates; its tree has {values} with {directions}."
            )
    if len({shard.leaf_variances.shape[1] for shard in shards}) > 1:
        raise DamagedError(f"The shards of the index {name} have leaf variances of different widths.")
    if shards[0].leaf_variances.shape[1] > directions:
        raise DamagedError(f"The shards of the index {name} have more variances than coordinates.")
    _check_places(tree, shards, name)


def _values(shard: Shard) -> int:
    if shard.bits:
        return 2 * shard.payload["codes"].shape[1]
    return 4 * shard.payload["ll"].shape[1]


def _check_places(tree: Tree, shards: Sequence[Shard], name: str) -> None:
    """Check that leaf after leaf lies in shard after shard, from its first patch to its last."""
    leaves = [len(shard.leaf_means) for shard in shards]
    if tree.leaves != sum(leaves):
        raise DamagedError(f"The tree of the index {name} has {tree.leaves} leaves, its shards have {sum(leaves)}.")
    places = (tree.leaf_shard.split(leaves), tree.leaf_start.split(leaves), tree.leaf_count.split(leaves))
    for number, (shard, own, starts, counts) in enumerate(zip(shards, *places, strict=True)):
        if (
            bool((own != number).any())
            or bool((counts < 1).any())
            or int(counts.clamp(max=shard.count + 1).sum()) != shard.count  # no larger count, so no sum overflows
            or not starts.equal(counts.cumsum(0) - counts)
        ):
            raise DamagedError(f"The leaves of the tree of the index {name} are not the patches of its shards.")
