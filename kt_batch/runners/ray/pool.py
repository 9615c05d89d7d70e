"""A pool of Ray actors that is watched: who dies or falls silent is replaced, and its unit is done by another one.

Ray's own retries are off. They know nothing of images: one that kills its process would kill every process it is given
to. Here every worker says which part of its unit it begins (a heartbeat), so that what killed it is known by name. To
wait until each of them is heard takes milliseconds; so a unit is done with care, beat by beat, only when it has cost a
worker already, and the first one it costs is blamed on nothing.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kt_batch.errors import KtBatchError
from kt_batch.events import Event, keep_events, log_context, log_event, repeat, set_context
from kt_batch.process import tune_process
from kt_batch.runners.local import unit_name
from kt_batch.runners.ray.metrics import PoolMetrics
from kt_batch.runners.ray.startup import StartupTimeout
from kt_batch.runners.shutdown import GracefulShutdown
from kt_batch.store.receipts import this_worker

TICK = 0.5  # seconds between two looks at heartbeats
NODE_TICK = 2.0  # and at the nodes
STRIKES = 3  # workers that a part may cost; after so many deaths it is not chance
FUSE = 5  # parts condemned without a unit finished between them: then it is not the parts
FALSE_STARTS = 20  # workers lost before they began anything, without a unit finished between them
SETTING_UP = 10  # times the deadline that a worker has to load models and to stage an index
BEAT_SECONDS = 10  # a worker waits at most so long to be heard
BEAT_EVERY = 0.5  # seconds between two beats of a worker that does not wait for them

Condemn = Callable[[Any, str, str], Any]


@dataclass
class _Work:
    """A unit, and for each part of it the nodes of the workers that were lost over it. `careful`: it has cost one.
    tries: how often it was begun."""

    unit: Any
    isolated: bool
    tries: int = 0
    strikes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class _Member:
    """One actor. `call` is what it is asked now: where it is (without work), or for the result of `work`.

    turn: which of all calls this is. beat: how many heartbeats it has given in this turn, and the part it began last.
    """

    number: int
    actor: Any
    cpus: float
    call: Any = None
    work: _Work | None = None
    node: str = ""
    name: str = ""  # host:process, as receipts have it
    turn: int = 0
    beat: tuple[int, str] = (0, "")
    heard: float = 0.0


class Pool:
    """Actors that live until `close`, through many stages. `share()`: how many there may be now, and the CPUs of each.

    gpus: what each asks for, too. imports: modules that each imports when it comes up, and not with its first unit.
    deadline: seconds a worker may be silent over one part of a unit. Where no worker comes up, the pool says what it
    waits for (`patience`), and ends where that can never come.
    """

    def __init__(
        self,
        share: Callable[[], tuple[int, float]],
        deadline: float,
        shutdown: GracefulShutdown,
        gpus: float = 0.0,
        imports: Sequence[str] = (),
    ) -> None:
        self._share = share
        self._imports = list(imports)
        self._gpus = gpus
        self._room, self._cpus = share()
        self._deadline = deadline
        self._shutdown = shutdown
        self._members: list[_Member] = []
        self._numbers = itertools.count()
        self._stages = itertools.count()
        self._turns = itertools.count(1)
        self._false_starts = self._condemned = 0  # without a unit finished between them
        self._metrics = PoolMetrics()
        self._startup_timeout = StartupTimeout()
        self._heart: Any = None
        self._nodes_at = 0.0

    def run(self, factory: Callable[[], Any], units: Sequence[Any], quarantine: Condemn | None) -> Iterator[Any]:
        """Yield results as they are finished, in any order. An error of a unit is raised here as it was there.

        A part that has cost STRIKES workers, after the one that made its unit suspect, is condemned, and the unit done
        again without it; without `condemn`, or when no part was named, KtBatchError is raised, and where no worker can
        ever come up. Raises StoppedError once the running units are finished when the end was asked for.
        """
        waiting = deque(_Work(unit, isolated=quarantine is None) for unit in units)
        self._false_starts = self._condemned = 0
        self._startup_timeout = StartupTimeout()
        stage = (next(self._stages), ray.put(factory))
        try:
            while waiting or self._busy():
                if self._shutdown.requested and not self._busy():
                    self._shutdown.check()
                self.grow(len(waiting) + len(self._busy()))
                self._assign(waiting, stage)
                self._metrics.busy.set(len(self._busy()))
                self._metrics.waiting.set(len(waiting))
                yield from self._collect(waiting, quarantine)
                self._look_after(waiting, quarantine)
        finally:
            for member in self._busy():  # left in the middle: what they do is of no use any more
                self._drop(member)
            self._metrics.busy.set(0)
            self._metrics.waiting.set(0)

    def close(self) -> None:
        """End all actors."""
        for member in list(self._members):
            self._drop(member)
        if self._heart is not None:
            with suppress(RayError, ValueError):
                ray.kill(self._heart)
            self._heart = None

    def _busy(self) -> list[_Member]:
        return [member for member in self._members if member.work]

    def grow(self, wanted: int) -> None:
        """Ask for as many members as there is work and room for. They get work when they are there."""
        if self._heart is None:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
            options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
            self._heart = ray.remote(HeartbeatMonitor).options(**options).remote()
        for _ in range(len(self._members), min(wanted, self._room)):
            number = next(self._numbers)
            asked = {"num_cpus": self._cpus, "num_gpus": self._gpus}
            actor: Any = ray.remote(_Actor).options(**asked).remote(number, self._heart)
            self._members.append(_Member(number, actor, self._cpus, actor.ready.remote(self._imports)))

    def _assign(self, waiting: deque[_Work], stage: tuple[int, Any]) -> None:
        for member in self._members:
            if member.call is None and waiting and not self._shutdown.requested:
                member.work = waiting.popleft()
                member.turn, member.beat, member.heard = next(self._turns), (0, ""), time.monotonic()
                work = member.work
                work.tries += 1
                log_event("unit_started", unit=unit_name(work.unit), worker=member.name, tries=work.tries)
                member.call = member.actor.run.remote(member.turn, stage[0], [stage[1]], work.unit, work.isolated)

    def _collect(self, waiting: deque[_Work], quarantine: Condemn | None) -> Iterator[Any]:
        """Wait a moment for any answer; yield results, and take note of who is there or lost."""
        calls = {member.call: member for member in self._members if member.call is not None}
        if not calls:
            time.sleep(TICK)
            return
        done, _ = ray.wait(list(calls), num_returns=1, timeout=TICK)
        for call in done:
            member = calls[call]
            try:
                result = ray.get(call)
            except RayTaskError as error:
                self._listen()  # the last that was told of it
                # The error itself: what Ray makes of it has a traceback for its message.
                raise (error.cause if isinstance(error.cause, Exception) else error) from error
            except RayError as error:
                # Who never came up has no beats; of all others they must be had, to know what it was at.
                blame = not getattr(error, "preempted", False) and (member.work is None or self._listen())
                self._lose(member, f"it died ({first_line(error)})" if blame else "", waiting, quarantine)
                continue
            member.call, work, member.work = None, member.work, None
            if work is None:
                member.node, member.name = result
                log_event("worker_ready", worker=member.name, node=member.node)
            else:
                result, events = result
                if work.isolated:
                    self._listen()  # what came with its beats
                repeat(events)
                self._false_starts = self._condemned = 0
                self._metrics.units.inc()
                yield result

    def _look_after(self, waiting: deque[_Work], quarantine: Condemn | None) -> None:
        """Replace who is silent for too long, or on a node that is gone, whose calls may never come back."""
        now = time.monotonic()
        if now - self._nodes_at < NODE_TICK:
            return
        self._nodes_at = now
        self._room, self._cpus = self._share()
        self._listen()
        if any(member.node for member in self._members):
            self._startup_timeout.rest()
        else:
            self._startup_timeout.check(self._cpus, self._gpus)
        alive = _alive()
        for member in list(self._members):
            allowed = self._deadline * (1 if member.beat[0] > 1 else SETTING_UP)
            if member.node and member.node not in alive:
                self._lose(member, "", waiting, quarantine)
            elif not member.node and member.cpus > self._cpus:  # no node holds so many: ask for what there is
                self._drop(member)
            elif member.work and now - member.heard > allowed:
                self._lose(member, f"it was silent for {allowed:g} s", waiting, quarantine)

    def _listen(self) -> bool:
        """Read the heartbeats; False when there are none to be had, as when the heart was restarted a moment ago."""
        try:
            beats, events = ray.get(self._heart.beats.remote(), timeout=BEAT_SECONDS)
        except (RayActorError, GetTimeoutError):
            return False
        repeat(events)
        for member in self._members:
            turn, *beat = beats.get(member.number, (0, 0, ""))
            if turn == member.turn and tuple(beat) != member.beat:
                member.beat, member.heard = (beat[0], beat[1]), time.monotonic()
        return bool(beats)

    def _lose(self, member: _Member, why: str, waiting: deque[_Work], quarantine: Condemn | None) -> None:
        """Give up a member; its unit waits again. Without `why` (a node that is gone) nobody is to blame for it, nor
        where it did not wait to be heard: then what it was at is not known."""
        self._drop(member)
        self._metrics.lost.inc()
        work, (count, part) = member.work, member.beat
        unit = work and unit_name(work.unit)
        said = why or "its node is gone"
        log_event("worker_lost", said, logging.WARNING, worker=member.name, node=member.node, unit=unit, image=part)
        if work is None or count == 0:  # it never came up, or never began
            self._false_starts += bool(why)
            if self._false_starts >= FALSE_STARTS:
                raise KtBatchError(f"Worker after worker is lost on the Ray cluster before it begins: {why}.")
        elif why and work.isolated:
            work.strikes[part].append(member.node)
            self._judge(work, part, why, quarantine)
        if work is not None:
            work.isolated = True
            waiting.appendleft(work)
            log_event("unit_retried", said, logging.WARNING, unit=unit, tries=work.tries)

    def _judge(self, work: _Work, part: str, why: str, quarantine: Condemn | None) -> None:
        """Condemn a part that has cost STRIKES workers. Where the node is gone by now, it was the node."""
        alive = _alive()
        if sum(node in alive for node in work.strikes[part]) < STRIKES:
            return
        if quarantine is None or not part:
            raise KtBatchError(
                f"A worker of the Ray cluster was lost, {STRIKES} times on the same work: {why}; "
                "start the same command again to go on."
            )
        self._condemned += 1
        if self._condemned >= FUSE:
            raise KtBatchError(
                f"{FUSE} images one after another cost worker after worker, and no unit is finished between them, so "
                f"it is not the images: {why}."
            )
        self._metrics.quarantined.inc()
        why = f"the process that worked on it was lost {STRIKES} times: {why}"
        log_event("image_condemned", why, logging.WARNING, unit=unit_name(work.unit), image=part)
        work.unit = quarantine(work.unit, part, why)

    def _drop(self, member: _Member) -> None:
        self._members.remove(member)
        with suppress(RayError, ValueError):  # it may be gone, and Ray with it
            ray.kill(member.actor)


def _alive() -> set[str]:
    """The ids of the nodes that the cluster believes in."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


