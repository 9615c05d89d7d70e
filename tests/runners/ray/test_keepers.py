"""An index whose shards are kept by actors of a real local Ray, one of which is killed in the middle of a search."""

from __future__ import annotations

import mmap
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import ray
import torch
from torch import Tensor

from kt_batch.config import IndexConfig
from kt_batch.errors import DamagedError, KtBatchError, StoppedError
from kt_batch.index.index import Index
from kt_batch.index.searchers.base import SearchRequest
from kt_batch.index.searchers.estimates import search_fast
from kt_batch.index.served import messages
from kt_batch.index.served.asked import AnyReply, AnyRequest
from kt_batch.index.served.owner import Owner
from kt_batch.index.served.router import Router
from kt_batch.index.served.search import ServedSearch
from kt_batch.index.shards import match_parts
from kt_batch.kernels.haar import haar
from kt_batch.runners.ray.keepers import Keepers, _KeeperActor
from kt_batch.runners.ray.runner import RayRunner
from kt_batch.runners.shutdown import GracefulShutdown
from tests.support.ray_local import actor_names, ray_here  # noqa: F401  # the fixture
from tests.support.synthetic import clustered, sharded_index_of

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.usefixtures("ray_here")]

SHARDS = [[0, 2], [1, 3]]


class MortalOwner:
    """An owner that also tells its process, so that a test can kill it."""

    def __init__(self, shards: Sequence[int]) -> None:
        index = made()
        self._owner = Owner(index.tree, shards, [index.shards[number] for number in shards])

    def answer(self, requests: Sequence[Any]) -> Any:
        return os.getpid() if requests == ["pid"] else self._owner.answer(requests)


class KilledOnce:
    """Keepers of an index, of which one is killed before one of the requests of a search."""

    shards = SHARDS

    def __init__(self, keepers: Keepers, before: type[messages.Request]) -> None:
        self._keepers, self._before, self.killed = keepers, before, 0

    def ask(self, requests: Mapping[int, Sequence[AnyRequest]]) -> dict[int, AnyReply | None]:
        if not self.killed and any(isinstance(some[-1], self._before) for some in requests.values()):
            victim = next(iter(requests))
            os.kill(self._keepers.ask({victim: ["pid"]})[victim], signal.SIGKILL)
            self.killed += 1
        return self._keepers.ask(requests)

    def tell(self, requests: Mapping[int, Sequence[AnyRequest]]) -> None:
        self._keepers.tell(requests)

    def settle(self) -> None:
        pass


def made() -> Index:
    return sharded_index_of(clustered(2000, 16, clusters=30, seed=1), IndexConfig(max_leaf=32, merge=1), shards=4)


@pytest.fixture(scope="module")
def index() -> Index:
    return made()


@pytest.fixture
def keepers() -> Iterator[Keepers]:
    kept = Keepers([partial(MortalOwner, shards) for shards in SHARDS], threads=1, memory=[1 << 20] * 2)
    yield kept
    kept.close()


def request_of(index: Index) -> SearchRequest:
    queries: Tensor = clustered(120, 16, clusters=30, seed=2, spread=2.0)  # far from all, so that a second round pays
    return SearchRequest(queries, match_parts(haar(queries), index.tree.mean)[0], 2, with_values=True)


@pytest.mark.parametrize("before", [messages.Thresholds, messages.Further, messages.Finalists])
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


class Echo:
    """A keeper that repeats what it is asked."""

    def answer(self, requests: Sequence[Any]) -> Any:
        return requests


class Holder:
    """An actor whose objects are lost with it."""

    def hold(self) -> list[Any]:
        never: Any = ray.remote(num_cpus=1000)(made)
        return [never.remote()]


class LosesAnswer(Keepers):
    """Keepers whose first answer is an object that is lost, as one that a lost node still held."""

    lost = 0

    def _send(self, number: int, requests: Sequence[Any]) -> Any:
        if self.lost:
            return super()._send(number, requests)
        holder: Any = cast("Any", ray.remote(Holder)).remote()
        (gone,) = ray.get(holder.hold.remote())
        ray.kill(holder)
        self.lost += 1
        return gone


@pytest.mark.parametrize("patience", [600.0, 0.2])
def test_an_answer_that_is_lost_with_its_node_is_asked_for_again(
    patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kt_batch.runners.ray.keepers.PATIENCE_SECONDS", patience)  # an actor takes longer to start
    keepers = LosesAnswer([Echo, Echo], threads=1, memory=[1 << 20] * 2)
    try:
        assert keepers.ask({0: [1], 1: [2]}) == {0: [1], 1: [2]}
        keepers.note({})
        assert keepers.lost == 1
        assert [counts["lost"] for counts in keepers.noted() if "lost" in counts] == [1]
    finally:
        keepers.close()


def shown_to_prometheus() -> dict[str, float]:
    """Return what the node's endpoint says of the second part of an index, by the name of the metric."""
    (node,) = ray.nodes()
    with urllib.request.urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    own = [line for line in lines if line.startswith("ray_kt_batch_index_") and 'part="1"' in line]
    return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in own}


