"""The tree: subtrees joined under one root, written and read."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kt_batch.config import IndexConfig
from kt_batch.errors import DamagedError
from kt_batch.index.tree import Subtree, Tree, check_nodes, grow, grow_nodes, join, join_nodes
from kt_batch.index.tree_file import append_centres, write_tree
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
    """Return a cluster of a leaf with 2 patches and a node whose leaves have 3 and 4."""
    return Subtree(
        centres=torch.tensor([[1, 0], [2, 0], [3, 0], [4, 0], [5, 0]], dtype=torch.float32),
        first_child=torch.tensor([1, 0, 3, 0, 0]),
        child_count=torch.tensor([2, 0, 2, 0, 0]),
        leaf=torch.tensor([-1, 0, -1, 1, 2]),
        leaf_count=torch.tensor([2, 3, 4]),
        deviation_sum=torch.tensor([4.0], dtype=torch.float64),
    )


def reached(tree: Tree, node: int = 0) -> list[int]:
    """Return the leaves below a node, from left to right."""
    if tree.child_count[node] == 0:
        return [int(tree.leaf[node])]
    first = int(tree.first_child[node])
    return [leaf for child in range(first, first + int(tree.child_count[node])) for leaf in reached(tree, child)]


def test_two_subtrees_joined_by_hand() -> None:
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
    # The deviations of 10 patches sum to 4 + 6.
    assert tree.deviation.tolist() == [1]


BASIS = Basis(torch.eye(2), torch.ones(2))


def test_a_tree_grown_by_hand() -> None:
    old = join(torch.tensor([[1.0, 0], [0, 1]]), [split_subtree(), leaf_subtree([0, 1], 1)], torch.zeros(4, 1), BASIS)
    tree = grow(old, torch.tensor([[-1.0, 0]]), [split_subtree()])
    # Nodes: 0 root, 1 and 2 the clusters, 3 the new one, 4 to 7 the rest of the first one, 8 to 11 that of the new one.
    assert tree.centres[:, 0].tolist() == [0, 1, 0, -1, 2, 3, 4, 5, 2, 3, 4, 5]
    assert tree.first_child.tolist() == [1, 4, 0, 8, 0, 6, 0, 0, 0, 10, 0, 0]
    assert tree.child_count.tolist() == [3, 2, 0, 2, 0, 2, 0, 0, 0, 2, 0, 0]
    assert tree.leaf.tolist() == [-1, -1, 3, -1, 0, -1, 1, 2, 4, -1, 5, 6]
    assert tree.leaf_node.tolist() == [4, 6, 7, 2, 8, 10, 11]
    assert tree.leaf_shard.tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert tree.leaf_start.tolist() == [0, 2, 5, 0, 0, 2, 5]
    assert tree.leaf_count.tolist() == [2, 3, 4, 1, 2, 3, 4]
    assert tree.deviation.tolist() == pytest.approx([14 / 19])  # 4 + 6 of the ten patches before, 4 of nine more
    check_nodes(tree.first_child, tree.child_count, tree.leaf, tree.leaves, "The grown tree")


def test_a_tree_that_gains_nothing_is_the_same_tree() -> None:
    tree = join(torch.tensor([[0.0, 1]]), [split_subtree()], torch.zeros(4, 1), BASIS)
    assert grow(tree, torch.empty(0, 2), []).to_bytes() == tree.to_bytes()


@given(st.lists(st.booleans(), min_size=1, max_size=4), st.lists(st.booleans(), min_size=1, max_size=4))
def test_a_grown_tree_has_the_leaves_of_one_that_was_joined_at_once(before: list[bool], after: list[bool]) -> None:
    def subtrees(kinds: list[bool]) -> list[Subtree]:
        return [split_subtree() if kind else leaf_subtree([7, 0], 5) for kind in kinds]

    def top(kinds: list[bool]) -> torch.Tensor:
        return torch.arange(2.0 * len(kinds)).view(-1, 2)

    mean = torch.zeros(4, 1)
    grown = grow(join(top(before), subtrees(before), mean, BASIS), top(after), subtrees(after))
    once = join(torch.cat([top(before), top(after)]), subtrees(before + after), mean, BASIS)
    check_nodes(grown.first_child, grown.child_count, grown.leaf, grown.leaves, "The grown tree")
    assert reached(grown) == reached(once)
    for name in ("leaf_shard", "leaf_start", "leaf_count", "mean", "directions", "spread"):
        assert getattr(grown, name).equal(getattr(once, name))
    assert grown.leaf_centres().equal(once.leaf_centres())
    torch.testing.assert_close(grown.deviation, once.deviation)


def test_every_leaf_is_reached_from_the_root_once() -> None:
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


def test_a_tree_comes_back_from_its_file() -> None:
    tree = sharded_index_of(clustered(300), IndexConfig(max_leaf=16), shards=2).tree
    back = Tree.from_bytes(tree.to_bytes())
    for field in fields(Tree):
        assert getattr(back, field.name).equal(getattr(tree, field.name)), field.name
    assert back.to_bytes() == tree.to_bytes()


def test_a_subtree_comes_back_from_its_file() -> None:
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


def test_row_numbers_name_the_patch_they_were_given(generator: torch.Generator) -> None:
    index = sharded_index_of(clustered(300), IndexConfig(max_leaf=16, merge=1), shards=3)
    every = torch.arange(index.count)
    some = torch.randint(index.count, (40,), generator=generator)
    assert index.packets(some).equal(index.packets(every)[some])
    assert (index.patch_ids(some) == index.patch_ids(every)[some.numpy()]).all()
    assert index.keys(some).equal(index.keys(every)[some])
    assert len({row.tobytes() for row in index.patch_ids(every)}) == 300
    torch.testing.assert_close(index.values(some).sum(1), index.packets(some)[:, 0].float() * 2)


@given(st.lists(st.booleans(), min_size=1, max_size=4), st.lists(st.booleans(), max_size=4))
def test_a_tree_whose_centres_come_from_a_file_has_the_bytes_of_one_in_memory(
    tmp_path_factory: pytest.TempPathFactory, before: list[bool], after: list[bool]
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    subtrees = [split_subtree() if kind else leaf_subtree([7, 0], 5) for kind in before]
    more = [split_subtree() if kind else leaf_subtree([0, 3], 2) for kind in after]
    top, mean = torch.arange(2.0 * len(before)).view(-1, 2), torch.ones(4, 1)
    tree = join(top, subtrees, mean, BASIS)
    _written(folder / "joined", join_nodes([s.without_centres() for s in subtrees], mean, BASIS), tree.centres)
    assert (folder / "joined").read_bytes() == tree.to_bytes()
    if more:
        grown = grow(tree, -torch.arange(2.0 * len(after)).view(-1, 2), more)
        _written(folder / "grown", grow_nodes(tree, [s.without_centres() for s in more]), grown.centres)
        assert (folder / "grown").read_bytes() == grown.to_bytes()


def _written(path: Path, nodes: Tree, centres: torch.Tensor) -> None:
    """Write a tree, with its centres from a file that got them in two pieces."""
    assert nodes.centres.shape == (0, 2)
    beside = path.with_suffix(".centres")
    with beside.open("wb") as file:
        append_centres(file, centres[:2])
        append_centres(file, centres[2:])
    write_tree(path, nodes, beside)
