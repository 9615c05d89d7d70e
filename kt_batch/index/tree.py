"""The k-means tree: nodes with centres, leaves with their place in a shard.

Node 0 is the root (its centre is zero); children of a node are neighbours in the arrays. All centres live in packet
space (the Haar transform is orthonormal, so cosines are those of the raw vectors).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from kt_batch.errors import DamagedError
from kt_batch.kernels.principal import Basis


@dataclass(frozen=True)
class Tree:
    """centres `(nodes, D)` float32; first_child, child_count, leaf `(nodes,)` int64 (leaf -1: an inner node).

    Per leaf `(leaves,)` int64: leaf_node, leaf_shard, leaf_start, leaf_count. mean `(4, C)` and deviation `(C,)`
    float32. directions `(D, d)` and spread `(D,)` float32: what patches are written in (kernels.principal.Basis).
    """

    centres: Tensor
    first_child: Tensor
    child_count: Tensor
    leaf: Tensor
    leaf_node: Tensor
    leaf_shard: Tensor
    leaf_start: Tensor
    leaf_count: Tensor
    mean: Tensor
    deviation: Tensor
    directions: Tensor
    spread: Tensor

    @property
    def basis(self) -> Basis:
        """What patches are written in."""
        return Basis(self.directions, self.spread)

    @property
    def leaves(self) -> int:
        """How many leaves there are."""
        return self.leaf_node.shape[0]

    def leaf_centres(self) -> Tensor:
        """`(leaves, D)` float32."""
        return self.centres[self.leaf_node]

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        return save({f.name: getattr(self, f.name).contiguous() for f in fields(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Tree:
        """Raises DamagedError when `data` is not a tree."""
        try:
            return cls(**load(data))
        except (SafetensorError, TypeError) as error:
            raise DamagedError(f"The tree of this index cannot be read: {error}.") from error


@dataclass(frozen=True)
class Subtree:
    """What is below one top-level cluster, before it is hung into the tree. Node 0 is the cluster itself."""

    centres: Tensor
    first_child: Tensor
    child_count: Tensor
    leaf: Tensor
    leaf_count: Tensor
    deviation_sum: Tensor

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        return save({f.name: getattr(self, f.name).contiguous() for f in fields(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Subtree:
        """Raises DamagedError when `data` is not a subtree."""
        try:
            return cls(**load(data))
        except (SafetensorError, TypeError) as error:
            raise DamagedError(f"A subtree of this index cannot be read: {error}.") from error


def join(top: Tensor, subtrees: list[Subtree], mean: Tensor, basis: Basis) -> Tree:
    """Hang one subtree under each top-level centre `(k, D)`; subtree s lies in shard s."""
    dim, device = top.shape[1], top.device
    k = len(subtrees)
    centres, leaf = [top.new_zeros(1, dim), top], []
    first, count = [torch.tensor([1], device=device)], [torch.tensor([k], device=device)]
    node_offset, leaf_offset = 1 + k, 0
    rest_first, rest_count, rest_leaf = [], [], []
    for tree in subtrees:
        children = torch.where(tree.child_count > 0, tree.first_child - 1 + node_offset, 0)
        numbers = torch.where(tree.leaf >= 0, tree.leaf + leaf_offset, -1)
        first.append(children[:1])
        count.append(tree.child_count[:1])
        leaf.append(numbers[:1])
        centres.append(tree.centres[1:])
        rest_first.append(children[1:])
        rest_count.append(tree.child_count[1:])
        rest_leaf.append(numbers[1:])
        node_offset += tree.centres.shape[0] - 1
        leaf_offset += tree.leaf_count.shape[0]
    leaf_of_node = torch.cat([torch.tensor([-1], device=device), *leaf, *rest_leaf])
    inner = (leaf_of_node >= 0).nonzero()[:, 0]
    kept = sum(int(t.leaf_count.sum()) for t in subtrees)
    return Tree(
        centres=torch.cat(centres),
        first_child=torch.cat([*first, *rest_first]),
        child_count=torch.cat([*count, *rest_count]),
        leaf=leaf_of_node,
        leaf_node=inner[torch.argsort(leaf_of_node[inner])],
        leaf_shard=torch.cat([torch.full_like(t.leaf_count, s) for s, t in enumerate(subtrees)]),
        leaf_start=torch.cat([t.leaf_count.cumsum(0) - t.leaf_count for t in subtrees]),
        leaf_count=torch.cat([t.leaf_count for t in subtrees]),
        mean=mean,
        deviation=(torch.stack([t.deviation_sum for t in subtrees]).sum(0) / max(1, kept)).float(),
        directions=basis.directions,
        spread=basis.spread,
    )
