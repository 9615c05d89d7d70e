"""The runner contract with a pool of actors on a real local Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from kt_batch.errors import DamagedError, KtBatchError, Reason, RejectError, StoppedError, UsageError
from kt_batch.runners.ray.runner import RayRunner, share_out
from kt_batch.runners.shutdown import GracefulShutdown
from tests.support.ray_local import ray_environment, ray_here, ray_runner  # noqa: F401  # the fixtures

Heartbeat = Callable[[str], bool]
Worker = Callable[[int, Heartbeat], Any]
SHORT = 1.5  # seconds; the deadline of runners whose workers are to be found silent


def squares() -> Worker:
    return lambda unit, _: unit * unit


def breaking(error: Exception) -> Worker:
    def worker(unit: int, _: Heartbeat) -> int:
        if unit == 2:
            raise error
        return unit

    return worker


def unmakeable() -> Worker:
    raise UsageError("the worker cannot be made")


def counted(folder: Path) -> Worker:
    """Write a file for each worker created; units return the id of their process."""
    (folder / f"{os.getpid()}-{len(list(folder.iterdir()))}").touch()
    return lambda unit, _: (unit, os.getpid())


@dataclass(frozen=True)
class Letters:
    """A unit of parts; a worker returns the parts it has done."""

    parts: str
    quarantined: tuple[str, ...] = ()


def without(unit: Letters, part: str, why: str) -> Letters:
    return replace(unit, quarantined=(*unit.quarantined, f"{part}: {why}"))


def ended_by(
    *, deadly: str = "", endless: str = "", at_first: Path | None = None
) -> Callable[[Letters, Heartbeat], Any]:
    """Return a worker whose process some parts kill and others stop, perhaps only once."""

    def worker(unit: Letters, beat: Heartbeat) -> str:
        for part in unit.parts:
            beat(part)
            if any(word.startswith(part) for word in unit.quarantined):
                continue
            if at_first is not None and (at_first / part).exists():
                continue
            if at_first is not None:
                (at_first / part).touch()
            if part in deadly:
                os._exit(1)
            while part in endless:
                time.sleep(1)
        return unit.parts + "".join(f" without {word}" for word in unit.quarantined)

    return worker


# ---- work ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 7])
def test_every_unit_returns_its_result(ray_runner: RayRunner, count: int) -> None:  # noqa: F811
    found = ray_runner.run(squares, range(count))
    assert sorted(found) == [unit * unit for unit in range(count)]


def test_a_process_creates_its_worker_once(ray_runner: RayRunner, tmp_path: Path) -> None:  # noqa: F811
    results = list(ray_runner.run(partial(counted, tmp_path), range(12)))
    assert sorted(unit for unit, _ in results) == list(range(12))
    workers = [path.name.split("-")[0] for path in tmp_path.iterdir()]
    assert sorted(workers) == sorted({str(process) for _, process in results})


def test_the_next_stage_reuses_the_processes(ray_runner: RayRunner, tmp_path: Path) -> None:  # noqa: F811
    processes = []
    for stage in ("first", "second"):
        (tmp_path / stage).mkdir()
        processes.append({process for _, process in ray_runner.run(partial(counted, tmp_path / stage), range(40))})
    assert processes[0] & processes[1]
    assert len(list((tmp_path / "second").iterdir())) == len(processes[1])  # with workers of their own


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [UsageError, KtBatchError, DamagedError])
def test_a_user_error_keeps_its_type_and_message(ray_runner: RayRunner, kind: type[KtBatchError]) -> None:  # noqa: F811
    factory = partial(breaking, kind("two is not possible"))
    with pytest.raises(KtBatchError) as raised:
        list(ray_runner.run(factory, [1, 2, 3]))
    assert type(raised.value) is kind
    assert str(raised.value) == "two is not possible"


def test_a_reject_keeps_its_reason(ray_runner: RayRunner) -> None:  # noqa: F811
    factory = partial(breaking, RejectError(Reason.EMPTY, "zero bytes"))
    with pytest.raises(RejectError) as raised:
        list(ray_runner.run(factory, [2]))
    assert (raised.value.reason, raised.value.message) == (Reason.EMPTY, "zero bytes")


def test_a_bug_keeps_its_type_and_is_one_line(ray_runner: RayRunner) -> None:  # noqa: F811
    factory = partial(breaking, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError) as raised:
        list(ray_runner.run(factory, [2]))
    assert str(raised.value) == "a bug"
    assert "Traceback" not in str(raised.value)
    assert "test_runner.py" in str(raised.value.__cause__)  # where it was, for --debug


def test_an_error_of_the_factory_keeps_its_type_and_message(ray_runner: RayRunner) -> None:  # noqa: F811
    with pytest.raises(UsageError, match="the worker cannot be made"):
        list(ray_runner.run(unmakeable, [1]))


def test_the_runner_works_after_an_error(ray_runner: RayRunner) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="a bug"):
        list(ray_runner.run(partial(breaking, ValueError("a bug")), range(8)))
    assert sorted(ray_runner.run(squares, range(8))) == [unit * unit for unit in range(8)]


# ---- workers that are lost -------------------------------------------------------------------------------------------


def test_another_process_does_the_unit_of_a_dead_one(ray_runner: RayRunner, tmp_path: Path) -> None:  # noqa: F811
    factory = partial(lambda folder: ended_by(deadly="b", at_first=folder), tmp_path)
    units = [Letters("abc"), Letters("de")]
    assert sorted(ray_runner.run(factory, units, without)) == ["abc", "de"]


def test_a_part_that_kills_every_process_is_quarantined_and_the_rest_of_its_unit_done(
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    units = [Letters("abc"), Letters("de"), Letters("f")]
    first, *others = sorted(ray_runner.run(lambda: ended_by(deadly="b"), units, without))
    assert first.startswith("abc without b: the process that worked on it was lost 3 times: it died (")
    assert others == ["de", "f"]


def test_two_deadly_parts_of_one_unit_are_both_found(ray_runner: RayRunner) -> None:  # noqa: F811
    (found,) = ray_runner.run(lambda: ended_by(deadly="ac"), [Letters("abc")], without)
    assert found.count(" without ") == 2


def test_a_part_that_never_ends_is_quarantined(ray_runner: RayRunner) -> None:  # noqa: F811
    runner = RayRunner(None, None, 1, deadline=SHORT)
    (found,) = runner.run(lambda: ended_by(endless="b"), [Letters("abc")], without)
    runner.close()
    assert found == "abc without b: the process that worked on it was lost 3 times: it was silent for 1.5 s"


def test_without_a_part_to_quarantine_the_run_ends_with_one_sentence(ray_runner: RayRunner) -> None:  # noqa: F811
    sentence = (
        r"^A worker of the Ray cluster was lost, 3 times on the same work: it died \(.*\); start the same command"
    )
    with pytest.raises(KtBatchError, match=sentence):
        list(ray_runner.run(lambda: ended_by(deadly="b"), [Letters("abc")]))


def test_a_pool_that_shuts_down_finishes_running_units(ray_runner: RayRunner) -> None:  # noqa: F811
    shutdown = GracefulShutdown()
    runner = RayRunner(None, 1, 1, shutdown)
    results = runner.run(squares, [2, 3, 4])
    assert next(results) == 4
    shutdown.requested = True
    rest: list[int] = []
    with pytest.raises(StoppedError, match=r"^stopped as asked"):
        rest.extend(results)
    runner.close()
    assert rest in ([], [9])  # one may have been begun


@pytest.mark.slow
def test_prometheus_reads_the_metrics_of_a_pool_from_the_agent_of_ray(ray_runner: RayRunner) -> None:  # noqa: F811
    list(ray_runner.run(squares, range(5)))
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    give_up = time.monotonic() + 60
    found: list[str] = []
    while not found and time.monotonic() < give_up:
        time.sleep(1)
        with urllib.request.urlopen(address, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = [line for line in lines if line.startswith("ray_kt_batch_units_done")]
    assert found
    assert float(found[0].split()[-1]) >= 5


WARM_UP = """
import sys
import time
import ray
from kt_batch.runners.ray.runner import RayRunner

