"""A pool that gets no workers or loses them: what it says, and when it ends. On a real Ray of this machine."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from kt_batch.errors import KtBatchError, StoppedError, StorageError
from kt_batch.runners import pool_state
from kt_batch.runners.ray import actors, pool, startup
from kt_batch.runners.ray import runner as ray_runner
from kt_batch.runners.ray.pool import Pool
from kt_batch.runners.ray.startup import nodes_join_by_hand
from kt_batch.runners.shutdown import GracefulShutdown
from tests.support.ray_local import ray_here  # noqa: F401  # the fixture

pytestmark = pytest.mark.usefixtures("ray_here")
Heartbeat = Callable[[str], bool]
AUTOSCALED = {"autoscaler_report": {"active_nodes": {"cpu-workers": 1}}}


def squares() -> Callable[[int, Heartbeat], int]:
    return lambda unit, _: unit * unit


@contextmanager
def pool_of(share: tuple[int, float] | Callable[[], tuple[int, float]], **options: Any) -> Iterator[Pool]:
    """A pool of its own, gone afterwards."""
    opened = Pool(share if callable(share) else lambda: share, options.pop("deadline", 60.0), GracefulShutdown())
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said at once that no worker comes, and again at every look."""
    monkeypatch.setattr(pool_state, "STARTUP_REPORT_SECONDS", 1.0)
    monkeypatch.setattr(pool_state, "STARTUP_REPORT_INTERVAL_SECONDS", 1.0)


# ---- no worker comes up ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_what_no_node_can_hold_and_nobody_adds_ends_the_run_with_a_sentence() -> None:
    sentence = (
        r"^No node of the Ray cluster can hold a worker: one asks for 999 CPUs, the Ray cluster has 1 node, "
        r"the largest with \d+ CPUs, and no autoscaler adds others; join a node"
    )
    with pool_of((1, 999.0)) as opened, pytest.raises(KtBatchError, match=sentence):
        list(opened.run(squares, [2], None))


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_with_an_autoscaler_a_pool_says_what_it_waits_for_and_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(startup, "autoscaler_status", lambda: AUTOSCALED)
    with pool_of((1, 999.0)) as opened:
        shutdown, results = opened._shutdown, opened.run(squares, [2], None)
        end_after_the_second_warning(caplog, shutdown)
        with pytest.raises(StoppedError):
            list(results)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) >= 2
    assert "one asks for 999 CPUs, the Ray cluster has 1 node, the largest with" in said[0]
    assert said[0].endswith("CPUs are free; waiting.")


def end_after_the_second_warning(caplog: pytest.LogCaptureFixture, shutdown: GracefulShutdown) -> None:
    def watch() -> None:
        while len(caplog.records) < 2:
            time.sleep(0.1)
        shutdown.requested = True

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.usefixtures("impatient")
def test_a_busy_cluster_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    whole = float(ray.cluster_resources()["CPU"])
    squatter = _squatter(whole)
    ray.get(squatter.ready.remote())

    def leave() -> None:
        while not caplog.records:
            time.sleep(0.1)
        ray.kill(squatter)

    thread = threading.Thread(target=leave)
    thread.start()
    with pool_of((1, whole)) as opened:
        assert list(opened.run(squares, [3], None)) == [9]
    thread.join()
    assert "and 0 CPUs are free; waiting." in caplog.records[0].getMessage()


def _squatter(cpus: float) -> Any:
    remote: Any = ray.remote(_Squatter)
    return remote.options(num_cpus=cpus).remote()


class _Squatter:
    """Holds its CPUs until it is killed."""

    def ready(self) -> bool:
        return True


def test_workers_that_ask_for_too_much_ask_again_when_a_smaller_node_is_all_there_is() -> None:
    shares = iter([(1, 999.0)])
    with pool_of(lambda: next(shares, (1, 1.0))) as opened:
        assert list(opened.run(squares, [4], None)) == [16]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, False),  # no monitor, or it has not looked yet
        ({"autoscaler_report": None}, False),
        ({"autoscaler_report": {"active_nodes": {}}}, False),
        ({"autoscaler_report": {"active_nodes": {"node_ab": 1}}}, True),
        ({"autoscaler_report": {"active_nodes": {"node_ab": 1, "workers": 3}}}, False),
    ],
)
def test_an_autoscaler_is_known_by_the_names_of_its_nodes(status: dict[str, Any], expected: bool) -> None:
    assert nodes_join_by_hand([{"NodeID": "ab"}, {"NodeID": "cd"}], status) is expected


