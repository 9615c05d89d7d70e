"""Visits of queries to leaves: each is in one group, and its products are those with the leaf's own patches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.config import IndexConfig
from kt_batch.index import visits
from kt_batch.index.index import WINDOW, Index
from kt_batch.index.shards import match_parts
from kt_batch.index.visits import grouped, products_of
from kt_batch.kernels.haar import haar
from kt_batch.kernels.principal import first_level
from tests.synthetic import clustered, index_of, leaf_level, sharded_index_of

QUERIES = 20


@pytest.fixture(scope="module", params=["three shards", "one leaf larger than a window", "fewer patches than a window"])
def index(request: pytest.FixtureRequest) -> Index:
    match request.param:
        case "three shards":
            return sharded_index_of(clustered(900, 8, clusters=30), IndexConfig(max_leaf=100, merge=1), shards=3)
        case "one leaf larger than a window":
            return index_of(clustered(3 * WINDOW, 8), IndexConfig(clusters=(2,), merge=1))
        case _:
            return index_of(clustered(30, 8), IndexConfig(max_leaf=8, merge=1))


def level_of(index: Index) -> Tensor:
    vectors, _ = match_parts(haar(clustered(QUERIES, 8, seed=2)), index.tree.mean)
    return first_level(vectors, index.tree.directions)


def check(index: Index, who: Tensor, leaves: Tensor) -> None:
    """Against a loop over the visits."""
    level = level_of(index)
    seen = []
    for group in grouped(index, leaves):
        found = products_of(index, level, who, group)
        real = group.real.flatten()
        assert found.best[~real].eq(-torch.inf).all()
        assert found.who.equal(who[found.visits])
        for i in real.nonzero()[:, 0].tolist():
            visit = int(found.visits[i])
            seen.append(visit)
            leaf = int(leaves[visit])
            x, first = leaf_level(index, leaf), index.leaf_rows(leaf)[3]
            own = int(first - found.first_rows[i])
            torch.testing.assert_close(found.values[i, own : own + len(x)], x @ level[who[visit]], atol=1e-5, rtol=0)
            assert found.values[i, :own].lt(-2).all()
            assert found.values[i, own + len(x) :].lt(-2).all()
            assert found.best[i] == found.values[i].amax()
    assert sorted(seen) == list(range(len(leaves)))


def test_every_visit_is_in_one_group_and_has_the_products_of_its_leaf(index: Index) -> None:
    some = torch.Generator().manual_seed(0)
    leaves = torch.randint(0, index.tree.leaves, (200,), generator=some).square() // index.tree.leaves  # some are busy
    check(index, torch.arange(200) % QUERIES, leaves)


@pytest.mark.parametrize("limits", [{"PRODUCTS": 300}, {"PATCHES": 1}, {"PADDING": 1.0}, {"PADDING": 9.0}], ids=str)
def test_what_limits_a_group_changes_no_product(
    index: Index, limits: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(visits, name, value)
    leaves = torch.arange(120) % min(7, index.tree.leaves)
    check(index, torch.arange(120) // 6, leaves)
    for group in grouped(index, leaves):
        padded = group.real.numel()
        assert padded <= limits.get("PADDING", visits.PADDING) * group.real.sum()
        assert len(group.leaves) == 1 or len(group.leaves) * group.width <= visits.PATCHES
        assert group.real.shape[1] == 1 or padded * group.width <= visits.PRODUCTS


def test_no_visits_are_no_groups(index: Index) -> None:
    assert grouped(index, torch.empty(0, dtype=torch.int64)) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40)), max_size=30))
def test_groups_end_where_the_width_changes_and_hold_everything(shape: list[tuple[int, int]]) -> None:
    shape = sorted((64 * width, size) for width, size in shape)
    ends = visits._ends([width for width, _ in shape], [size for _, size in shape])
    assert ends == sorted(set(ends))
    assert ends[-1:] == [len(shape)] * bool(shape)
    for start, stop in zip([0, *ends], ends, strict=False):
        assert len({width for width, _ in shape[start:stop]}) == 1
