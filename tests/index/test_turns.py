"""Threads compute in turn, wait beside each other, and search together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial

import pytest
import torch
from torch import Tensor

from kt_batch.config import IndexConfig, SearchConfig
from kt_batch.index.collection import collected
from kt_batch.index.index import Index
from kt_batch.index.search import open_search
from kt_batch.index.served.asked import AnyReply, AnyRequest
from kt_batch.index.served.index import ServedIndex
from kt_batch.index.served.local import LocalOwners
from kt_batch.index.served.router import Router
from kt_batch.index.served.together import SearchesTogether
from kt_batch.index.turns import Turns, takes_turns, waiting
from tests.support.synthetic import clustered, sharded_index_of

TIMEOUT = 60  # seconds; what never meets fails instead of standing still
NAMES = ("patch_ids", "values", "scores", "certified")
CONTEXT: ContextVar[str] = ContextVar("context", default="")


def test_threads_wait_beside_each_other_and_compute_one_at_a_time() -> None:
    meeting, computing, most = threading.Barrier(3), [0], [0]

    def work(number: int) -> tuple[int, str]:
        for _ in range(20):
            computing[0] += 1
            most[0] = max(most[0], computing[0])
            threading.Event().wait(0.001)  # lets the others run, if they may
            computing[0] -= 1
            with waiting():
                meeting.wait(TIMEOUT)
        return number, CONTEXT.get()

    CONTEXT.set("of the caller")
    found = Turns(3).each([partial(work, number) for number in range(3)])
    assert found == [(number, "of the caller") for number in range(3)]
    assert most == [1]
    assert not takes_turns()


def test_threads_of_a_thread_take_turns_with_all_others() -> None:
    outer, inner, meeting = Turns(2), Turns(4), threading.Barrier(4)

    def wait() -> bool:
        with waiting():
            meeting.wait(TIMEOUT)
        return takes_turns()

    def work() -> list[bool]:
        return inner.each([wait, wait])

    assert outer.each([work, work]) == [[True, True]] * 2


def test_the_first_error_is_raised_after_all_have_ended() -> None:
    ended = []

    def work(number: int) -> None:
        ended.append(number)
        if number:
            raise ValueError(number)

    with pytest.raises(ValueError, match="1"):
        Turns(1).each([partial(work, number) for number in range(4)])
    assert ended == [0, 1, 2, 3]


# ---- searches --------------------------------------------------------------------------------------------------------


class Searches:
    """Doubles queries. The first search waits until all `others` have asked."""

    def __init__(self, others: int) -> None:
        self.together = SearchesTogether(self.search, lambda found, some: found[some])
        self.others, self.sizes = others, list[int]()

    def search(self, queries: Tensor) -> Tensor:
        self.sizes.append(len(queries))
        if len(self.sizes) == 1:
            with waiting():
                until(lambda: len(self.together._asked) == self.others)
        if bool((queries < 0).any()):
            raise ValueError("negative")
        return queries * 2

    def of_threads(self, queries: Sequence[Tensor]) -> list[Tensor]:
        return Turns(len(queries)).each([partial(self.together, some) for some in queries])


def until(true: Callable[[], bool]) -> None:
    for _ in range(TIMEOUT * 100):
        if true():
            return
        threading.Event().wait(0.01)
    pytest.fail("It never became true.")


def test_what_is_asked_for_during_a_search_is_searched_for_in_one_call() -> None:
    queries = [torch.arange(count).double() for count in (2, 3, 0, 4)]
    searches = Searches(3)
    assert [found.tolist() for found in searches.of_threads(queries)] == [(some * 2).tolist() for some in queries]
    assert searches.sizes == [2, 7]
    assert searches.together(queries[3]).tolist() == [0, 2, 4, 6]  # of a thread that takes no turns


def test_an_error_of_a_common_search_is_that_of_all_and_of_no_later_search() -> None:
    queries = [torch.ones(2), torch.ones(1), -torch.ones(3)]
    searches = Searches(2)
    turns = Turns(3)
    first, *others = [turns.submit(partial(searches.together, some)) for some in queries]
    assert first.result(TIMEOUT).tolist() == [2, 2]
    assert [str(other.exception(TIMEOUT)) for other in others] == ["negative"] * 2
    assert searches.of_threads(queries[:1])[0].tolist() == [2, 2]


class MeetingOwners(LocalOwners):
    """Owners that answer the first question when those of another index are asked as well."""

    meeting: threading.Barrier

    def ask(self, requests: Mapping[int, Sequence[AnyRequest]]) -> dict[int, AnyReply | None]:
        if not self.traffic:
            with waiting():
                self.meeting.wait(TIMEOUT)
        return super().ask(requests)


def test_owners_of_several_libraries_are_asked_at_the_same_time() -> None:
    def index(seed: int) -> Index:
        return sharded_index_of(clustered(400, seed=seed), IndexConfig(max_leaf=16, merge=1), shards=3)

    indexes = [index(1), index(2), index(3)]
    meeting, shared = threading.Barrier(2), list[Index | ServedIndex](indexes)
    for number in (0, 2):
        owners = MeetingOwners(indexes[number], [[shard] for shard in range(len(indexes[number].shards))])
        owners.meeting = meeting
        shared[number] = ServedIndex(Router.of(indexes[number]), owners)
    queries, settings = clustered(50, seed=4), SearchConfig(probes=6, top_k=2)
    expected = open_search(collected(indexes, [1, 0.9, 1]), settings).search(queries)
    search = open_search(collected(shared, [1, 0.9, 1]), settings)
    found = search.search(queries)
    for name in (*NAMES, "libraries"):
        assert getattr(found, name).equal(getattr(expected, name)), name


class AskedByAll(LocalOwners):
    """Owners that answer the first question when all other callers have asked for their queries too."""

    others: Callable[[], int]

    def ask(self, requests: Mapping[int, Sequence[AnyRequest]]) -> dict[int, AnyReply | None]:
        if not self.traffic:
            with waiting():
                until(lambda: self.others() == 3)
        return super().ask(requests)


def test_what_several_images_ask_of_several_libraries_is_searched_for_in_one_call() -> None:
    indexes = [sharded_index_of(clustered(400, seed=seed), IndexConfig(max_leaf=16), shards=3) for seed in (1, 2)]
    owners = [AskedByAll(index, [[0, 2], [1]]) for index in indexes]
    shared = [ServedIndex(Router.of(index), own) for index, own in zip(indexes, owners, strict=True)]
    search = open_search(collected(shared, [1, 0.9]), SearchConfig(probes=6))
    for own, one in zip(owners, search._searches, strict=True):  # type: ignore[union-attr]
        own.others = partial(lambda together: len(together._asked), one._together)
    images = [clustered(20, seed=seed) for seed in range(3, 7)]
    found = Turns(4).each([partial(search.search, queries) for queries in images])
    expected = open_search(collected(indexes, [1, 0.9]), SearchConfig(probes=6))
    for queries, matches in zip(images, found, strict=True):
        for name in (*NAMES, "libraries"):
            assert getattr(matches, name).equal(getattr(expected.search(queries), name)), name
