"""Packing: the patches of a cluster become leaves."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kt_batch.config import IndexConfig
from kt_batch.index import packing
from kt_batch.index.packing import ClusterSpace, Packed, collapse_equal, fan_out, merge_near, pack
from kt_batch.index.shards import match_parts
from kt_batch.kernels.principal import LEVEL_WIDTH, principal_directions
from kt_batch.kernels.tiles import normalise
from tests.support.synthetic import clustered, packets_of


def packed(cells: Tensor, config: IndexConfig) -> Packed:
    packets = packets_of(cells)
    mean = torch.zeros(packets.shape[1:])
    vectors, _ = match_parts(packets, mean)
    space = ClusterSpace(config, principal_directions(vectors, LEVEL_WIDTH - 1))
    centre = normalise(space.points(vectors).sum(0, keepdim=True))[0]
    return pack(packets, mean, centre, space, level=0)


def one_channel(*cells: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(cells).view(-1, 4, 1)


def test_of_equal_patches_the_first_is_kept() -> None:
    found = packed(clustered(1).expand(50, -1, -1), IndexConfig(max_leaf=8, merge=1))
    assert found.order.tolist() == [0]
    assert found.owner.tolist() == [0] * 50


def test_equal_patches_are_found_wherever_they_stand() -> None:
    cells = clustered(40)
    rows = torch.tensor([0, 1, 0, 2, 1, 3, 0])
    assert collapse_equal(packets_of(cells)[rows]).tolist() == [0, 1, 0, 3, 1, 5, 0]


def test_a_zero_patch_is_a_patch_like_any_other() -> None:
    cells = torch.cat([torch.zeros(3, 4, 8), clustered(5)])
    found = packed(cells, IndexConfig(max_leaf=8, merge=0.995))
    assert found.owner.tolist()[:3] == [0, 0, 0]
    assert 0 in found.order.tolist()


def test_near_duplicates_are_merged_to_the_medoid_and_all_origins_are_kept() -> None:
    # About -2, 0 and +2 degrees from (1, 1, 1, 1): the middle one is nearest to the others.
    middle = one_channel((100, 100, 100, 100), (103, 97, 100, 100), (97, 103, 100, 100), (100, 0, 0, 0))[[1, 0, 2, 3]]
    found = packed(middle, IndexConfig(max_leaf=8, merge=0.995))
    assert found.order.tolist() == [1, 3]
    assert found.owner.tolist() == [1, 1, 1, 3]


def test_a_patch_of_another_brightness_is_not_merged() -> None:
    cells = one_channel((1, 2, 3, 4), (2, 4, 6, 8), (1.02, 2.04, 3.06, 4.08))
    found = packed(cells, IndexConfig(max_leaf=8, merge=0.995))
    assert found.owner[1].item() == 1
    assert found.owner[2].item() == found.owner[0].item()
    assert sorted(found.order.tolist()) in ([0, 1], [1, 2])


def test_a_threshold_of_one_merges_equal_patches_only() -> None:
    cells = torch.cat([clustered(20), clustered(20) * 1.001, clustered(20)])
    found = packed(cells, IndexConfig(max_leaf=8, merge=1))
    assert sorted(found.order.tolist()) == list(range(40))
    assert found.owner.tolist() == [*range(40), *range(20)]


def test_a_merged_patch_is_as_similar_to_its_leader_as_the_threshold_says() -> None:
    vectors = normalise(clustered(200, spread=0.05).flatten(1))
    kept, represents = merge_near(vectors, torch.ones(200), threshold=0.99)
    assert 12 <= len(kept) < 200
    assert represents[kept].equal(kept)
    assert represents.unique().equal(kept)
    # Two members lie within acos(0.99) of the leader, hence within twice that angle: cosine 2 * 0.99^2 - 1.
    assert (vectors * vectors[represents]).sum(1).min() >= 2 * 0.99**2 - 1 - 1e-6


@pytest.mark.parametrize("merge", [0.995, 1])
def test_every_patch_is_represented_by_a_kept_one_and_a_kept_one_by_itself(merge: float) -> None:
    found = packed(clustered(600, spread=0.05), IndexConfig(max_leaf=32, merge=merge))
    assert len(found.order.unique()) == len(found.order)
    assert found.owner[found.order].equal(found.order)
    assert set(found.owner.tolist()) == set(found.order.tolist())


@pytest.mark.parametrize("max_leaf", [8, 50, 1000])
def test_no_leaf_is_larger_than_allowed(max_leaf: int) -> None:
    found = packed(clustered(900), IndexConfig(max_leaf=max_leaf, merge=1))
    assert found.subtree.leaf_count.max() <= max_leaf
    assert found.subtree.leaf_count.min() >= 1
    assert found.subtree.leaf_count.sum() == len(found.order) == 900


def test_patches_of_one_direction_cannot_be_split_and_stay_one_leaf() -> None:
    brightness = 2.0 ** torch.arange(-5, 5)  # exact in float16, so that unit vectors are equal
    cells = (brightness[:, None, None] * torch.ones(10, 4, 2)).contiguous()
    found = packed(cells, IndexConfig(max_leaf=8, merge=0.995))
    assert found.subtree.leaf_count.tolist() == [10]


def test_patches_of_a_leaf_stand_by_ascending_id() -> None:
    found = packed(clustered(300), IndexConfig(max_leaf=20, merge=1))
    for leaf in found.order.split(found.subtree.leaf_count.tolist()):
        assert leaf.tolist() == sorted(leaf.tolist())


def test_fixed_clusters_give_the_levels_of_the_paper() -> None:
    found = packed(clustered(500), IndexConfig(clusters=(4, 3), max_leaf=8, merge=1))
    tree = found.subtree
    assert tree.child_count[0] == 4
    children = tree.child_count[1:5]
    assert (children <= 3).all()
    assert tree.leaf_count.shape[0] == int(torch.where(children == 0, 1, children).sum())


@pytest.mark.parametrize(
    ("count", "level", "config", "clusters"),
    [
        (512, 0, IndexConfig(), 1),  # fits into a leaf
        (513, 0, IndexConfig(), 2),  # 513 / (512 * 2/3) = 1.5
        (1024, 3, IndexConfig(), 3),
        (10**6, 0, IndexConfig(), 32),  # at most the fan-out
        (10**6, 0, IndexConfig(clusters=(7, 5)), 7),
        (10**6, 1, IndexConfig(clusters=(7, 5)), 5),
        (10**6, 2, IndexConfig(clusters=(7, 5)), 1),
        (3, 0, IndexConfig(clusters=(7, 5)), 3),
    ],
)
def test_into_how_many_clusters_a_node_is_split(count: int, level: int, config: IndexConfig, clusters: int) -> None:
    assert fan_out(count, level, config) == clusters


def test_packing_twice_gives_the_same_bytes() -> None:
    one, other = (packed(clustered(400), IndexConfig(max_leaf=16)) for _ in range(2))
    assert one.order.equal(other.order)
    assert one.subtree.to_bytes() == other.subtree.to_bytes()


# ---- patches that are made to cost much ----


def lines_run(work: Callable[[], object]) -> int:
    """Return the number of lines of the module that `work` executes: its steps, whatever the machine."""
    lines = 0

    def count(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        lines += event == "line" and frame.f_code.co_filename == packing.__file__
        return count if frame.f_code.co_filename == packing.__file__ else None

    before = sys.gettrace()
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines


def test_different_patches_of_one_hash_take_no_more_steps_than_two(monkeypatch: pytest.MonkeyPatch) -> None:
    # The hash is a sum with known factors: whoever wants patches of equal hashes can compute them.
    monkeypatch.setattr(packing, "_row_hashes", lambda raw: np.zeros(len(raw), dtype=np.uint64))
    packets = packets_of(clustered(500))
    rows = torch.cat([torch.arange(500), torch.tensor([3, 0, 499])])
    assert collapse_equal(packets[rows]).tolist() == [*range(500), 3, 0, 499]
    assert lines_run(lambda: collapse_equal(packets)) == lines_run(lambda: collapse_equal(packets[:3]))


def test_a_crowd_of_near_patches_takes_a_few_steps_for_each() -> None:
    # At 0 degrees a leader, at 20 its followers, at 40 as many that are near every follower and not near the leader.
    def crowd(followers: int) -> Tensor:
        degrees = torch.tensor([0.0] + [20.0] * followers + [40.0] * followers).deg2rad()
        return torch.stack([degrees.cos(), degrees.sin()], dim=1)

    threshold = math.cos(math.radians(25))
    kept, represents = merge_near(crowd(200), torch.ones(401), threshold)
    assert len(kept) == 2
    assert represents.unique(return_counts=True)[1].tolist() == [201, 200]
    few = lines_run(lambda: merge_near(crowd(200), torch.ones(401), threshold))
    assert lines_run(lambda: merge_near(crowd(400), torch.ones(801), threshold)) <= 2 * few


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.95, 0.99])
def test_leaders_are_those_of_the_definition(threshold: float) -> None:
    vectors = normalise(clustered(150, spread=0.2).flatten(1))
    near = (vectors @ vectors.T >= threshold).tril(-1)
    leaders: list[int] = []
    for row in range(150):
        leaders.append(next((j for j in range(row) if near[row, j] and leaders[j] == j), row))
    assert packing._leaders(near).tolist() == leaders


def test_below_the_deepest_split_patches_are_divided_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "DEEPEST", 1)
    found = packed(clustered(900), IndexConfig(fan_out=2, max_leaf=16, merge=1))
    tree = found.subtree
    assert tree.leaf_count.max() <= 16
    assert tree.leaf_count.sum() == len(found.order.unique()) == 900
    # The root has two clusters by k-means; each of these has all its leaves below it.
    assert tree.child_count[0] == 2
    for first, count in zip(tree.first_child[1:3].tolist(), tree.child_count[1:3].tolist(), strict=True):
        assert tree.child_count[first : first + count].eq(0).all()
    assert tree.centres[tree.first_child[1]].equal(tree.centres[1])


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("clusters", [(), (4, 3)])
def test_packing_does_not_depend_on_how_many_patches_are_converted_at_a_time(
    rows: int, clusters: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = clustered(300)[torch.arange(330) % 300]  # with 30 copies
    config = IndexConfig(fan_out=4, max_leaf=32, clusters=clusters, merge=0.9)
    whole = packed(cells, config)
    monkeypatch.setattr(packing, "ROWS", rows)
    parts = packed(cells, config)
    assert len(whole.order) < 300
    assert parts.order.equal(whole.order)
    assert parts.owner.equal(whole.owner)
    assert parts.subtree.to_bytes() == whole.subtree.to_bytes()
