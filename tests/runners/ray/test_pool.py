"""The messages and the end of a pool without workers, on a real local Ray."""

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
    """Create a pool and stop it afterwards."""
    opened = Pool(share if callable(share) else lambda: share, options.pop("deadline", 60.0), GracefulShutdown())
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report the lack of workers immediately and at every check."""
    monkeypatch.setattr(pool_state, "STARTUP_REPORT_SECONDS", 1.0)
    monkeypatch.setattr(pool_state, "STARTUP_REPORT_INTERVAL_SECONDS", 1.0)


# ---- no worker starts ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_a_request_that_fits_no_node_ends_the_run_with_one_sentence() -> None:
    sentence = (
        r"^No node of the Ray cluster can hold a worker: one asks for 999 CPUs, the Ray cluster has 1 node, "
        r"the largest with \d+ CPUs, and no autoscaler adds others; join a node"
    )
    with pool_of((1, 999.0)) as opened, pytest.raises(KtBatchError, match=sentence):
        list(opened.run(squares, [2], None))


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_with_an_autoscaler_a_pool_reports_what_it_waits_for_and_waits(
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
def test_a_pool_waits_for_a_busy_cluster(caplog: pytest.LogCaptureFixture) -> None:
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
    """An actor that holds its CPUs until it is killed."""

    def ready(self) -> bool:
        return True


def test_workers_that_request_too_much_are_requested_again_for_a_smaller_node() -> None:
    shares = iter([(1, 999.0)])
    with pool_of(lambda: next(shares, (1, 1.0))) as opened:
        assert list(opened.run(squares, [4], None)) == [16]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, False),  # no monitor, or no report yet
        ({"autoscaler_report": None}, False),
        ({"autoscaler_report": {"active_nodes": {}}}, False),
        ({"autoscaler_report": {"active_nodes": {"node_ab": 1}}}, True),
        ({"autoscaler_report": {"active_nodes": {"node_ab": 1, "workers": 3}}}, False),
    ],
)
def test_an_autoscaler_is_recognised_by_the_names_of_its_nodes(status: dict[str, Any], expected: bool) -> None:
    assert nodes_join_by_hand([{"NodeID": "ab"}, {"NodeID": "cd"}], status) is expected


class _Stillborn(actors.WorkerActor):
    """An actor whose process ends during startup."""

    def __init__(self, number: int, monitor: Any) -> None:
        os._exit(1)


def test_workers_that_die_during_startup_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
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
    """Return a worker that writes a file for each attempt; part `deadly` ends its process."""

    def worker(unit: Parts, beat: Heartbeat) -> int:
        (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        for part in range(unit.count):
            beat(str(part))
            if str(part) == deadly:
                os._exit(1)
        return unit.count

    return worker


@pytest.mark.slow
def test_the_part_begun_last_is_blamed_even_among_quick_parts(tmp_path: Path) -> None:
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
def test_the_deadline_applies_to_a_part_of_a_unit_and_not_to_the_whole() -> None:
    with pool_of((1, 1.0), deadline=4.0) as opened:
        assert list(opened.run(partial(slow, 1.0), [8], None)) == [8]


@pytest.mark.slow
def test_a_silent_unit_without_parts_is_abandoned_after_its_deadline() -> None:
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


def test_an_address_without_a_cluster_is_reported_immediately() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    sentence = f"^The Ray cluster at '127.0.0.1:{port}' cannot be reached: Connection refused"
    with pytest.raises(StorageError, match=sentence):
        ray_runner._Connection(f"127.0.0.1:{port}")


def test_a_cluster_behind_a_firewall_that_drops_packets_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(address: tuple[str, int], timeout: float) -> socket.socket:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    sentence = r"^The Ray cluster at '10\.0\.0\.1:6379' cannot be reached: no answer in 10 s\.$"
    with pytest.raises(StorageError, match=sentence):
        ray_runner._Connection("10.0.0.1:6379")


def test_a_runner_without_an_address_starts_its_own_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """It joins no present or former Ray of this machine."""
    asked: dict[str, Any] = {}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    ray_runner._Connection(None)
    assert asked["address"] == "local"


# ---- heartbeats ------------------------------------------------------------------------------------------------------


class Counting(actors.HeartbeatMonitor):
    """Keeps the parts of all heartbeats."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def record(self, worker: int, heartbeat: actors.LastHeartbeat, events: list[Any]) -> None:
        """Record a heartbeat."""
        self.parts.append(heartbeat[2])
        super().record(worker, heartbeat, events)

    def all_parts(self) -> list[str]:
        """Return the parts in order."""
        return self.parts


def test_in_isolation_each_part_is_reported_but_not_every_heartbeat_of_one() -> None:
    # A cluster of patches is packed with a heartbeat for each leaf: a message for each took a third of the time.
    def unit(_: str, beat: Heartbeat) -> None:
        for part in ["", *["a"] * 2000, "b", "a", "b", "b"]:
            assert beat(part)

    monitor: Any = ray.remote(Counting).remote()
    worker = actors.WorkerActor(0, monitor)
    worker.run(0, 0, [ray.put(lambda: unit)], "unit", isolated=True)
    reported = ray.get(monitor.all_parts.remote())
    changes = [part for number, part in enumerate(reported) if number == 0 or part != reported[number - 1]]
    assert changes == ["", "a", "b", "a", "b"]
    assert len(reported) < 200