def test_prometheus_is_shown_what_is_counted_of_each_part() -> None:
    keepers = Keepers([Echo, Echo], threads=1, memory=[1 << 20] * 2)
    expected = {f"ray_kt_batch_index_{name}_total": n for name, n in (("queries", 15), ("visits", 40), ("bytes", 600))}
    try:
        keepers.ask({1: ["anything"]})
        for count in (1, 2):
            keepers.note({1: {"queries": 5 * count, "visits": 20, "bytes": 300}})
        give_up = time.monotonic() + 60
        while not expected.items() <= (shown := shown_to_prometheus()).items() and time.monotonic() < give_up:
            time.sleep(0.5)
    finally:
        keepers.close()
    assert shown.pop("ray_kt_batch_index_waiting_seconds_total") > 0
    shown.pop("ray_kt_batch_index_lost_requests_total", None)  # of other tests in this session of Ray
    assert shown == expected


class Process:
    """A keeper that answers with the id of its process."""

    def answer(self, requests: Sequence[Any]) -> int:
        return os.getpid()


def test_each_process_asks_another_replica_and_comes_back_to_it_after_its_loss() -> None:
    keepers = Keepers([Process, Process], threads=1, memory=[1 << 20] * 2, replicas=2)
    try:
        keepers.ask_replicas({0: [], 1: []})
        pids = keepers.pids()
        others = ray.cloudpickle.loads(ray.cloudpickle.dumps(keepers))  # as in another process
        own, theirs = (each.ask({0: [1], 1: [1]}) for each in (keepers, others))
        assert sorted([own[0], theirs[0], own[1], theirs[1]]) == sorted(pids)
        os.kill(own[0], signal.SIGKILL)
        assert keepers.ask({0: [1]}) == {0: theirs[0]}
        give_up = time.monotonic() + 60
        while (back := keepers.ask({0: [1]})[0]) == theirs[0] and time.monotonic() < give_up:
            time.sleep(0.2)
            keepers.note({0: {}})
        assert back not in pids
        assert [counts.get("lost", 0) for counts in keepers.noted()] == [1, 0]
    finally:
        keepers.close()


def test_a_replica_that_never_comes_back_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kt_batch.runners.ray.keepers.PAUSE_SECONDS", -1.0)  # sleep raises
    keepers = Keepers([Process], threads=1, memory=[1 << 20], replicas=2)
    try:
        lost, left = (actor for _, actor in keepers._replicas.each([0]))
        pid = ray.get(left.ready.remote())
        ray.kill(lost, no_restart=True)
        for _ in range(3):
            assert keepers.ask({0: [1]}) == {0: pid}
            keepers.note({0: {}})
    finally:
        keepers.close()


class NamedEcho:
    """A factory with a text."""

    def __call__(self) -> Echo:
        return Echo()

    def __str__(self) -> str:
        return "echo of 's3://bucket/library'"


def test_keepers_of_two_runs_may_have_the_same_names() -> None:
    before, started = actor_names(), list[Keepers]()
    try:
        for _ in range(2):
            started.append(Keepers([NamedEcho()], threads=1, memory=[1 << 20], replicas=2))
            assert started[-1].ask({0: [1]}) == {0: [1]}
        assert len({pid for keepers in started for pid in keepers.pids()}) == 4
        named = actor_names() - before
        assert [named[f"kt_batch echo of 's3://bucket/library', replica {number} of 2"] for number in (0, 1)] == [2, 2]
    finally:
        for keepers in started:
            keepers.close()


