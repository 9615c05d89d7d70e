"""The k-means tree: nodes with centres, leaves with their place in a shard.

Node 0 is the root, with centre zero. The children of a node are adjacent in the arrays. Centres are Haar packets: the
transform is orthonormal, so that cosines are those of the raw vectors.
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
    """The nodes and leaves of an index, and the statistics that all its shards share.

    centres: `(nodes, D)` float32.
    first_child, child_count: `(nodes,)` int64.
    leaf: `(nodes,)` int64, the number of the leaf; -1 for an inner node.
    leaf_node, leaf_shard, leaf_start, leaf_count: `(leaves,)` int64, the place of each leaf.
    mean: `(4, C)` float32, subtracted in match space.
    deviation: `(C,)` float32, mean standard deviation of the patches.
    directions, spread: `(D, d)` and `(D,)` float32, the basis (kernels.principal.Basis).
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
        """The basis in which patches are written."""
        return Basis(self.directions, self.spread)

    @property
    def leaves(self) -> int:
        """Number of leaves."""
        return self.leaf_node.shape[0]

    def leaf_centres(self) -> Tensor:
        """Return the centres of the leaves, `(leaves, D)` float32."""
        return self.centres[self.leaf_node]

    def to_bytes(self) -> bytes:
        """Return the bytes of a safetensors file."""
        return save({f.name: getattr(self, f.name).contiguous() for f in fields(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Tree:
        """Read what `to_bytes` returned. Raises DamagedError when `data` is not a tree."""
        try:
            return cls(**load(data))
        except (SafetensorError, TypeError) as error:
            raise DamagedError(f"The tree of this index cannot be read: {error}.") from error


@dataclass(frozen=True)
class Subtree:
    """The nodes below one top-level cluster, before they join the tree. Node 0 is the cluster itself."""

    centres: Tensor
    first_child: Tensor
    child_count: Tensor
    leaf: Tensor
    leaf_count: Tensor
    deviation_sum: Tensor

    def to_bytes(self) -> bytes:
        """Return the bytes of a safetensors file."""
        return save({f.name: getattr(self, f.name).contiguous() for f in fields(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Subtree:
        """Read what `to_bytes` returned. Raises DamagedError when `data` is not a subtree."""
        try:
            return cls(**load(data))
        except (SafetensorError, TypeError) as error:
            raise DamagedError(f"A subtree of this index cannot be read: {error}.") from error


def join(top: Tensor, subtrees: list[Subtree], mean: Tensor, basis: Basis) -> Tree:
    """Join one subtree under each top-level centre `(k, D)` to a tree; the leaves of subtree s lie in shard s."""
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