class _Stillborn(actors.WorkerActor):
    """Its process ends before it is there."""

    def __init__(self, number: int, monitor: Any) -> None:
        os._exit(1)


def test_workers_that_die_before_they_are_there_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "WorkerActor", _Stillborn)
    monkeypatch.setattr(pool_state, "FALSE_START_LIMIT", 2)
    sentence = r"^Worker after worker is lost on the Ray cluster before it begins: it died"
    with pool_of((1, 1.0)) as opened, pytest.raises(KtBatchError, match=sentence):
        list(opened.run(squares, [1], None))


# ---- heartbeats ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """A unit of quick parts."""

    count: int


def counting(folder: Path, deadly: str) -> Callable[[Parts, Heartbeat], int]:
    """Leaves a file for each go at a unit; `deadly` ends the process, quick parts before it."""

    def worker(unit: Parts, beat: Heartbeat) -> int:
        (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        for part in range(unit.count):
            beat(str(part))
            if str(part) == deadly:
                os._exit(1)
        return unit.count

    return worker


@pytest.mark.slow
def test_what_is_blamed_is_the_part_that_was_begun_last_however_quick_the_parts(tmp_path: Path) -> None:
    blamed = []

    def quarantine(unit: Parts, part: str, why: str) -> Parts:
        blamed.append((part, why))
        return Parts(int(part))  # those before it

    with pool_of((1, 1.0)) as opened:
        (found,) = opened.run(partial(counting, tmp_path, "40"), [Parts(50)], quarantine)
    assert found == 40
    assert [part for part, _ in blamed] == ["40"]
    runs = len(list(tmp_path.iterdir()))
    assert runs == 1 + pool_state.STRIKES_TO_QUARANTINE + 1  # not isolated, isolated, and without the part


def slow(seconds: float) -> Callable[[int, Heartbeat], int]:
    def worker(unit: int, beat: Heartbeat) -> int:
        for _ in range(unit):
            beat("")
            time.sleep(seconds)
        return unit

    return worker


@pytest.mark.slow
def test_the_deadline_is_for_a_piece_of_a_unit_and_not_for_all_of_it() -> None:
    with pool_of((1, 1.0), deadline=4.0) as opened:
        assert list(opened.run(partial(slow, 1.0), [8], None)) == [8]


@pytest.mark.slow
def test_a_unit_without_parts_that_falls_silent_is_given_up_within_its_deadline() -> None:
    def stuck() -> Callable[[int, Heartbeat], int]:
        def worker(_: int, beat: Heartbeat) -> int:
            beat("")
            time.sleep(3600)
            return 0

        return worker

    sentence = "lost, 3 times on the same work: it was silent for 1.5 s"
    with pool_of((1, 1.0), deadline=1.5) as opened, pytest.raises(KtBatchError, match=sentence):
        list(opened.run(stuck, [1], None))


# ---- joining ---------------------------------------------------------------------------------------------------------


def test_a_cluster_where_nobody_listens_is_said_at_once() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    sentence = f"^The Ray cluster at '127.0.0.1:{port}' cannot be reached: Connection refused"
    with pytest.raises(StorageError, match=sentence):
        ray_runner._connect(f"127.0.0.1:{port}")


def test_a_cluster_behind_a_wall_that_drops_everything_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(address: tuple[str, int], timeout: float) -> socket.socket:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    sentence = r"^The Ray cluster at '10\.0\.0\.1:6379' cannot be reached: no answer in 10 s\.$"
    with pytest.raises(StorageError, match=sentence):
        ray_runner._connect("10.0.0.1:6379")


def test_a_runner_without_an_address_starts_a_ray_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """And joins none that is, or was, on this machine."""
    asked: dict[str, Any] = {}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    ray_runner._connect(None)
    assert asked["address"] == "local"
