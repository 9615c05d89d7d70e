"""Groups of leaves: every leaf is in one, alike leaves are together, and none is much larger than the others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.index import leaf_groups
from kt_batch.index.leaf_groups import LARGEST, PER_ROOT, WIDTH, LeafGroups, group_leaves
from kt_batch.kernels.fixed_point import STEP, round_
from kt_batch.kernels.tiles import normalise


def directions(count: int, seed: int = 0, kinds: int = 9) -> Tensor:
    """Return `(count, 6)` unit vectors about a few directions, in fixed point."""
    some = torch.Generator().manual_seed(seed)
    kind = torch.randint(kinds, (count,), generator=some)
    noise = 0.2 * torch.randn(count, 6, generator=some)
    return round_(normalise(torch.randn(kinds, 6, generator=some)[kind] + noise))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(0, 99), st.integers(1, 9))
def test_every_leaf_is_in_one_group_with_its_direction(count: int, seed: int, kinds: int) -> None:
    leaves = directions(count, seed, kinds)
    groups = group_leaves(leaves)
    assert groups.leaves.sort().values.equal(torch.arange(count))
    assert int(groups.size.sum()) == count
    assert int(groups.size.min()) >= 1
    for group, (start, size) in enumerate(zip(groups.start.tolist(), groups.size.tolist(), strict=True)):
        own = groups.leaves[start : start + size]
        assert groups.width(group) % WIDTH == 0
        assert size <= groups.width(group) < size + WIDTH
        window = groups.window(group)
        assert window.shape == (groups.width(group), 7)
        assert window[:size, :-1].equal(leaves[own])
        assert not window[:, -1].any()
        centre = normalise(leaves[own].double().mean(0, keepdim=True).float())[0]
        torch.testing.assert_close(groups.centres[:-1, group], centre, atol=STEP / 2 + 1e-5, rtol=0)


@pytest.mark.parametrize("leaves", [directions(900), directions(900, kinds=1), torch.zeros(900, 6)], ids=str)
def test_no_group_is_more_than_twice_as_large_as_the_mean_of_those_wanted(leaves: Tensor) -> None:
    groups = group_leaves(leaves)
    assert int(groups.size.max()) <= LARGEST * 900 // (PER_ROOT * 30)


def test_equal_trees_have_equal_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = group_leaves(directions(500)), group_leaves(directions(500))
    assert one.leaves.equal(other.leaves)
    assert one.centres.equal(other.centres)
    monkeypatch.setattr(leaf_groups, "ROUNDS", 0)
    assert not group_leaves(directions(500)).leaves.equal(one.leaves)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(0, 2000))
def test_as_many_groups_as_hold_a_number_of_leaves_hold_it_whichever_they_are(sizes: list[int], count: int) -> None:
    total = sum(sizes)
    rows = torch.zeros(total + WIDTH, 3)
    groups = LeafGroups(torch.zeros(3, len(sizes)), torch.tensor(sizes), torch.arange(total), rows)
    needed = groups.holding(count)
    assert sum(sorted(sizes)[:needed]) >= min(count, total)
    assert needed == 1 or sum(sorted(sizes)[: needed - 1]) < count
