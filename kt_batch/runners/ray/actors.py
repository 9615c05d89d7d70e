"""Actors of a pool: workers that run units, and one that records their heartbeats."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from importlib import import_module
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kt_batch.events import Event, Kept, keep_events, log_context, set_context
from kt_batch.process import tune_process
from kt_batch.runners.local import unit_name
from kt_batch.store.receipts import this_worker

HEARTBEAT_TIMEOUT_SECONDS = 10  # for a heartbeat to be recorded, and for the driver to read them
HEARTBEAT_INTERVAL_SECONDS = 0.5  # between two heartbeats; in isolation, between two of one part

_heartbeat: ContextVar[_Heartbeat | None] = ContextVar("heartbeat", default=None)  # of the unit that runs

LastHeartbeat = tuple[int, int, str]  # assignment, number of heartbeats in it, part


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Return the strategy of an actor that lives and dies with the driver, whatever becomes of other nodes.

    Ray places an actor without CPUs on any node where the affinity is soft.
    """
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


class HeartbeatMonitor:
    """Records the last heartbeat of every worker and the log events that came with heartbeats."""

    def __init__(self) -> None:
        self.last: dict[int, LastHeartbeat] = {}
        self.events: list[Event] = []

    def __repr__(self) -> str:
        """Return its name in Ray's dashboard."""
        return "kt_batch heartbeats of workers"

    def record(self, worker: int, heartbeat: LastHeartbeat, events: list[Event]) -> None:
        """Record a heartbeat and the log events since the previous one."""
        self.last[worker] = heartbeat
        self.keep_events(events)

    def keep_events(self, events: list[Event]) -> None:
        """Keep log events until the driver reads them."""
        self.events += events

    def read(self) -> tuple[dict[int, LastHeartbeat], list[Event]]:
        """Return the last heartbeats, and the log events since the previous call."""
        events, self.events = self.events, []
        return self.last, events


def still_waiting() -> None:
    """Report that the unit that runs here waits for another process, whose silence is not that of the image."""
    heartbeat = _heartbeat.get()
    if heartbeat is not None:
        heartbeat.again()


class WorkerActor:
    """Runs units with the worker of the last requested stage."""

    number = 0  # Ray asks for the name too where the arguments of an actor cannot be read

    def __init__(self, number: int, monitor: Any) -> None:
        self.number = number
        self.monitor = monitor
        self.stage = -1
        self.worker: Callable[[Any, Callable[[str], bool]], Any] | None = None

    def __repr__(self) -> str:
        """Return its name in Ray's dashboard."""
        return f"kt_batch worker {self.number}"

    def ready(self, imports: list[str]) -> tuple[str, str]:
        """Import what units will need, then return the id of this node and the name of this worker."""
        tune_process()  # before torch is imported
        for module in imports:
            import_module(module)
        return str(ray.get_runtime_context().get_node_id()), this_worker()

    def run(
        self, assignment: int, stage: int, factory: list[Any], unit: Any, isolated: bool
    ) -> tuple[Any, list[Event]]:
        """Run a unit and return its result and the log events that no heartbeat carried.

        `factory` holds a reference, so that Ray does not fetch it. It is called here and not in the constructor, so
        that its error is raised as it is.
        """
        with keep_events() as events, log_context(unit=unit_name(unit), worker=this_worker()):
            heartbeat = _Heartbeat(self.monitor, self.number, assignment, isolated, events)
            heartbeat("")
            _heartbeat.set(heartbeat)
            try:
                if self.worker is None or stage != self.stage:
                    self.worker = None  # the previous worker's memory is free before the next worker is made
                    self.worker, self.stage = ray.get(factory[0])(), stage
                return self.worker(unit, heartbeat), events.take()
            except Exception:
                with suppress(RayActorError, GetTimeoutError):  # the unit's error matters more than its log
                    ray.get(self.monitor.keep_events.remote(events.take()), timeout=HEARTBEAT_TIMEOUT_SECONDS)
                raise


class _Heartbeat:
    """Reports each part of one unit as it begins; returns whether the unit runs in isolation.

    In isolation it waits until the heartbeat of another part is recorded, because a process that dies at once would
    take the message with it. It also waits for the first one (the worker is ready). The second one (the unit has begun)
    is always sent. Others are left out if they come too soon after the last one that was sent.
    """

    def __init__(self, monitor: Any, worker: int, assignment: int, isolated: bool, events: Kept) -> None:
        self._monitor, self._worker, self._assignment = monitor, worker, assignment
        self._isolated = isolated
        self._events = events
        self._counts, self._sent_at = itertools.count(1), 0.0
        self._part, self._parts = "", 0

    def __call__(self, part: str) -> bool:
        set_context(image=part)
        awaited = self._isolated and part != self._part
        self._part, self._parts = part, self._parts + 1
        count, now = next(self._counts), time.monotonic()
        if count > 2 and not awaited and now - self._sent_at < HEARTBEAT_INTERVAL_SECONDS:
            return self._isolated
        self._sent_at = now
        # Outside isolation, log events travel with the result: that keeps their order.
        events = self._events.take() if self._isolated else []
        recorded = self._monitor.record.remote(self._worker, (self._assignment, count, part), events)
        if self._isolated or count == 1:
            with suppress(RayActorError, GetTimeoutError):  # the monitor may be restarting; the unit continues
                ray.get(recorded, timeout=HEARTBEAT_TIMEOUT_SECONDS)
        return self._isolated

    def again(self) -> None:
        """Report the same part once more, and do not wait. Before the unit has begun nothing is reported."""
        if self._parts > 1:
            self._monitor.record.remote(self._worker, (self._assignment, next(self._counts), self._part), [])
