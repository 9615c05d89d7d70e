"""Check that the parts of an index that was read from files fit together."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kt_batch.errors import DamagedError
from kt_batch.index.shards import Shard
from kt_batch.index.tree import Tree


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
    device = tree.leaf_shard.device
    each = torch.tensor(leaves, device=device)
    numbers = torch.arange(len(shards), device=device).repeat_interleave(each)
    counts = [int(part.sum()) for part in tree.leaf_count.clamp(0, _most(shards)).split(leaves)]
    starts = torch.cat([part.cumsum(0) - part for part in tree.leaf_count.split(leaves)])
    if (
        not tree.leaf_shard.equal(numbers)
        or bool((tree.leaf_count < 1).any())
        or counts != [shard.count for shard in shards]
        or not tree.leaf_start.equal(starts)
    ):
        raise DamagedError(f"The leaves of the tree of the index {name} are not the patches of its shards.")


def _most(shards: Sequence[Shard]) -> int:
    """Return the patches of the largest shard; a count beyond it is wrong and must not overflow a sum."""
    return max(shard.count for shard in shards) + 1
