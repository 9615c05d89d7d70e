"""Laws of planning for any items, sizes, orders and additions."""

from __future__ import annotations

import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from kt_batch.store.locations import LocalLocation
from kt_batch.store.plans import Item, Plan, Unit, decode_plan, encode_plan, make_units
from kt_batch.store.units import Ledger

# Few images and names, so that duplicates of every sort come up.
image_ids = st.integers(0, 9).map("{:016x}".format)
names = st.sampled_from(["a.jpg", "b.jpg", "sub/a.jpg", "été 1.png", "x,\"y'.webp"])
items = st.lists(st.builds(Item, image_ids, st.sampled_from(["file:///in", "s3://bucket"]), names), max_size=30)
sizes = st.integers(1, 9)


def keys(some: list[Item]) -> set[tuple[str, str]]:
    return {(item.image_id, item.name) for item in some}


@given(items, sizes)
def test_every_item_is_in_exactly_one_unit(some: list[Item], size: int) -> None:
    planned = [item for unit in make_units(some, size) for item in unit.items]
    assert Counter((item.image_id, item.name) for item in planned) == Counter(keys(some))
    assert set(planned) <= set(some)


@given(items, sizes)
def test_only_a_unit_of_one_image_is_larger_than_the_unit_size(some: list[Item], size: int) -> None:
    for unit in make_units(some, size):
        assert len(unit.items) <= size or len({item.image_id for item in unit.items}) == 1


@given(items, sizes)
def test_an_image_is_in_one_unit_and_units_are_in_order(some: list[Item], size: int) -> None:
    units = make_units(some, size)
    assert all(one.items[-1].image_id < other.items[0].image_id for one, other in pairwise(units))


@given(items, sizes, st.data())
def test_the_order_of_a_listing_does_not_matter(some: list[Item], size: int, data: st.DataObject) -> None:
    assert make_units(data.draw(st.permutations(some)), size) == make_units(some, size)


@given(items, sizes)
def test_a_plan_round_trips_through_its_file(some: list[Item], size: int) -> None:
    plan = Plan(tuple(make_units(some, size)), {"stride": 1}, "0" * 16)
    assert decode_plan(encode_plan(plan), "plan/000000.parquet") == plan


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(items, sizes), min_size=1, max_size=4))
def test_replanning_never_changes_or_loses_a_unit(listings: list[tuple[list[Item], int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        location = LocalLocation(Path(folder))
        before: list[Unit] = []
        listed: list[Item] = []
        for some, size in listings:
            units = Ledger(location).plan(some, size, {"stride": 1}, "0" * 16)
            assert units[: len(before)] == before
            before, listed = units, listed + some
        planned = [item for unit in before for item in unit.items]
        assert Counter((item.image_id, item.name) for item in planned) == Counter(keys(listed))
        assert len({unit.id for unit in before}) == len(before)
