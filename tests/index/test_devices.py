"""An index is searched on the device that holds it, with the same matches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.config import IndexConfig, SearchConfig
from kt_batch.index.index import Index
from kt_batch.index.ordering import ascending_order, largest_columns, order_by, sorted_values, stable_order
from kt_batch.index.search import find, search
from kt_batch.index.searchers import certified, leaf_choice
from kt_batch.index.searchers.candidates import Pairs, few_of_each
from kt_batch.kernels.fixed_point import round_
from tests.support.other_device import DEVICE, OtherDevice, held, on_both
from tests.support.synthetic import clustered, sharded_index_of

CHANNELS = 128  # patches are coded
SEARCHES: list[dict[str, Any]] = [
    {},
    {"probes": 40, "top_k": 5},  # with a second round
    {"probes": 1},
    {"certify": True, "top_k": 2},
    {"searcher": "exact", "top_k": 3},
    {"searcher": "hkm"},
    {"searcher": "bhkm", "bands": 1},
    {"searcher": "scan", "top_k": 3},
]


@pytest.fixture(scope="module", params=["4bit", "5bit", "float16"])
def index(request: pytest.FixtureRequest) -> Index:
    config = IndexConfig(max_leaf=24, merge=1, payload=request.param, match_space="centred")
    return sharded_index_of(clustered(1500, CHANNELS), config, 3)


@pytest.fixture(scope="module")
def queries() -> Tensor:
    cells = clustered(90, CHANNELS, seed=5)
    cells[7] = 0  # ties with every patch
    return cells


@pytest.mark.parametrize("settings", SEARCHES, ids=repr)
def test_a_search_on_a_device_finds_the_same(index: Index, queries: Tensor, settings: dict[str, Any]) -> None:
    config = SearchConfig(**settings)
    here, there = on_both(lambda device: find(index.on_device(device), queries.to(device), config))
    assert held(there.rows).equal(here.rows)
    assert held(there.scores).equal(here.scores)
    assert held(there.certified).equal(here.certified)


def test_groups_of_leaves_are_chosen_on_a_device(
    index: Index, queries: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaf_choice, "GROUPED", 2)
    config = SearchConfig(probes=40)
    here, there = on_both(lambda device: find(index.on_device(device), queries.to(device), config))
    assert held(there.rows).equal(here.rows)


def test_many_queries_are_certified_on_a_device(index: Index, queries: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certified, "MANY", 1)  # with further directions
    config = SearchConfig(certify=True)
    here, there = on_both(lambda device: find(index.on_device(device), queries.to(device), config))
    assert held(there.rows).equal(here.rows)


def test_no_query_finds_nothing(index: Index, queries: Tensor) -> None:
    for settings in ({}, {"probes": 40}, {"certify": True}):
        _, there = on_both(lambda d: find(index.on_device(d), queries[:0].to(d), SearchConfig(**settings)))  # noqa: B023
        assert there.rows.shape == (0, 1)


def test_matches_are_where_the_queries_are(index: Index, queries: Tensor) -> None:
    expected = search(index, queries, SearchConfig())
    with OtherDevice():
        found = search(index, queries.to(DEVICE), SearchConfig())  # of an index on the processor
        assert held(found.values).equal(expected.values)
        assert found.patch_ids.equal(expected.patch_ids)
        back = search(index.on_device(DEVICE), queries, SearchConfig())
        assert back.values.equal(expected.values)


def test_an_index_on_a_device_has_one_shard_and_the_same_patches(index: Index) -> None:
    rows = torch.arange(index.count, device="cpu")
    with OtherDevice():
        moved = index.on_device(DEVICE)
        assert (len(moved.shards), moved.count, moved.device) == (1, index.count, DEVICE)
        assert held(moved.keys(rows.to(DEVICE))).equal(index.keys(rows))
        assert np.array_equal(moved.patch_ids(rows.to(DEVICE)), index.patch_ids(rows))


def test_windows_of_leaves_are_in_fixed_point_on_every_device(index: Index) -> None:
    leaves = torch.arange(index.tree.leaves, device="cpu")
    widths = index.window_widths(leaves)
    width = int(widths.mode().values)
    leaves = leaves[widths == width]
    here, there = on_both(lambda device: index.on_device(device).window_levels(leaves.to(device), width))
    assert held(there).equal(here)
    assert here[..., :-1].equal(round_(here[..., :-1].clone()))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40), st.integers(1, 5))
def test_of_equal_scores_the_same_few_are_left_on_every_device(values: list[tuple[int, int]], count: int) -> None:
    who, scores = torch.tensor(values, device="cpu").reshape(-1, 2).long().unbind(1)
    rows = torch.arange(len(who), device="cpu").flip(0)

    def run(device: torch.device) -> list[tuple[int, ...]]:
        few = few_of_each(Pairs(who.to(device), rows.to(device), scores.float().to(device)), count)
        return sorted(zip(few.who.tolist(), few.rows.tolist(), strict=True))

    here, there = on_both(run)
    assert here == there


# ---- orders ----------------------------------------------------------------------------------------------------------

VALUES = st.lists(st.integers(0, 9), min_size=1, max_size=40)


@given(VALUES, st.randoms(use_true_random=False))
def test_orders_are_the_same_on_every_device(values: list[int], random: Any) -> None:
    first, second = torch.tensor(values, device="cpu"), torch.tensor(random.sample(values, len(values)), device="cpu")

    def run(device: torch.device) -> list[Tensor]:
        one, other = first.to(device), second.to(device)
        found = [sorted_values(one), stable_order(one, 10), order_by(one, other), one[ascending_order(one)]]
        return [each.cpu() for each in found]

    here, there = on_both(run)
    assert all(map(torch.equal, here, there))
    assert order_by(first, second).tolist() == sorted(range(len(values)), key=lambda n: (values[n], int(second[n])))


@given(st.lists(st.permutations(range(12)), min_size=1, max_size=5), st.integers(1, 12))
def test_the_largest_columns_are_the_same_on_every_device(rows: list[list[int]], count: int) -> None:
    values = torch.tensor(rows, dtype=torch.float32, device="cpu")
    here, there = on_both(lambda device: largest_columns(values.to(device), count).cpu().sort(1).values)
    assert here.equal(there)