runner = RayRunner(None, 1, 1, imports=["wave"])
before = ray.available_resources()["CPU"]
runner.warm_up()
give_up = time.monotonic() + 60
while ray.available_resources().get("CPU", 0) > before - 1 and time.monotonic() < give_up:
    time.sleep(0.2)
print(before - ray.available_resources().get("CPU", 0))
other = RayRunner(None, 1, 1)  # this one has joined a Ray that is there already
other.warm_up()
time.sleep(2)
print(before - ray.available_resources().get("CPU", 0))
print(*runner.run(lambda: lambda unit, beat: (unit * unit, "wave" in sys.modules), [2, 3]))
runner.close()
"""


@pytest.mark.slow
def test_workers_of_a_local_ray_start_before_the_work_and_of_a_joined_one_with_it() -> None:
    with ray_environment() as (environment, _):
        told = subprocess.run(
            [sys.executable, "-c", WARM_UP],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    assert told.stdout.split("\n") == ["1.0", "1.0", "(4, True) (9, True)", ""]


# ---- joining ---------------------------------------------------------------------------------------------------------


def test_a_runner_leaves_a_ray_that_it_did_not_start_running(ray_runner: RayRunner) -> None:  # noqa: F811
    RayRunner(None, None, 1).close()
    assert ray.is_initialized()
    assert sorted(ray_runner.run(squares, [2])) == [4]


@pytest.mark.parametrize(
    ("nodes", "workers", "threads", "expected"),
    [
        ([2], None, 2, (1, 2.0)),
        ([2], None, 1, (2, 1.0)),
        ([8, 8], None, 2, (8, 2.0)),
        ([3, 3], None, 2, (2, 2.0)),  # a worker runs on one node: 3 CPUs hold one worker of 2
        ([2, 2, 2], None, 4, (3, 2.0)),  # what fits nowhere would wait for ever
        ([2], 4, 2, (4, 0.5)),
        ([4], 3, 2, (3, 1.0)),  # 4/3, but above 1 Ray takes whole CPUs alone
        ([2], 1, 2, (1, 2.0)),
        ([0, 4], None, 2, (2, 2.0)),  # a head node often gives none
        ([], None, 2, (1, 2.0)),  # the request to an autoscaler
        ([0], None, 4, (1, 4.0)),
    ],
)
def test_the_number_of_workers_fits_the_processors(
    nodes: list[int], workers: int | None, threads: int, expected: tuple[int, float]
) -> None:
    assert share_out(nodes, workers, threads) == expected
