"""Decide what a pool of workers does next: a pure state machine, events in and instructions out.

The machine does no I/O, has no clock (events carry the time) and writes no log. An executor such as
`runners/ray/pool.py` reports events, executes the instructions in their order, and stops at the first `Fail` or
`StopRun`. A unit that raises ends the run in the executor, so it is no event.

- The first loss of a unit is blamed on nothing: without isolation the last heartbeat may be out of date.
- The retry runs in isolation and comes before all waiting units. A loss in isolation is a strike against the part.
- A part with `STRIKES_TO_QUARANTINE` strikes on nodes that are still alive is quarantined: the unit runs without it.
- `CIRCUIT_BREAKER_LIMIT` quarantines, or `FALSE_START_LIMIT` lost workers that had begun nothing, without one finished
  unit between them, end the run: then the images are not the cause.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import singledispatchmethod

from kt_batch.runners.pool_events import (
    AssignUnit,
    ClusterSeen,
    Fail,
    HeartbeatSeen,
    Instruction,
    LogEvent,
    PoolClosed,
    PoolEvent,
    QuarantinePart,
    ReportStartupDelay,
    ShutdownRequested,
    StageEnded,
    StageStarted,
    StartWorker,
    StopRun,
    StopWorker,
    Tick,
    UnitDone,
    WarmUpRequested,
    WorkerLost,
    WorkerReady,
    YieldResult,
)

STRIKES_TO_QUARANTINE = 3
CIRCUIT_BREAKER_LIMIT = 5
FALSE_START_LIMIT = 20
STARTUP_DEADLINE_FACTOR = 10  # deadlines that a worker has to load models or to stage an index
STARTUP_REPORT_SECONDS = 60.0  # without any worker, before the first report; a node's first start takes less
STARTUP_REPORT_INTERVAL_SECONDS = 600.0


@dataclass
class _Unit:
    """A unit that is not finished. `strikes`: for each part, the nodes of the workers lost over it in isolation."""

    number: int
    name: str
    isolated: bool
    tries: int = 0
    strikes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class _Worker:
    """A worker that was started. `node` is empty until it is ready, `unit` is None while it is idle.

    `heartbeats` and `part` describe the last heartbeat of the assignment, `active_at` the time it was seen.
    """

    number: int
    cpus: float
    node: str = ""
    name: str = ""
    unit: _Unit | None = None
    assignment: int = 0
    heartbeats: int = 0
    part: str = ""
    active_at: float = 0.0


class PoolState:
    """The state of a pool: its workers through all stages, and the unfinished units of the current stage.

    Args:
        room: The number of workers there is room for at first.
        cpus: The CPUs of a worker.
        deadline: Seconds without a heartbeat after which a worker that has begun its unit is lost.
    """

    def __init__(self, room: int, cpus: float, deadline: float) -> None:
        self._room = room
        self._cpus = cpus
        self._deadline = deadline
        self._workers: dict[int, _Worker] = {}  # in the order of their start
        self._waiting: deque[_Unit] = deque()
        self._can_quarantine = False
        self._shutdown_requested = False
        self._failed = False
        self._false_starts = self._quarantines = 0  # since the last finished unit
        self._worker_numbers = itertools.count()
        self._assignment_numbers = itertools.count(1)
        self._no_worker_since = 0.0
        self._delay_reported_at: float | None = None

    @property
    def busy(self) -> int:
        """The number of workers that are running a unit."""
        return sum(worker.unit is not None for worker in self._workers.values())

    @property
    def waiting(self) -> int:
        """The number of units that no worker is running."""
        return len(self._waiting)

    @property
    def finished(self) -> bool:
        """Return whether every unit of the stage is finished."""
        return not self._waiting and not self.busy

    def handle(self, event: PoolEvent) -> list[Instruction]:
        """Update the state and return the instructions to execute, in order."""
        return list(self._handle(event))

    @singledispatchmethod
    def _handle(self, event: PoolEvent) -> Iterator[Instruction]:
        raise TypeError(f"Not an event of a pool: {event!r}.")

    @_handle.register
    def _on_warm_up(self, event: WarmUpRequested) -> Iterator[Instruction]:
        yield from self._start_workers(event.workers)

    @_handle.register
    def _on_stage_started(self, event: StageStarted) -> Iterator[Instruction]:
        self._waiting = deque(
            _Unit(number, name, isolated=not event.can_quarantine) for number, name in enumerate(event.units)
        )
        self._can_quarantine = event.can_quarantine
        self._failed = False
        self._false_starts = self._quarantines = 0
        self._no_worker_since, self._delay_reported_at = event.now, None
        yield from ()

    @_handle.register
    def _on_stage_ended(self, _: StageEnded) -> Iterator[Instruction]:
        self._waiting.clear()
        for worker in [worker for worker in self._workers.values() if worker.unit]:
            yield self._stop(worker)

    @_handle.register
    def _on_pool_closed(self, _: PoolClosed) -> Iterator[Instruction]:
        for worker in list(self._workers.values()):
            yield self._stop(worker)

    @_handle.register
    def _on_shutdown_requested(self, _: ShutdownRequested) -> Iterator[Instruction]:
        self._shutdown_requested = True
        yield from ()

    @_handle.register
    def _on_tick(self, event: Tick) -> Iterator[Instruction]:
        if self._shutdown_requested:
            if not self.busy:
                yield StopRun()
            return
        yield from self._start_workers(self.waiting + self.busy)
        for worker in self._workers.values():
            if worker.node and worker.unit is None and self._waiting:
                yield from self._assign(worker, self._waiting.popleft(), event.now)

    @_handle.register
    def _on_cluster_seen(self, event: ClusterSeen) -> Iterator[Instruction]:
        self._room, self._cpus = event.room, event.cpus
        yield from self._watch_startup(event.now)
        for worker in list(self._workers.values()):
            allowed = self._deadline * (1 if worker.heartbeats > 1 else STARTUP_DEADLINE_FACTOR)
            if self._failed:
                return
            if worker.node and worker.node not in event.alive_nodes:
                yield from self._lose(worker, "", event.alive_nodes)
            elif not worker.node and worker.cpus > self._cpus:  # no node holds so many: ask for what there is
                yield self._stop(worker)
            elif worker.unit and event.now - worker.active_at > allowed:
                yield from self._lose(worker, f"it was silent for {allowed:g} s", event.alive_nodes)

    @_handle.register
    def _on_worker_ready(self, event: WorkerReady) -> Iterator[Instruction]:
        worker = self._workers[event.worker]
        worker.node, worker.name = event.node, event.name
        yield LogEvent("worker_ready", {"worker": event.name, "node": event.node})

    @_handle.register
    def _on_heartbeat_seen(self, event: HeartbeatSeen) -> Iterator[Instruction]:
        worker = self._workers.get(event.worker)
        current = worker is not None and worker.assignment == event.assignment
        if worker and current and (worker.heartbeats, worker.part) != (event.count, event.part):
            worker.heartbeats, worker.part, worker.active_at = event.count, event.part, event.now
        yield from ()

    @_handle.register
    def _on_unit_done(self, event: UnitDone) -> Iterator[Instruction]:
        self._workers[event.worker].unit = None
        self._false_starts = self._quarantines = 0
        yield YieldResult(event.result)

    @_handle.register
    def _on_worker_lost(self, event: WorkerLost) -> Iterator[Instruction]:
        worker = self._workers[event.worker]
        # A worker without a unit sends no heartbeats.
        blamed = not event.preempted and (worker.unit is None or event.heartbeats_known)
        yield from self._lose(worker, f"it died ({event.reason})" if blamed else "", event.alive_nodes)

    def _start_workers(self, wanted: int) -> Iterator[Instruction]:
        for _ in range(len(self._workers), min(wanted, self._room)):
            worker = _Worker(next(self._worker_numbers), self._cpus)
            self._workers[worker.number] = worker
            yield StartWorker(worker.number, worker.cpus)

    def _assign(self, worker: _Worker, unit: _Unit, now: float) -> Iterator[Instruction]:
        worker.unit, worker.assignment = unit, next(self._assignment_numbers)
        worker.heartbeats, worker.part, worker.active_at = 0, "", now
        unit.tries += 1
        yield LogEvent("unit_started", {"unit": unit.name, "worker": worker.name, "tries": unit.tries})
        yield AssignUnit(worker.number, unit.number, worker.assignment, unit.isolated)

    def _stop(self, worker: _Worker, *, lost: bool = False) -> StopWorker:
        del self._workers[worker.number]
        return StopWorker(worker.number, lost)

    def _watch_startup(self, now: float) -> Iterator[Instruction]:
        """Report from time to time that no worker is ready."""
        if any(worker.node for worker in self._workers.values()):
            self._no_worker_since, self._delay_reported_at = now, None
            return
        waited, reported_at = now - self._no_worker_since, self._delay_reported_at
        recent = reported_at is not None and now - reported_at < STARTUP_REPORT_INTERVAL_SECONDS
        if waited >= STARTUP_REPORT_SECONDS and not recent:
            self._delay_reported_at = now
            yield ReportStartupDelay(waited, self._cpus)

    def _lose(self, worker: _Worker, reason: str, alive_nodes: frozenset[str]) -> Iterator[Instruction]:
        """Give up a worker and retry its unit. An empty reason blames neither of them, as when the node is gone."""
        unit, message = worker.unit, reason or "its node is gone"
        yield self._stop(worker, lost=True)
        fields = {"worker": worker.name, "node": worker.node, "unit": unit and unit.name, "image": worker.part}
        yield LogEvent("worker_lost", fields, message, warning=True)
        if unit is None or worker.heartbeats == 0:
            yield from self._count_false_start(reason)
        elif reason and unit.isolated:
            unit.strikes[worker.part].append(worker.node)
            yield from self._judge(unit, worker.part, reason, alive_nodes)
        if unit is not None and not self._failed:
            unit.isolated = True
            self._waiting.appendleft(unit)
            yield LogEvent("unit_retried", {"unit": unit.name, "tries": unit.tries}, message, warning=True)

    def _count_false_start(self, reason: str) -> Iterator[Instruction]:
        self._false_starts += bool(reason)
        if self._false_starts >= FALSE_START_LIMIT:
            yield self._fail(f"Worker after worker is lost on the Ray cluster before it begins: {reason}.")

    def _judge(self, unit: _Unit, part: str, reason: str, alive_nodes: frozenset[str]) -> Iterator[Instruction]:
        """Quarantine a part that has enough strikes. A strike on a node that is gone by now was the node's fault."""
        if sum(node in alive_nodes for node in unit.strikes[part]) < STRIKES_TO_QUARANTINE:
            return
        if not self._can_quarantine or not part:
            yield self._fail(
                f"A worker of the Ray cluster was lost, {STRIKES_TO_QUARANTINE} times on the same work: {reason}; "
                "start the same command again to go on."
            )
            return
        self._quarantines += 1
        if self._quarantines >= CIRCUIT_BREAKER_LIMIT:
            yield self._fail(
                f"{CIRCUIT_BREAKER_LIMIT} images one after another cost worker after worker, and no unit is finished "
                f"between them, so it is not the images: {reason}."
            )
            return
        reason = f"the process that worked on it was lost {STRIKES_TO_QUARANTINE} times: {reason}"
        yield LogEvent("image_quarantined", {"unit": unit.name, "image": part}, reason, warning=True)
        yield QuarantinePart(unit.number, part, reason)

    def _fail(self, message: str) -> Fail:
        self._failed = True
        return Fail(message)
