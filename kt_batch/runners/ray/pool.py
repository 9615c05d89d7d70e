"""A pool of Ray actors that executes the instructions of `runners/pool_state.py`.

Ray's own retries are off. They do not know about images: an image that kills its process would kill every process it is
given to.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, assert_never

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from kt_batch.errors import KtBatchError
from kt_batch.events import log_event, repeat
from kt_batch.runners import pool_events
from kt_batch.runners.base import PartSeen
from kt_batch.runners.local import unit_name
from kt_batch.runners.pool_state import PoolState
from kt_batch.runners.ray.actors import HEARTBEAT_TIMEOUT_SECONDS, HeartbeatMonitor, WorkerActor, on_this_node
from kt_batch.runners.ray.metrics import PoolMetrics
from kt_batch.runners.ray.startup import report_startup_delay
from kt_batch.runners.shutdown import GracefulShutdown

POLL_SECONDS = 0.5  # longest wait for an answer of a worker
CLUSTER_POLL_SECONDS = 2.0  # between two looks at nodes and heartbeats

Quarantine = Callable[[Any, str, str], Any]


@dataclass
class _Handle:
    """An actor and the call that it has not answered. Without an assignment, that is the call of `ready`."""

    actor: Any
    call: Any
    assignment: pool_events.AssignUnit | None = None


@dataclass
class _Stage:
    """The units of a stage by number. `factory` is a reference to what makes its workers."""

    number: int
    factory: Any
    units: list[Any]
    quarantine: Quarantine | None

    def leave_out(self, unit: int, part: str, reason: str) -> None:
        """Replace a unit by one without `part`."""
        if self.quarantine is None:
            raise ValueError("The units of this stage cannot do without a part.")
        self.units[unit] = self.quarantine(self.units[unit], part, reason)


class Pool:
    """Actors that live until `close`, through many stages.

    Args:
        capacity: Returns how many workers there is room for now, and the CPUs of each.
        deadline: Seconds that a worker may be silent over one part of a unit.
        shutdown: Tells whether shutdown is requested.
        gpus: The GPUs of each worker.
        imports: Modules that each worker imports before its first unit.
    """

    def __init__(
        self,
        capacity: Callable[[], tuple[int, float]],
        deadline: float,
        shutdown: GracefulShutdown,
        gpus: float = 0.0,
        imports: Sequence[str] = (),
    ) -> None:
        self._capacity = capacity
        self._imports = list(imports)
        self._gpus = gpus
        self._shutdown = shutdown
        self._state = PoolState(*capacity(), deadline)
        self._handles: dict[int, _Handle] = {}
        self._stage = _Stage(-1, None, [], None)
        self._stage_numbers = itertools.count()
        self._metrics = PoolMetrics()
        self._monitor: Any = None
        self._cluster_seen_at = 0.0
        self.on_part: PartSeen | None = None

    def run(self, factory: Callable[[], Any], units: Sequence[Any], quarantine: Quarantine | None) -> Iterator[Any]:
        """Yield results as units finish, in any order. An error of a unit is raised as it was there.

        `quarantine(unit, part, reason)` returns the unit to run instead, without a part that has cost too many workers.

        Raises:
            KtBatchError: Units cannot be finished: worker after worker is lost and no quarantine helps, or no worker
                can ever come up.
            StoppedError: Shutdown was requested, and the units that had begun are finished.
        """
        self._stage = _Stage(next(self._stage_numbers), ray.put(factory), list(units), quarantine)
        names = tuple(unit_name(unit) for unit in units)
        self._report(pool_events.StageStarted(time.monotonic(), names, can_quarantine=quarantine is not None))
        try:
            while not self._state.finished:
                if self._shutdown.requested:
                    self._report(pool_events.ShutdownRequested())
                self._report(pool_events.Tick(time.monotonic()))
                self._show_load()
                yield from self._collect()
                self._watch_cluster()
        finally:
            self._report(pool_events.StageEnded())
            self._show_load()

    def warm_up(self, workers: int) -> None:
        """Start up to so many workers before there are units."""
        self._report(pool_events.WarmUpRequested(workers))

    def close(self) -> None:
        """End all actors."""
        self._report(pool_events.PoolClosed())
        if self._monitor is not None:
            _kill(self._monitor)
            self._monitor = None

    def _report(self, event: pool_events.PoolEvent) -> list[Any]:
        """Report an event to the state machine, execute its instructions and return the results to yield."""
        results = []
        for instruction in self._state.handle(event):
            if isinstance(instruction, pool_events.YieldResult):
                self._metrics.units.inc()
                results.append(instruction.result)
            else:
                self._execute(instruction)
        return results

    def _execute(self, instruction: pool_events.Effect) -> None:
        match instruction:
            case pool_events.StartWorker():
                self._start_worker(instruction)
            case pool_events.AssignUnit():
                self._assign(instruction)
            case pool_events.StopWorker():
                _kill(self._handles.pop(instruction.worker).actor)
                if instruction.lost:
                    self._metrics.lost.inc()
            case pool_events.QuarantinePart(unit, part, reason):
                self._metrics.quarantined.inc()
                self._stage.leave_out(unit, part, reason)
            case pool_events.LogEvent(event, fields, message):
                log_event(event, message, logging.WARNING if instruction.warning else logging.INFO, **fields)
            case pool_events.ReportStartupDelay(waited, cpus):
                report_startup_delay(waited, cpus, self._gpus)
            case pool_events.StopRun():
                self._shutdown.check()
            case pool_events.Fail(message):
                raise KtBatchError(message)
            case _:
                assert_never(instruction)

    def _start_worker(self, instruction: pool_events.StartWorker) -> None:
        if self._monitor is None:
            options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": on_this_node()}
            self._monitor = ray.remote(HeartbeatMonitor).options(**options).remote()
        resources = {"num_cpus": instruction.cpus, "num_gpus": self._gpus}
        actor: Any = ray.remote(WorkerActor).options(**resources).remote(instruction.worker, self._monitor)
        self._handles[instruction.worker] = _Handle(actor, actor.ready.remote(self._imports))

    def _assign(self, assignment: pool_events.AssignUnit) -> None:
        handle, stage = self._handles[assignment.worker], self._stage
        handle.assignment = assignment
        handle.call = handle.actor.run.remote(
            assignment.assignment, stage.number, [stage.factory], stage.units[assignment.unit], assignment.isolated
        )

    def _collect(self) -> list[Any]:
        """Wait briefly for any worker to answer and return the results to yield."""
        calls = {handle.call: worker for worker, handle in self._handles.items() if handle.call is not None}
        if not calls:
            time.sleep(POLL_SECONDS)
            return []
        answered, _ = ray.wait(list(calls), num_returns=1, timeout=POLL_SECONDS)
        return [result for call in answered for result in self._report(self._receive(calls[call]))]

    def _receive(self, worker: int) -> pool_events.PoolEvent:
        """Take the answer of a worker and say what it means."""
        handle = self._handles[worker]
        try:
            answer = ray.get(handle.call)
        except RayTaskError as error:
            self._read_heartbeats()  # brings the last log events of the unit
            # Raise the error itself: Ray's derived error has a traceback for its message.
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        except RayError as error:
            preempted = bool(getattr(error, "preempted", False))
            heartbeats_known = handle.assignment is not None and not preempted and self._read_heartbeats()
            return pool_events.WorkerLost(worker, first_line(error), preempted, heartbeats_known, _alive_nodes())
        assignment, handle.call, handle.assignment = handle.assignment, None, None
        if assignment is None:
            return pool_events.WorkerReady(worker, *answer)
        result, events = answer
        if assignment.isolated:
            self._read_heartbeats()  # brings the log events before those of the answer
        repeat(events)
        return pool_events.UnitDone(worker, result)

    def _watch_cluster(self) -> None:
        """Look from time to time for workers that are silent or whose node is gone: their calls may never return."""
        now = time.monotonic()
        if now - self._cluster_seen_at < CLUSTER_POLL_SECONDS:
            return
        self._cluster_seen_at = now
        room, cpus = self._capacity()
        self._read_heartbeats()
        self._report(pool_events.ClusterSeen(now, _alive_nodes(), room, cpus))

    def _read_heartbeats(self) -> bool:
        """Report all heartbeats and repeat the log events that came with them; return whether there were any.

        There are none when the monitor is down or has just restarted.
        """
        try:
            heartbeats, events = ray.get(self._monitor.read.remote(), timeout=HEARTBEAT_TIMEOUT_SECONDS)
        except (RayActorError, GetTimeoutError):
            return False
        repeat(events)
        now = time.monotonic()
        for worker, heartbeat in heartbeats.items():
            self._report(pool_events.HeartbeatSeen(now, worker, *heartbeat))
            self._report_part(worker, *heartbeat)
        return bool(heartbeats)

    def _report_part(self, worker: int, assignment: int, count: int, part: str) -> None:  # noqa: ARG002
        handle = self._handles.get(worker)
        current = handle.assignment if handle else None
        if self.on_part and current and current.assignment == assignment:
            self.on_part(unit_name(self._stage.units[current.unit]), part)

    def _show_load(self) -> None:
        self._metrics.busy.set(self._state.busy)
        self._metrics.waiting.set(self._state.waiting)


def first_line(error: Exception) -> str:
    """Return the first line of Ray's message, without the logs and tracebacks that follow."""
    return (str(error).strip() or "no reason given").splitlines()[0].rstrip(" .:")


def _kill(actor: Any) -> None:
    with suppress(RayError, ValueError):  # the actor may be gone, or Ray itself
        ray.kill(actor)


def _alive_nodes() -> frozenset[str]:
    """Return the ids of the nodes that the cluster takes for alive."""
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])
