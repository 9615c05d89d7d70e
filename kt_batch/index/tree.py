"""The k-means tree: nodes with centres, leaves with their place in a shard.

Node 0 is the root, with centre zero. The children of a node are adjacent in the arrays. Centres are Haar packets: the
transform is orthonormal, so that cosines are those of the raw vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from kt_batch.errors import DamagedError
from kt_batch.index.tensors import Layout, check_between, check_tensors, load_tensors, map_tensors
from kt_batch.kernels.principal import Basis

TREE = "The tree of this index"  # in errors
DEEPEST = 1024  # levels; an index has a few, and crowds of alike patches have made some hundred

_NODES: Layout = {
    "centres": (torch.float32, ("nodes", "values")),
    **dict.fromkeys(("first_child", "child_count", "leaf"), (torch.int64, ("nodes",))),
}
_LEAVES: Layout = dict.fromkeys(("leaf_node", "leaf_shard", "leaf_start", "leaf_count"), (torch.int64, ("leaves",)))
_STATISTICS: Layout = {
    "mean": (torch.float32, (4, "channels")),
    "deviation": (torch.float32, ("channels",)),
    "directions": (torch.float32, ("values", "directions")),
    "spread": (torch.float32, ("values",)),
}
_VALUES = {  # what is allowed; directions are unit vectors, patches are float16
    "centres": (-1e6, 1e6),
    "mean": (-1e6, 1e6),
    "deviation": (0, 1e6),
    "deviation_sum": (0, 1e15),
    "directions": (-2, 2),
    "spread": (0, 2),
}


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

    @property
    def end_of_top(self) -> int:
        """The node after the root and its children, whose descendants follow."""
        return int(self.first_child[0]) + int(self.child_count[0])

    def on_device(self, device: torch.device) -> Tree:
        """Return the same tree in the memory of a device."""
        return Tree(*(getattr(self, f.name).to(device) for f in fields(self)))

    def leaf_centres(self) -> Tensor:
        """Return the centres of the leaves, `(leaves, D)` float32. Raises DamagedError as `centres_of`."""
        centres = self.centres[self.leaf_node]
        check_between(centres, *_VALUES["centres"], f"{TREE} has centres")
        return centres

    def centres_of(self, first: int, count: int) -> Tensor:
        """Return the centres `(count, D)` float32 of nodes that follow one another.

        The centres of a mapped tree are first read here.

        Raises:
            DamagedError: Some value is not finite, or absurd.
        """
        centres = self.centres[first : first + count]
        check_between(centres, *_VALUES["centres"], f"{TREE} has centres")
        return centres

    def to_bytes(self) -> bytes:
        """Return the bytes of a safetensors file."""
        return save({f.name: getattr(self, f.name).contiguous() for f in fields(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Tree:
        """Read what `to_bytes` returned. Raises DamagedError when `data` is not a tree that a search can descend."""
        tensors = load_tensors(data, TREE)
        tree = cls._of(tensors)
        _check_values(tensors, TREE)
        tree.check_structure()
        return tree

    @classmethod
    def map(cls, path: Path) -> Tree:
        """Map the file of a tree whose structure `check_structure` has found sound.

        Its centres, nodes and leaves are not read; statistics are copied, for they are small.

        Raises:
            DamagedError: It is not a tree, or holds statistics with NaN, infinity or absurd values.
        """
        tree = cls._of(map_tensors(path, TREE))
        statistics = {name: getattr(tree, name).clone() for name in _STATISTICS}
        _check_values(statistics, TREE)
        return replace(tree, **statistics)

    @classmethod
    def _of(cls, tensors: dict[str, Tensor]) -> Tree:
        sizes = check_tensors(tensors, _NODES | _LEAVES | _STATISTICS, TREE)
        if not sizes["values"] == 4 * sizes["channels"] >= sizes["directions"]:
            raise DamagedError(f"{TREE} cannot be read: its centres, mean and directions are of different sizes.")
        return cls(**tensors)

    def check_structure(self) -> None:
        """Raise DamagedError when the nodes are no tree, or leaves have nodes of other leaves; read no centre."""
        check_nodes(self.first_child, self.child_count, self.leaf, self.leaves, TREE)
        if not self.leaf_node.equal(_leaf_nodes(self.leaf)):
            raise DamagedError(f"{TREE} has leaves whose nodes are those of other leaves.")


@dataclass(frozen=True)
class Subtree:
    """The nodes below one top-level cluster, before they join the tree. Node 0 is the cluster itself."""

    centres: Tensor
    first_child: Tensor
    child_count: Tensor
    leaf: Tensor
    leaf_count: Tensor
    deviation_sum: Tensor

    def without_centres(self) -> Subtree:
        """Return the same nodes with centres `(0, D)`, for `join_nodes`."""
        return replace(self, centres=self.centres.new_empty(0, self.centres.shape[1]))

    def on_processor(self) -> Subtree:
        """Return the same subtree in the memory of the processor."""
        return Subtree(*(getattr(self, f.name).cpu() for f in fields(self)))

    def to_bytes(self) -> bytes:
        """Return the bytes of a safetensors file."""
        return save({f.name: getattr(self, f.name).contiguous() for f in fields(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Subtree:
        """Read what `to_bytes` returned. Raises DamagedError when `data` is not a subtree."""
        where = "A subtree of this index"
        tensors = load_tensors(data, where)
        layout = {**_NODES, "leaf_count": _LEAVES["leaf_count"], "deviation_sum": (torch.float64, ("channels",))}
        check_tensors(tensors, layout, where)
        _check_values(tensors, where)
        subtree = cls(**tensors)
        check_nodes(subtree.first_child, subtree.child_count, subtree.leaf, len(subtree.leaf_count), where)
        return subtree


def _check_values(tensors: dict[str, Tensor], where: str) -> None:
    for name in tensors.keys() & _VALUES.keys():
        check_between(tensors[name], *_VALUES[name], f"{where} has {name}")


def _leaf_nodes(leaf: Tensor) -> Tensor:
    """Return the nodes `(leaves,)` of leaves 0, 1, ... where `leaf` `(nodes,)` names each once."""
    nodes = (leaf >= 0).nonzero()[:, 0]
    return nodes[torch.argsort(leaf[nodes])]


def check_nodes(first_child: Tensor, child_count: Tensor, leaf: Tensor, leaves: int, where: str) -> None:
    """Check that nodes are one tree whose leaves are numbered from 0.

    Children come after their parent, every node but the first is the child of one node, and a node has children or is a
    leaf. So every descent ends, and reaches every node once.

    Args:
        first_child: As in `Tree`.
        child_count: As in `Tree`.
        leaf: As in `Tree`.
        leaves: Number of leaves.
        where: The subject of the sentence of an error.

    Raises:
        DamagedError: They are no such tree, or one deeper than DEEPEST levels.
    """
    nodes = len(leaf)
    inner = child_count > 0
    first, count = first_child[inner], child_count[inner]
    parents = inner.nonzero()[:, 0]
    own = torch.sort(leaf[leaf >= 0]).values
    ordered = bool(((child_count >= 0) & (child_count < nodes)).all() and ((first > parents) & (first < nodes)).all())
    if not ordered or bool((first + count > nodes).any()):
        raise DamagedError(f"{where} has nodes whose children are not among the {nodes - 1} nodes after the first.")
    change = torch.zeros(nodes + 1, dtype=torch.int64, device=leaf.device)
    change.index_add_(0, first, torch.ones_like(first)).index_add_(0, first + count, -torch.ones_like(first))
    parents_of_each = change.cumsum(0)[:nodes]
    if int(parents_of_each[0]) != 0 or not bool((parents_of_each[1:] == 1).all()):
        raise DamagedError(f"{where} has nodes that are the child of no node or of several; allowed is one parent.")
    if bool((inner == (leaf >= 0)).any()) or not own.equal(torch.arange(leaves, device=leaf.device)):
        raise DamagedError(
            f"{where} has leaves that are not numbered from 0 to {leaves - 1} at nodes without children."
        )
    if _depth(first_child, child_count) > DEEPEST:
        raise DamagedError(f"{where} is deeper than {DEEPEST} levels.")


def _depth(first_child: Tensor, child_count: Tensor) -> int:
    """Return the number of levels below the root, or DEEPEST + 1 where there are more; children follow parents."""
    depth, level = 0, torch.zeros(1, dtype=torch.int64, device=first_child.device)
    while depth <= DEEPEST:
        inner = level[child_count[level] > 0]
        if len(inner) == 0:
            return depth
        count = child_count[inner]
        start = torch.repeat_interleave(first_child[inner] - (count.cumsum(0) - count), count)
        level = start + torch.arange(len(start), device=start.device)
        depth += 1
    return depth


def join(top: Tensor, subtrees: Sequence[Subtree], mean: Tensor, basis: Basis) -> Tree:
    """Join one subtree under each top-level centre `(k, D)` to a tree; the leaves of subtree s lie in shard s."""
    root = top.new_zeros(1, top.shape[1])
    centres = torch.cat([root, top, *(tree.centres[1:] for tree in subtrees)])
    return replace(join_nodes(subtrees, mean, basis), centres=centres)


def join_nodes(subtrees: Sequence[Subtree], mean: Tensor, basis: Basis) -> Tree:
    """Return what `join` does, without looking at centres: those of the result are `(0, D)`."""
    device, k = mean.device, len(subtrees)
    first, count = [torch.tensor([1], device=device)], [torch.tensor([k], device=device)]
    leaf: list[Tensor] = []
    node_offset, leaf_offset = 1 + k, 0
    rest_first, rest_count, rest_leaf = [], [], []
    for tree in subtrees:
        children = torch.where(tree.child_count > 0, tree.first_child - 1 + node_offset, 0)
        numbers = torch.where(tree.leaf >= 0, tree.leaf + leaf_offset, -1)
        first.append(children[:1])
        count.append(tree.child_count[:1])
        leaf.append(numbers[:1])
        rest_first.append(children[1:])
        rest_count.append(tree.child_count[1:])
        rest_leaf.append(numbers[1:])
        node_offset += len(tree.leaf) - 1
        leaf_offset += len(tree.leaf_count)
    leaf_of_node = torch.cat([torch.tensor([-1], device=device), *leaf, *rest_leaf])
    kept = sum(int(t.leaf_count.sum()) for t in subtrees)
    return Tree(
        centres=basis.directions.new_empty(0, len(basis.spread)),
        first_child=torch.cat([*first, *rest_first]),
        child_count=torch.cat([*count, *rest_count]),
        leaf=leaf_of_node,
        leaf_node=_leaf_nodes(leaf_of_node),
        leaf_shard=torch.cat([torch.full_like(t.leaf_count, s) for s, t in enumerate(subtrees)]),
        leaf_start=torch.cat([t.leaf_count.cumsum(0) - t.leaf_count for t in subtrees]),
        leaf_count=torch.cat([t.leaf_count for t in subtrees]),
        mean=mean,
        deviation=(torch.stack([t.deviation_sum for t in subtrees]).sum(0) / max(1, kept)).float(),
        directions=basis.directions,
        spread=basis.spread,
    )


def grow(tree: Tree, top: Tensor, subtrees: Sequence[Subtree]) -> Tree:
    """Join further subtrees to a finished tree, as the last children of its root.

    Mean and basis stay as they are, and so do the places of the tree's leaves: the leaves of subtree s lie in the s-th
    shard after its own. The mean deviation is that of all patches, weighted by their number.

    Args:
        tree: A finished tree.
        top: The centres of the subtrees, `(k, D)`.
        subtrees: One under each centre; none returns the tree itself.
    """
    if not subtrees:
        return tree
    old, split = tree.centres, tree.end_of_top
    rest = [subtree.centres[1:] for subtree in subtrees]
    return replace(grow_nodes(tree, subtrees), centres=torch.cat([old[:split], top, old[split:], *rest]))


def grow_nodes(tree: Tree, subtrees: Sequence[Subtree]) -> Tree:
    """Return what `grow` does for some subtrees, without looking at centres: those of the result are `(0, D)`."""
    new = join_nodes(subtrees, tree.mean, tree.basis)
    nodes, further, split = len(tree.leaf), len(subtrees), tree.end_of_top  # new children stand before node `split`
    old_first = torch.where(tree.first_child >= split, tree.first_child + further, tree.first_child)
    new_first = torch.where(new.child_count > 0, new.first_child + nodes - 1, 0)
    count = tree.child_count.clone()
    count[0] += further
    new_leaf = torch.where(new.leaf >= 0, new.leaf + tree.leaves, -1)

    def woven(old: Tensor, added: Tensor) -> Tensor:
        return torch.cat([old[:split], added[1 : 1 + further], old[split:], added[1 + further :]])

    leaf = woven(tree.leaf, new_leaf)
    kept, added = int(tree.leaf_count.sum()), int(new.leaf_count.sum())
    deviation = (tree.deviation.double() * kept + new.deviation.double() * added) / max(1, kept + added)
    return replace(
        tree,
        centres=new.centres,
        first_child=woven(old_first, new_first),
        child_count=woven(count, new.child_count),
        leaf=leaf,
        leaf_node=_leaf_nodes(leaf),
        leaf_shard=torch.cat([tree.leaf_shard, new.leaf_shard + int(tree.leaf_shard.max()) + 1]),
        leaf_start=torch.cat([tree.leaf_start, new.leaf_start]),
        leaf_count=torch.cat([tree.leaf_count, new.leaf_count]),
        deviation=deviation.float(),
    )
