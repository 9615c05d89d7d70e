"""An index whose shards are kept by actors of a real local Ray, one of which is killed in the middle of a search."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from kt_batch.config import IndexConfig
from kt_batch.errors import DamagedError
from kt_batch.index.index import Index
from kt_batch.index.searchers.base import SearchRequest
from kt_batch.index.searchers.estimates import search_fast
from kt_batch.index.served import messages
from kt_batch.index.served.owner import Owner
from kt_batch.index.served.router import Router
from kt_batch.index.served.search import ServedSearch
from kt_batch.index.shards import match_parts
from kt_batch.kernels.haar import haar
from kt_batch.runners.ray.keepers import Keepers
from tests.support.ray_local import ray_here  # noqa: F401  # the fixture
from tests.support.synthetic import clustered, sharded_index_of

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.usefixtures("ray_here")]

SHARDS = [[0, 2], [1, 3]]


class MortalOwner:
    """An owner that also tells its process, so that a test can kill it."""

    def __init__(self, index: Index, shards: Sequence[int]) -> None:
        self._owner = Owner(index.tree, shards, [index.shards[number] for number in shards])

    def answer(self, requests: Sequence[Any]) -> Any:
        return os.getpid() if requests == ["pid"] else self._owner.answer(requests)


class KilledOnce:
    """Keepers of an index, of which one is killed before one of the requests of a search."""

    shards = SHARDS

    def __init__(self, keepers: Keepers, before: type[messages.Request]) -> None:
        self._keepers, self._before, self.killed = keepers, before, 0

    def ask(self, requests: Mapping[int, Sequence[messages.Request]]) -> dict[int, messages.Reply | None]:
        if not self.killed and any(isinstance(some[-1], self._before) for some in requests.values()):
            victim = next(iter(requests))
            os.kill(self._keepers.ask({victim: ["pid"]})[victim], signal.SIGKILL)
            self.killed += 1
        return self._keepers.ask(requests)


def made() -> Index:
    return sharded_index_of(clustered(2000, 16, clusters=30, seed=1), IndexConfig(max_leaf=32, merge=1), shards=4)


@pytest.fixture(scope="module")
def index() -> Index:
    return made()


@pytest.fixture
def keepers(index: Index) -> Iterator[Keepers]:
    kept = Keepers([partial(MortalOwner, index, shards) for shards in SHARDS], threads=1, memory=[1 << 20] * 2)
    yield kept
    kept.close()


def request_of(index: Index) -> SearchRequest:
    queries: Tensor = clustered(120, 16, clusters=30, seed=2, spread=2.0)  # far from all, so that a second round pays
    return SearchRequest(queries, match_parts(haar(queries), index.tree.mean)[0], 2, with_values=True)


@pytest.mark.parametrize(
    "before", [messages.Thresholds, messages.Further, messages.Whole, messages.Finalists, messages.Winners]
)
def test_a_search_whose_owner_is_killed_finds_the_same(
    index: Index, keepers: Keepers, before: type[messages.Request]
) -> None:
    request = request_of(index)
    expected = search_fast(index, request.keys, 2, 40, with_values=True)
    owners = KilledOnce(keepers, before)
    found, ids = ServedSearch(Router.of(index), owners).find(request, 40)
    assert owners.killed == 1
    assert found.rows.equal(expected.rows)
    assert found.scores.equal(expected.scores)
    assert found.values is not None
    assert expected.values is not None
    assert found.values.equal(expected.values)
    assert ids.flatten(0, 1).equal(torch.from_numpy(index.patch_ids(expected.rows.flatten())))


def refuse() -> MortalOwner:
    raise DamagedError("The index shard is damaged.")


def test_an_error_of_a_keeper_is_raised_as_it_is() -> None:
    keepers = Keepers([refuse], threads=1, memory=[1 << 20])
    try:
        with pytest.raises(DamagedError, match="The index shard is damaged"):
            keepers.ask({0: ["pid"]})
    finally:
        keepers.close()
