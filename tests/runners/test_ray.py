"""The same promises from tasks and actors of a real Ray on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import ray

from kt_batch.errors import DamagedError, KtBatchError, Reason, RejectError, UsageError
from kt_batch.runners.ray_runner import RayRunner, share_out
from tests.ray_local import ray_runner  # noqa: F401  # the fixture

both_ways = pytest.mark.parametrize("keep_worker", [False, True])


def squares() -> Callable[[int], int]:
    return lambda unit: unit * unit


def breaking(error: Exception) -> Callable[[int], int]:
    def worker(unit: int) -> int:
        if unit == 2:
            raise error
        return unit

    return worker


def unmakeable() -> Callable[[int], int]:
    raise UsageError("the worker cannot be made")


def counted(folder: Path) -> Callable[[int], tuple[int, int]]:
    """Leaves a file for each worker made; units name the process they ran in."""
    (folder / f"{os.getpid()}-{len(list(folder.iterdir()))}").touch()
    return lambda unit: (unit, os.getpid())


def dying(unit: int) -> int:
    os._exit(1)


# ---- work ------------------------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("count", [0, 1, 7])
def test_every_unit_has_its_result(ray_runner: RayRunner, keep_worker: bool, count: int) -> None:  # noqa: F811
    found = ray_runner.run(squares, range(count), keep_worker=keep_worker)
    assert sorted(found) == [unit * unit for unit in range(count)]


@both_ways
def test_a_process_makes_its_worker_once(ray_runner: RayRunner, tmp_path: Path, keep_worker: bool) -> None:  # noqa: F811
    results = list(ray_runner.run(partial(counted, tmp_path), range(12), keep_worker=keep_worker))
    assert sorted(unit for unit, _ in results) == list(range(12))
    workers = [path.name.split("-")[0] for path in tmp_path.iterdir()]
    assert sorted(workers) == sorted({str(process) for _, process in results})


def test_tasks_of_another_stage_get_a_worker_of_their_own(ray_runner: RayRunner) -> None:  # noqa: F811
    first = list(ray_runner.run(partial(breaking, ValueError()), [1], keep_worker=False))
    second = list(ray_runner.run(squares, [3], keep_worker=False))
    assert (first, second) == ([1], [9])


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep_worker", "kind"), [(False, UsageError), (False, KtBatchError), (True, DamagedError)])
def test_an_error_for_a_person_arrives_as_itself(
    ray_runner: RayRunner,  # noqa: F811
    keep_worker: bool,
    kind: type[KtBatchError],
) -> None:
    factory = partial(breaking, kind("two is not possible"))
    with pytest.raises(KtBatchError) as raised:
        list(ray_runner.run(factory, [1, 2, 3], keep_worker=keep_worker))
    assert type(raised.value) is kind
    assert str(raised.value) == "two is not possible"


def test_a_reject_keeps_its_reason(ray_runner: RayRunner) -> None:  # noqa: F811
    factory = partial(breaking, RejectError(Reason.EMPTY, "zero bytes"))
    with pytest.raises(RejectError) as raised:
        list(ray_runner.run(factory, [2], keep_worker=False))
    assert (raised.value.reason, raised.value.message) == (Reason.EMPTY, "zero bytes")


@both_ways
def test_a_bug_arrives_as_itself_and_in_one_line(ray_runner: RayRunner, keep_worker: bool) -> None:  # noqa: F811
    factory = partial(breaking, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError) as raised:
        list(ray_runner.run(factory, [2], keep_worker=keep_worker))
    assert str(raised.value) == "a bug"
    assert "Traceback" not in str(raised.value)
    assert "test_ray.py" in str(raised.value.__cause__)  # where it was, for --debug


@both_ways
def test_an_error_of_the_factory_arrives_as_itself(ray_runner: RayRunner, keep_worker: bool) -> None:  # noqa: F811
    with pytest.raises(UsageError, match="the worker cannot be made"):
        list(ray_runner.run(unmakeable, [1], keep_worker=keep_worker))


def test_a_task_whose_process_always_dies_is_given_up_with_a_sentence(ray_runner: RayRunner) -> None:  # noqa: F811
    with pytest.raises(KtBatchError, match=r"^A worker of the Ray cluster was lost \(WorkerCrashedError: .*\); start"):
        list(ray_runner.run(lambda: dying, [1], keep_worker=False))


def test_after_an_error_the_runner_goes_on(ray_runner: RayRunner) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="a bug"):
        list(ray_runner.run(partial(breaking, ValueError("a bug")), range(8), keep_worker=True))
    assert sorted(ray_runner.run(squares, range(8), keep_worker=True)) == [unit * unit for unit in range(8)]


# ---- joining ---------------------------------------------------------------------------------------------------------


def test_a_runner_leaves_a_ray_that_it_did_not_join(ray_runner: RayRunner) -> None:  # noqa: F811
    RayRunner(None, None, 1).close()
    assert ray.is_initialized()
    assert sorted(ray_runner.run(squares, [2], keep_worker=False)) == [4]


@pytest.mark.parametrize(
    ("nodes", "workers", "threads", "expected"),
    [
        ([2], None, 2, (1, 2.0)),
        ([2], None, 1, (2, 1.0)),
        ([8, 8], None, 2, (8, 2.0)),
        ([3, 3], None, 2, (2, 2.0)),  # a worker lies on one node: 3 CPUs hold one of 2
        ([2, 2, 2], None, 4, (3, 2.0)),  # what fits nowhere would wait for ever
        ([2], 4, 2, (4, 0.5)),
        ([4], 3, 2, (3, 1.0)),  # 4/3, but above 1 Ray takes whole CPUs alone
        ([2], 1, 2, (1, 2.0)),
        ([0, 4], None, 2, (2, 2.0)),  # a head node often gives none
        ([], None, 2, (1, 1.0)),
    ],
)
def test_workers_share_the_processors(
    nodes: list[int], workers: int | None, threads: int, expected: tuple[int, float]
) -> None:
    assert share_out(nodes, workers, threads) == expected
