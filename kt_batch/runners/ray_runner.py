"""Units on a Ray cluster: tasks for short stages, a pool of actors where a worker is costly to set up."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from kt_batch.errors import KtBatchError, StorageError

U = TypeVar("U")
R = TypeVar("R")

_KEPT: dict[bytes, Any] = {}  # a task process keeps its last worker, by the factory's own bytes


class RayRunner:
    """Runs units on the cluster at `address`, or on one started in this process when it is None.

    Each worker takes `threads` CPUs; `workers` bounds how many run at once (None: what the cluster has room for).
    """

    def __init__(self, address: str | None, workers: int | None, threads: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._joined = not ray.is_initialized()
        if self._joined:
            _connect(address)
        nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        self.workers, self.cpus = share_out(nodes, workers, threads)

    def run(self, factory: Callable[[], Callable[[U], R]], units: Sequence[U], *, keep_worker: bool) -> Iterator[R]:
        """Yield results as they are finished, in any order. With `keep_worker` the units go to a pool of actors that
        make their worker once; otherwise to tasks. An error of a unit is raised here as it was there."""
        if keep_worker:
            yield from self._run_actors(factory, units)
        else:
            yield from self._run_tasks(factory, units)

    def _run_tasks(self, factory: Callable[[], Callable[[U], R]], units: Sequence[U]) -> Iterator[R]:
        task = ray.remote(_run_unit).options(num_cpus=self.cpus, max_retries=3)
        shared = ray.put(factory)
        waiting = list(reversed(units))
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < self.workers:
                running.append(task.remote(shared, waiting.pop()))
            done, running = ray.wait(running, num_returns=1)
            yield _get(done[0])

    def _run_actors(self, factory: Callable[[], Callable[[U], R]], units: Sequence[U]) -> Iterator[R]:
        actor = ray.remote(_Actor).options(num_cpus=self.cpus, max_restarts=-1, max_task_retries=-1)
        pool: list[Any] = [actor.remote(factory) for _ in range(min(self.workers, len(units)))]
        waiting = list(reversed(units))
        running: dict[Any, Any] = {}
        try:
            for member in pool:
                running[member.run.remote(waiting.pop())] = member
            while running:
                done, _ = ray.wait(list(running), num_returns=1)
                member = running.pop(done[0])
                if waiting:
                    running[member.run.remote(waiting.pop())] = member
                yield _get(done[0])
        finally:
            for member in pool:
                ray.kill(member)

    def close(self) -> None:
        """Leave the cluster if this runner joined it; one that was started here ends with it."""
        if self._joined:
            ray.shutdown()


def share_out(nodes: Sequence[int], workers: int | None, threads: int) -> tuple[int, float]:
    """How many workers run at once on nodes of so many CPUs, and how many CPUs Ray is to set aside for each.

    A worker must fit on one node, whatever number of threads was asked for: one that fits nowhere would wait for ever.
    """
    largest = max([1, *nodes])
    cpus = min(threads, largest)
    if workers is None:
        return max(1, sum(node // cpus for node in nodes)), float(cpus)
    share = min(cpus, max(1, sum(nodes)) / workers)
    return workers, float(int(share)) if share >= 1 else share  # above 1, Ray takes whole CPUs alone


class _Actor:
    def __init__(self, factory: Callable[[], Callable[[Any], Any]]) -> None:
        self.factory = factory
        self.worker: Callable[[Any], Any] | None = None

    def run(self, unit: Any) -> Any:
        """The worker is made here and not in the constructor, so that its error is raised as itself."""
        self.worker = self.worker or self.factory()
        return self.worker(unit)


def _run_unit(factory: Callable[[], Callable[[Any], Any]], unit: Any) -> Any:
    key = ray.cloudpickle.dumps(factory)
    if key not in _KEPT:
        _KEPT.clear()
        _KEPT[key] = factory()
    return _KEPT[key](unit)


def _get(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        # The error itself: what Ray makes of it has a traceback for its message.
        raise (error.cause if isinstance(error.cause, Exception) else error) from error
    except RayError as error:
        raise KtBatchError(
            f"A worker of the Ray cluster was lost ({type(error).__name__}: {_first_line(error)}); "
            "start the same command again to go on."
        ) from error


def _connect(address: str | None) -> None:
    try:
        if address is not None or "RAY_ADDRESS" in os.environ:
            ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        place = address or os.environ.get("RAY_ADDRESS", "this machine")
        raise StorageError(f"The Ray cluster at '{place}' cannot be reached: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    """Ray's messages go on with logs and tracebacks."""
    return (str(error).strip() or "no reason given").splitlines()[0].rstrip(" .:")
