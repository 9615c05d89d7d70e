"""Indexes that are shared among processes, and those that are refused; no process is started here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_batch.config import IndexConfig
from kt_batch.errors import UsageError
from kt_batch.index.served.placement import divide_shards
from kt_batch.pipelines.estimate import DryRunRequest, estimate_translate
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.owners import IndexPlace
from kt_batch.pipelines.translate.placement import index_bytes
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.serving import (
    Division,
    SharedIndex,
    expected_owners,
    plan_division,
    reserved,
    too_large,
)
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.local import LocalRunner
from kt_batch.store.cache import CachePlace
from tests.support.tiny import draw_all, extracted, indexed, translate_request


@settings(deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.integers(0, 3000))
def test_shards_are_divided_evenly_and_no_owner_holds_more_than_allowed(sizes: list[int], spare: int) -> None:
    most = max(sizes) + spare
    parts = divide_shards(sizes, most)
    held = [sum(sizes[shard] for shard in part) for part in parts]
    assert sorted(shard for part in parts for shard in part) == list(range(len(sizes)))
    assert all(part == sorted(part) for part in parts)
    assert max(held) <= most
    assert max(held) - min(held) <= max(sizes)
    assert len(parts) <= 2 * -(-sum(sizes) // most)


@pytest.fixture(scope="module")
def request_of_many(tmp_path_factory: pytest.TempPathFactory) -> TranslateRequest:
    root = tmp_path_factory.mktemp("many")
    extracted([draw_all(root / "paintings", [1, 2, 3])], root / "library")
    index = indexed(root / "library", config=IndexConfig(fan_out=4, max_leaf=16)).index
    return translate_request(root / "library", root / "run", index, search={"probes": 4})


def planned(request: TranslateRequest, most: int) -> object:
    return plan_division(replace(request, index_memory=most), LocalRunner())


def test_owners_reserve_memory_for_a_search_of_every_worker() -> None:
    place = IndexPlace("library", "digest", CachePlace())
    two = SharedIndex(0, place, ((0,), (1,)), (500, 900), patches=9, leaf=3)
    division = Division((two, replace(two, library=1, shards=((0, 1),), sizes=(700,))), room=0)
    one, many = (reserved(division, workers) for workers in (1, 33))
    assert [few - held for few, held in zip(one, (500, 900, 700), strict=True)] == [400 << 20] * 3
    assert [more - few for more, few in zip(many, one, strict=True)] == [4 << 30, 4 << 30, 8 << 30]


def test_an_index_that_fits_is_not_shared(request_of_many: TranslateRequest) -> None:
    assert planned(request_of_many, index_bytes(request_of_many.config, request_of_many.sources)) is None


@pytest.mark.parametrize(
    ("search", "sentence"),
    [
        ({"searcher": "scan"}, r"^--searcher scan needs the whole index in one process"),
        ({"probes": 4}, r"only --runner ray shares it among processes"),
    ],
)
def test_a_search_that_owners_do_not_do_is_refused(
    request_of_many: TranslateRequest, search: dict[str, object], sentence: str
) -> None:
    config = request_of_many.config
    given_search = config.model_copy(update={"search": type(config.search)(**search)})  # type: ignore[attr-defined]
    size = index_bytes(config, request_of_many.sources)
    with pytest.raises(UsageError, match=sentence):
        planned(replace(request_of_many, config=given_search), size - 1)


def test_an_index_with_a_shard_above_the_limit_is_refused(request_of_many: TranslateRequest) -> None:
    with pytest.raises(UsageError, match=r"^--index-memory 1e-06GB is less than the largest shard of the index"):
        planned(request_of_many, 1000)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8), st.integers(1, 5000))
def test_the_smallest_indexes_stay_whole_as_many_as_fit_together(sizes: list[int], most: int) -> None:
    shared = too_large(sizes, most)
    whole = [size for number, size in enumerate(sizes) if number not in shared]
    assert shared == sorted(shared)
    assert sum(whole) <= most
    assert all(sum(whole) + sizes[number] > most for number in shared)
    assert not shared or max(whole, default=0) <= min(sizes[number] for number in shared)


def test_a_dry_run_refuses_what_the_run_would(request_of_many: TranslateRequest) -> None:
    size = index_bytes(request_of_many.config, request_of_many.sources)
    paintings = Path(request_of_many.sources.library or "").parent / "paintings"
    request = replace(request_of_many, images=[str(paintings)], index_memory=size - 1)
    with pytest.raises(UsageError, match="only --runner ray shares it among processes"):
        estimate_translate(request, DryRunRequest(pilot=0), LocalRunner(), no_progress)
    on_ray = replace(request, options=request.options.model_copy(update={"runner": "ray"}))
    assert estimate_translate(on_ray, DryRunRequest(pilot=0), LocalRunner(), no_progress).to_do > 0


def test_a_dry_run_tells_the_memory_of_the_processes_that_will_hold_the_index(
    request_of_many: TranslateRequest,
) -> None:
    size = index_bytes(request_of_many.config, request_of_many.sources)
    paintings = Path(request_of_many.sources.library or "").parent / "paintings"
    options = request_of_many.options.model_copy(update={"runner": "ray", "workers": 5})
    request = replace(request_of_many, images=[str(paintings)], index_memory=size - 1, options=options)
    found = [
        estimate_translate(replace(request, index_replicas=replicas), DryRunRequest(), LocalRunner(), no_progress)
        for replicas in (1, 3)
    ]
    one = (400 << 20) + 4 * (256 << 20)  # of its own, and four workers search beside the first; the index is tiny
    assert [(each.owners.owners, each.owners.replicas) for each in found if each.owners] == [(1, 1), (1, 3)]
    assert [each.owners.bytes for each in found if each.owners] == pytest.approx([one, 3 * one], rel=1e-3)
    assert [each.owners.largest_bytes for each in found if each.owners] == pytest.approx([one] * 2, rel=1e-3)
    fits = replace(request, index_memory=size)
    assert estimate_translate(fits, DryRunRequest(), LocalRunner(), no_progress).owners is None


def test_replicas_of_an_index_that_is_not_shared_are_refused(request_of_many: TranslateRequest) -> None:
    with pytest.raises(UsageError, match=r"^--index-replicas 2 has no effect without --index-memory"):
        expected_owners(replace(request_of_many, index_replicas=2))


def test_a_limit_for_a_method_without_an_index_is_refused(request_of_many: TranslateRequest, tmp_path: Path) -> None:
    config, sources = choose("adain", {}, Choice(styles=[draw_all(tmp_path, [7])]))
    with pytest.raises(UsageError, match=r"^The method adain searches no index, so --index-memory has no effect"):
        planned(replace(request_of_many, config=config, sources=sources), 1000)
