"""The tree joins subtrees under one root and round-trips through a file."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from kt_batch.config import IndexConfig
from kt_batch.errors import DamagedError
from kt_batch.index.tree import Subtree, Tree, join
from kt_batch.kernels.principal import Basis
from tests.support.synthetic import clustered, index_of, sharded_index_of


def leaf_subtree(centre: list[float], count: int) -> Subtree:
    """Return a cluster that is one leaf."""
    return Subtree(
        centres=torch.tensor([centre]),
        first_child=torch.tensor([0]),
        child_count=torch.tensor([0]),
        leaf=torch.tensor([0]),
        leaf_count=torch.tensor([count]),
        deviation_sum=torch.tensor([6.0], dtype=torch.float64),
    )


def split_subtree() -> Subtree:
    """Return a cluster split into a leaf of 2 patches and a node with leaves of 3 and 4."""
    return Subtree(
        centres=torch.tensor([[1, 0], [2, 0], [3, 0], [4, 0], [5, 0]], dtype=torch.float32),
        first_child=torch.tensor([1, 0, 3, 0, 0]),
        child_count=torch.tensor([2, 0, 2, 0, 0]),
        leaf=torch.tensor([-1, 0, -1, 1, 2]),
        leaf_count=torch.tensor([2, 3, 4]),
        deviation_sum=torch.tensor([4.0], dtype=torch.float64),
    )


def reached(tree: Tree, node: int = 0) -> list[int]:
    """Return the leaves below a node from left to right."""
    if tree.child_count[node] == 0:
        return [int(tree.leaf[node])]
    first = int(tree.first_child[node])
    return [leaf for child in range(first, first + int(tree.child_count[node])) for leaf in reached(tree, child)]


def test_joining_two_subtrees_matches_a_hand_computed_tree() -> None:
    top = torch.tensor([[1.0, 0], [0, 1]])
    tree = join(top, [split_subtree(), leaf_subtree([0, 1], 1)], torch.zeros(4, 1), Basis(torch.eye(2), torch.ones(2)))
    # Nodes: 0 root, 1 and 2 the clusters, 3 to 6 the rest of the first one.
    assert tree.centres[:, 0].tolist() == [0, 1, 0, 2, 3, 4, 5]
    assert tree.first_child.tolist() == [1, 3, 0, 0, 5, 0, 0]
    assert tree.child_count.tolist() == [2, 2, 0, 0, 2, 0, 0]
    assert tree.leaf.tolist() == [-1, -1, 3, 0, -1, 1, 2]
    assert tree.leaf_node.tolist() == [3, 5, 6, 2]
    assert tree.leaf_shard.tolist() == [0, 0, 0, 1]
    assert tree.leaf_start.tolist() == [0, 2, 5, 0]
    assert tree.leaf_count.tolist() == [2, 3, 4, 1]
    # The deviations of the 10 patches sum to 4 + 6.
    assert tree.deviation.tolist() == [1]


def test_every_leaf_is_reachable_from_the_root_once() -> None:
    tree = sharded_index_of(clustered(900), IndexConfig(max_leaf=16, merge=1), shards=4).tree
    assert sorted(reached(tree)) == list(range(tree.leaves))


def test_the_leaves_of_a_shard_partition_its_rows() -> None:
    index = sharded_index_of(clustered(900), IndexConfig(max_leaf=16), shards=4)
    assert len(index.shards) == 4
    rows: list[int] = []
    for leaf in range(index.tree.leaves):
        shard, start, count, first = index.leaf_rows(leaf)
        assert shard is index.shards[int(index.tree.leaf_shard[leaf])]
        assert first == int(index.shard_start[int(index.tree.leaf_shard[leaf])]) + start
        rows += range(first, first + count)
    assert sorted(rows) == list(range(index.count))


def test_a_node_has_children_or_is_a_leaf() -> None:
    tree = index_of(clustered(500)).tree
    assert ((tree.child_count > 0) ^ (tree.leaf >= 0)).all()
    assert tree.leaf[tree.leaf_node].equal(torch.arange(tree.leaves))


def test_a_tree_round_trips_through_its_file() -> None:
    tree = sharded_index_of(clustered(300), IndexConfig(max_leaf=16), shards=2).tree
    back = Tree.from_bytes(tree.to_bytes())
    for field in fields(Tree):
        assert getattr(back, field.name).equal(getattr(tree, field.name)), field.name
    assert back.to_bytes() == tree.to_bytes()


def test_a_subtree_round_trips_through_its_file() -> None:
    back = Subtree.from_bytes(split_subtree().to_bytes())
    for field in fields(Subtree):
        assert getattr(back, field.name).equal(getattr(split_subtree(), field.name)), field.name


@pytest.mark.parametrize("kind", [Tree, Subtree])
def test_a_damaged_tree_is_refused_in_one_sentence(kind: type[Tree] | type[Subtree]) -> None:
    whole = index_of(clustered(50)).tree.to_bytes()
    subtree = split_subtree().to_bytes()
    for data in (b"", b"no tree", whole[:100], whole[:-1], subtree if kind is Tree else whole):
        with pytest.raises(DamagedError, match=r"tree of this index cannot be read: .+\.$"):
            kind.from_bytes(data)


def test_row_numbers_map_to_their_patch_ids(generator: torch.Generator) -> None:
    index = sharded_index_of(clustered(300), IndexConfig(max_leaf=16, merge=1), shards=3)
    every = torch.arange(index.count)
    some = torch.randint(index.count, (40,), generator=generator)
    assert index.packets(some).equal(index.packets(every)[some])
    assert (index.patch_ids(some) == index.patch_ids(every)[some.numpy()]).all()
    assert index.keys(some).equal(index.keys(every)[some])
    assert len({row.tobytes() for row in index.patch_ids(every)}) == 300
    torch.testing.assert_close(index.values(some).sum(1), index.packets(some)[:, 0].float() * 2)
