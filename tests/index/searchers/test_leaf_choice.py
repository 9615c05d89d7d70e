"""The choice of leaves in groups finds what the choice among all leaves finds, as far as it visits their groups."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.config import IndexConfig, SearchConfig
from kt_batch.index.index import Index
from kt_batch.index.search import find
from kt_batch.index.searchers import leaf_choice
from kt_batch.index.searchers.leaf_choice import FIRST_ROUND, leaves_in_groups, nearest_leaves
from kt_batch.index.shards import match_parts
from kt_batch.index.threads import parallel_map
from kt_batch.kernels.haar import haar
from kt_batch.kernels.principal import first_level
from tests.support.synthetic import brute_force, clustered, index_of

EVERY = 1 << 40  # groups


@pytest.fixture(scope="module")
def index() -> Index:
    return index_of(clustered(3000, 8, clusters=40), IndexConfig(max_leaf=8, merge=1))


@pytest.fixture(scope="module")
def level(index: Index) -> Tensor:
    vectors, _ = match_parts(haar(clustered(70, 8, clusters=40, seed=3)), index.tree.mean)
    return first_level(vectors, index.tree.directions)


@pytest.fixture
def in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaf_choice, "GROUPED", 1)


def cosines_of(index: Index, level: Tensor, leaves: Tensor) -> Tensor:
    return (level[:, :-1] @ index.statistics.directions.T).gather(1, leaves)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 150), st.integers(1, 70), st.sampled_from([1, 3, 70]), st.sampled_from([1, 500, 1 << 19]))
def test_all_groups_give_the_leaves_of_the_choice_among_all(
    index: Index, level: Tensor, probes: int, queries: int, together: int, page: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        widest = int(index.statistics.groups.widths.max())
        patch.setattr(leaf_choice, "PRODUCTS", together * leaf_choice.NEAREST * widest)
        patch.setattr(leaf_choice, "PAGE", page)
        found, reach = leaves_in_groups(index, level[:queries], probes, EVERY)
    expected, its_reach = nearest_leaves(index, level[:queries], probes)
    torch.testing.assert_close(
        cosines_of(index, level[:queries], found), cosines_of(index, level[:queries], expected), atol=1e-5, rtol=0
    )
    same = (found == expected).float().mean()  # but for near ties
    assert same > 0.95
    assert reach.shape == its_reach.shape
    if probes >= 2 * FIRST_ROUND:
        torch.testing.assert_close(reach[found == expected], its_reach[found == expected], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("visited", [1, 2, 5])
def test_few_groups_give_the_nearest_leaves_in_the_nearest_groups(index: Index, level: Tensor, visited: int) -> None:
    groups = index.statistics.groups
    probes = 3
    found, _ = leaves_in_groups(index, level, probes, visited)
    nearest = (level @ groups.centres).topk(max(visited, groups.holding(probes)), dim=1).indices
    for query, own, chosen in zip(level, nearest.tolist(), found, strict=True):
        parts = [groups.leaves[groups.start[g] : groups.start[g] + groups.size[g]] for g in own]
        cosines = query[:-1] @ index.statistics.directions.T
        best = cosines[torch.cat(parts)].topk(probes).values
        torch.testing.assert_close(cosines[chosen], best, atol=1e-5, rtol=0)


def test_a_query_without_a_direction_gets_distinct_leaves(index: Index, level: Tensor) -> None:
    found, _ = leaves_in_groups(index, torch.zeros_like(level[:4]), 40, 1)
    assert all(len(set(leaves)) == 40 for leaves in found.tolist())


def test_no_queries_choose_no_leaves(index: Index, level: Tensor) -> None:
    found, reach = leaves_in_groups(index, level[:0], 40, 3)
    assert found.shape == reach.shape == (0, 40)


def test_threads_choose_the_same_leaves(index: Index, level: Tensor) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with parallel_map() as each:
            found = leaves_in_groups(index, level, 40, 6, each)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(found, leaves_in_groups(index, level, 40, 6), strict=True):
        assert one.equal(other)


@pytest.mark.usefixtures("in_groups")
def test_a_certified_search_in_groups_is_brute_force(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaf_choice, "VISITED", 1)
    queries = clustered(30, 8, clusters=40, seed=5)
    found = find(index, queries, SearchConfig(probes=2, certify=True, top_k=3))
    rows, scores = brute_force(index, queries, 3)
    assert found.certified.all()
    assert found.rows.equal(rows)
    assert found.scores.equal(scores)


@pytest.mark.usefixtures("in_groups")
def test_a_search_in_groups_finds_nearly_what_a_search_of_all_leaves_finds(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = clustered(300, 8, clusters=40, seed=6)
    in_groups = find(index, queries, SearchConfig(probes=8)).rows
    monkeypatch.setattr(leaf_choice, "GROUPED", EVERY)
    of_all = find(index, queries, SearchConfig(probes=8)).rows
    assert (in_groups == of_all).float().mean() > 0.98
