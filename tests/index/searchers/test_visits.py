"""Visits of queries to leaves: each is in one group, with the products of the leaf's patches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.config import IndexConfig
from kt_batch.index.index import WINDOW, Index
from kt_batch.index.searchers import visits
from kt_batch.index.searchers.visits import grouped, products_of
from kt_batch.index.shards import match_parts
from kt_batch.kernels.fixed_point import round_
from kt_batch.kernels.haar import haar
from kt_batch.kernels.principal import first_level
from tests.support.synthetic import clustered, index_of, leaf_level, sharded_index_of

QUERIES = 20


@pytest.fixture(
    scope="module", params=["three shards", "leaves larger than a window", "a window and a half", "less than a window"]
)
def index(request: pytest.FixtureRequest) -> Index:
    match request.param:
        case "three shards":
            return sharded_index_of(clustered(900, 8, clusters=30), IndexConfig(max_leaf=100, merge=1), shards=3)
        case "leaves larger than a window":
            return index_of(clustered(3 * WINDOW, 8), IndexConfig(clusters=(2,), merge=1))
        case "a window and a half":
            return index_of(clustered(3 * WINDOW // 2, 8), IndexConfig(clusters=(1,), merge=1))
        case _:
            return index_of(clustered(30, 8), IndexConfig(max_leaf=8, merge=1))


def level_of(index: Index) -> Tensor:
    vectors, _ = match_parts(haar(clustered(QUERIES, 8, seed=2)), index.tree.mean)
    return first_level(vectors, index.tree.directions)


def check(index: Index, who: Tensor, leaves: Tensor) -> None:
    """Compare the groups with a loop over the visits."""
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
            x, first = round_(leaf_level(index, leaf)), index.leaf_rows(leaf)[3]
            own = int(first - found.first_rows[i])
            torch.testing.assert_close(found.values[i, own : own + len(x)], x @ level[who[visit]], atol=1e-5, rtol=0)
            assert found.values[i, :own].lt(-2).all()
            assert found.values[i, own + len(x) :].lt(-2).all()
            block = group.width if group.width % WINDOW else WINDOW
            assert found.best[i].equal(torch.stack([part.amax() for part in found.values[i].split(block)]))
    assert sorted(seen) == list(range(len(leaves)))


def test_every_visit_is_in_one_group_and_has_the_products_of_its_leaf(index: Index) -> None:
    some = torch.Generator().manual_seed(0)
    leaves = torch.randint(0, index.tree.leaves, (200,), generator=some).square() // index.tree.leaves
    check(index, torch.arange(200) % QUERIES, leaves)


@pytest.mark.parametrize(
    "limits", [{}, {"PRODUCTS": 300}, {"PATCHES": 1}, {"PADDING": 1.0, "FILLED": 0}, {"FILLED": 1 << 30}], ids=str
)
def test_what_limits_a_group_changes_no_product(
    index: Index, limits: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(visits, name, value)
    leaves = torch.arange(120) % min(7, index.tree.leaves)
    check(index, torch.arange(120) // 6, leaves)
    for group in grouped(index, leaves):
        padded = group.real.numel()
        excess = padded - max(visits.PADDING, 1.25) * group.real.sum()  # a single leaf is padded by a quarter
        assert excess * group.width <= visits.FILLED
        assert len(group.leaves).bit_count() == 1
        assert len(group.leaves) == 1 or len(group.leaves) * group.width <= visits.PATCHES
        assert group.real.shape[1] == 1 or padded * group.width <= visits.PRODUCTS


def test_sizes_are_rounded_up_to_four_steps_between_two_powers_of_two() -> None:
    assert visits.rounded_up(0) == 0
    found = sorted({visits.rounded_up(size) for size in range(1, 34)})
    assert found == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40]


def test_searches_of_about_as_many_visits_make_products_of_few_shapes(index: Index) -> None:
    some = torch.Generator().manual_seed(0)
    shapes, groups = set(), 0
    for count in range(300, 400, 5):
        leaves = torch.randint(0, index.tree.leaves, (count,), generator=some).square() // index.tree.leaves
        found = grouped(index, leaves)
        shapes |= {(*group.real.shape, group.width) for group in found}
        groups += len(found)
    assert len(shapes) <= groups / 2


def test_no_visits_are_no_groups(index: Index) -> None:
    assert grouped(index, torch.empty(0, dtype=torch.int64)) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40)), max_size=30), st.sampled_from([0, 1000, 1 << 17]))
def test_groups_hold_every_leaf_once_with_one_width_and_room_for_its_visits(
    shape: list[tuple[int, int]], filled: int
) -> None:
    widths, sizes = [64 * width for width, _ in sorted(shape)], [size for _, size in sorted(shape)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visits, "FILLED", filled)
        found = visits._shapes(widths, sizes)
    assert [start for start, *_ in found] == [0, *(stop for _, stop, *_ in found)][: len(found)]
    assert [stop for _, stop, *_ in found][-1:] == [len(shape)] * bool(shape)
    for start, stop, count, rows in found:
        assert len(set(widths[start:stop])) == 1
        assert max(sizes[start:stop]) <= rows == visits.rounded_up(rows)
        assert stop - start <= count < 2 * (stop - start) or count == 1
        excess = count * rows - visits.PADDING * sum(sizes[start:stop])
        assert excess * widths[start] <= filled or count == 1