class Slow:
    """A keeper that takes as many seconds as it is asked for, and answers how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def answer(self, requests: Sequence[float]) -> int:
        self.asked += 1
        time.sleep(sum(requests))
        return self.asked


class AsksSlowly:
    """A worker whose unit waits for a keeper."""

    def __init__(self, keepers: Keepers) -> None:
        self.keepers = keepers

    def __call__(self, unit: float, beat: Callable[[str], bool]) -> int:
        beat("part of the unit")
        answer: int = self.keepers.ask({0: [unit]})[0]
        return answer


def test_a_worker_that_waits_for_a_keeper_is_not_taken_for_lost() -> None:
    deadline = 8.0
    runner = RayRunner(None, 1, 1, deadline=deadline)
    try:
        keepers = runner.serve([Slow], [1 << 20])
        assert list(runner.run(partial(AsksSlowly, keepers), [2 * deadline], lambda unit, *_: unit)) == [1]
    finally:
        runner.close()


def test_a_keeper_that_never_answers_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kt_batch.runners.ray.keepers.WAIT_REPORT_SECONDS", 0.1)
    monkeypatch.setattr("kt_batch.runners.ray.keepers.SILENT_SECONDS", 1.0)
    keepers = Keepers([Echo, Slow], threads=1, memory=[1 << 20] * 2)
    try:
        keepers.wait_until_started()
        with pytest.raises(KtBatchError, match=r"^Part 1 of 2 of the index has not answered for 1 s"):
            keepers.ask({0: [1], 1: [600.0]})
    finally:
        keepers.close()


@pytest.mark.parametrize("request_of_all", [True, False])
def test_a_shutdown_does_not_wait_for_keepers_that_open(request_of_all: bool) -> None:
    shutdown = GracefulShutdown()
    keepers = Keepers([Slow], threads=1, memory=[1 << 20], check=shutdown.check)
    try:
        keepers.wait_until_started()
        shutdown.requested = True
        with pytest.raises(StoppedError):
            (keepers.ask_replicas if request_of_all else keepers.ask)({0: [600.0]})
    finally:
        keepers.close()


def test_keepers_that_do_not_start_reserve_no_memory() -> None:
    shutdown = GracefulShutdown()
    runner = RayRunner(None, 1, 1, shutdown)
    shutdown.requested = True
    free = ray.available_resources()["memory"]
    try:
        with pytest.raises(StoppedError):
            runner.serve([Echo, Echo], [1 << 20] * 2, replicas=2)
        give_up = time.monotonic() + 30
        while ray.available_resources()["memory"] < free and time.monotonic() < give_up:
            time.sleep(0.2)
        assert ray.available_resources()["memory"] >= free
    finally:
        runner.close()


class MapsFile:
    """A keeper that maps a file, and answers with its process and how many keepers that has made."""

    made = 0

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        MapsFile.made += 1

    def answer(self, requests: Sequence[Any]) -> tuple[int, int]:
        return os.getpid(), MapsFile.made


def test_a_keeper_that_nobody_asks_lets_go_what_it_keeps_and_the_next_request_makes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kt_batch.runners.ray.keepers.IDLE_SECONDS", 1.0)
    (tmp_path / "shard").write_bytes(bytes(1 << 20))
    keepers = Keepers([partial(MapsFile, tmp_path / "shard")], threads=1, memory=[1 << 20])
    try:
        keepers.ask_replicas({0: [1]})
        (pid,) = keepers.pids()
        give_up = time.monotonic() + 60
        while str(tmp_path) in Path(f"/proc/{pid}/maps").read_text() and time.monotonic() < give_up:
            time.sleep(0.1)
        assert str(tmp_path) not in Path(f"/proc/{pid}/maps").read_text()
        assert keepers.ask({0: [1]}) == {0: (pid, 2)}
    finally:
        keepers.close()


class DiesWhenReady(_KeeperActor):
    """The actor of a keeper whose first process is killed before it says that it is ready."""

    def ready(self) -> int:
        mark: Path = self._factory.args[0]  # type: ignore[attr-defined]
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().ready()


def marked(mark: Path) -> Echo:
    assert mark.exists()
    return Echo()


def test_an_actor_that_is_lost_before_it_is_ready_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kt_batch.runners.ray.keepers._KeeperActor", DiesWhenReady)
    keepers = Keepers([partial(marked, tmp_path / "mark")], threads=1, memory=[1 << 20])
    try:
        keepers.wait_until_started()
        assert keepers.ask({0: [1]}) == {0: [1]}
    finally:
        keepers.close()


class Unreadable:
    """A factory that no process can read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


def test_an_actor_that_cannot_be_created_ends_the_run_at_once() -> None:
    keepers = Keepers([cast("Any", Unreadable())], threads=1, memory=[1 << 20])
    try:
        with pytest.raises(KtBatchError, match=r"^A part of the index cannot be served: The actor died because of an"):
            keepers.wait_until_started()
    finally:
        keepers.close()


def refuse() -> MortalOwner:
    raise DamagedError("The index shard is damaged.")


def test_an_error_of_a_keeper_is_raised_as_it_is() -> None:
    keepers = Keepers([refuse], threads=1, memory=[1 << 20])
    try:
        with pytest.raises(DamagedError, match="The index shard is damaged"):
            keepers.ask({0: ["pid"]})
    finally:
        keepers.close()