class HeartbeatMonitor:
    """Keeps the last heartbeat of every member: its turn, how many there were in it, and the part; and for the log what
    came with them."""

    def __init__(self) -> None:
        self.last: dict[int, tuple[int, int, str]] = {}
        self.told: list[Event] = []

    def beat(self, number: int, turn: int, count: int, part: str, told: list[Event]) -> None:
        """Record a heartbeat and the events that came with it."""
        self.last[number] = (turn, count, part)
        self.log_event(told)

    def log_event(self, told: list[Event]) -> None:
        """Keep events for the driver."""
        self.told += told

    def beats(self) -> tuple[dict[int, tuple[int, int, str]], list[Event]]:
        """Return the last heartbeats, and the events since the previous call."""
        told, self.told = self.told, []
        return self.last, told


class _Actor:
    """Holds the worker of the stage it was last asked for."""

    def __init__(self, number: int, heart: Any) -> None:
        self.number = number
        self.heart = heart
        self.stage = -1
        self.worker: Callable[[Any, Callable[[str], bool]], Any] | None = None

    def ready(self, imports: list[str]) -> tuple[str, str]:
        """Answers once the actor is there and has imported what units will need, with the id of its node and its
        name."""
        tune_process()  # before torch is imported
        for module in imports:
            import_module(module)
        return str(ray.get_runtime_context().get_node_id()), this_worker()

    def run(self, turn: int, stage: int, factory: list[Any], unit: Any, isolated: bool) -> tuple[Any, list[Event]]:
        """The result, and what is to be told of it. The worker is made here and not in the constructor, so that its
        error is raised as itself."""
        counts, sent = itertools.count(1), 0.0

        def beat(part: str) -> bool:
            """With care it waits until it is heard: a process that dies in the next moment would take the message with
            it. The first says that the worker is there, the second that it has begun. Answers whether there is care."""
            nonlocal sent
            set_context(image=part)
            count, now = next(counts), time.monotonic()
            if not isolated and count > 2 and now - sent < BEAT_EVERY:
                return isolated
            sent = now
            told = events.take() if isolated else []  # otherwise it comes with the result, before which it belongs
            heard = self.heart.beat.remote(self.number, turn, count, part, told)
            if isolated or count == 1:
                with suppress(RayActorError, GetTimeoutError):  # a heart being restarted: the work is worth more
                    ray.get(heard, timeout=BEAT_SECONDS)
            return isolated

        with keep_events() as events, log_context(unit=unit_name(unit), worker=this_worker()):
            beat("")
            try:
                if self.worker is None or stage != self.stage:
                    self.worker = None  # before the next one is made, so that the two never stand in memory together
                    self.worker, self.stage = ray.get(factory[0])(), stage
                return self.worker(unit, beat), events.take()
            except Exception:
                with suppress(RayActorError, GetTimeoutError):  # the error is worth more than what led to it
                    ray.get(self.heart.log_event.remote(events.take()), timeout=BEAT_SECONDS)
                raise


def first_line(error: Exception) -> str:
    """Ray's messages go on with logs and tracebacks."""
    return (str(error).strip() or "no reason given").splitlines()[0].rstrip(" .:")
