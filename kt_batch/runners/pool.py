"""A pool of Ray actors that is watched: who dies or falls silent is replaced, and its unit is done by another one.

Ray's own retries are off. They know nothing of images: one that kills its process would kill every process it is given
to. Here every worker says which part of its unit it begins (a heartbeat), so that what killed it is known by name.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kt_batch.errors import KtBatchError
from kt_batch.runners.drain import Drain
from kt_batch.runners.meters import Meters

TICK = 0.5  # seconds between two looks at heartbeats
NODE_TICK = 2.0  # and at the nodes
STRIKES = 3  # workers that a part may cost; after so many deaths it is not chance
FUSE = 5  # parts condemned without a unit finished between them: then it is not the parts
FALSE_STARTS = 20  # workers lost before they began anything, without a unit finished between them
SETTING_UP = 10  # times the deadline that a worker has to load models and to stage an index
BEAT_SECONDS = 10  # a worker waits at most so long to be heard

Condemn = Callable[[Any, str, str], Any]


@dataclass
class _Work:
    """A unit, and for each part of it the nodes of the workers that were lost over it."""

    unit: Any
    strikes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class _Member:
    """One actor. `call` is what it is asked now: where it is (without work), or for the result of `work`.

    turn: which of all calls this is. beat: how many heartbeats it has given in this turn, and the part it began last.
    """

    number: int
    actor: Any
    call: Any = None
    work: _Work | None = None
    node: str = ""
    turn: int = 0
    beat: tuple[int, str] = (0, "")
    heard: float = 0.0


class Pool:
    """Actors that live until `close`, through many stages. `share()`: how many there may be now, and the CPUs of each.

    deadline: seconds a worker may be silent over one part of a unit.
    """

    def __init__(self, share: Callable[[], tuple[int, float]], deadline: float, drain: Drain) -> None:
        self._share = share
        self._room, self._cpus = share()
        self._deadline = deadline
        self._drain = drain
        self._members: list[_Member] = []
        self._numbers = itertools.count()
        self._stages = itertools.count()
        self._turns = itertools.count(1)
        self._false_starts = self._condemned = 0  # without a unit finished between them
        self._meters = Meters()
        self._heart: Any = None
        self._nodes_at = 0.0

    def run(self, factory: Callable[[], Any], units: Sequence[Any], condemn: Condemn | None) -> Iterator[Any]:
        """Yield results as they are finished, in any order. An error of a unit is raised here as it was there.

        A part that has cost STRIKES workers is condemned, and its unit done again without it; without `condemn`, or
        when no part was named, KtBatchError is raised. Raises StoppedError once the running units are finished when the
        end was asked for.
        """
        waiting = deque(_Work(unit) for unit in units)
        self._false_starts = self._condemned = 0
        stage = (next(self._stages), ray.put(factory))
        try:
            while waiting or self._busy():
                if self._drain.requested and not self._busy():
                    self._drain.check()
                self._grow(len(waiting) + len(self._busy()))
                self._assign(waiting, stage)
                self._meters.busy.set(len(self._busy()))
                self._meters.waiting.set(len(waiting))
                yield from self._collect(waiting, condemn)
                self._look_after(waiting, condemn)
        finally:
            for member in self._busy():  # left in the middle: what they do is of no use any more
                self._drop(member)
            self._meters.busy.set(0)
            self._meters.waiting.set(0)

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

    def _grow(self, wanted: int) -> None:
        """Ask for as many members as there is work and room for. They get work when they are there."""
        if self._heart is None:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
            options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
            self._heart = ray.remote(_Heart).options(**options).remote()
        for _ in range(len(self._members), min(wanted, self._room)):
            number = next(self._numbers)
            actor: Any = ray.remote(_Actor).options(num_cpus=self._cpus).remote(number, self._heart)
            self._members.append(_Member(number, actor, actor.ready.remote()))

    def _assign(self, waiting: deque[_Work], stage: tuple[int, Any]) -> None:
        for member in self._members:
            if member.call is None and waiting and not self._drain.requested:
                member.work = waiting.popleft()
                member.turn, member.beat, member.heard = next(self._turns), (0, ""), time.monotonic()
                member.call = member.actor.run.remote(member.turn, stage[0], [stage[1]], member.work.unit)

    def _collect(self, waiting: deque[_Work], condemn: Condemn | None) -> Iterator[Any]:
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
                # The error itself: what Ray makes of it has a traceback for its message.
                raise (error.cause if isinstance(error.cause, Exception) else error) from error
            except RayError as error:
                blame = self._listen() and not getattr(error, "preempted", False)
                self._lose(member, f"it died ({first_line(error)})" if blame else "", waiting, condemn)
                continue
            member.call, work, member.work = None, member.work, None
            if work is None:
                member.node = result
            else:
                self._false_starts = self._condemned = 0
                self._meters.units.inc()
                yield result

    def _look_after(self, waiting: deque[_Work], condemn: Condemn | None) -> None:
        """Replace who is silent for too long, or on a node that is gone, whose calls may never come back."""
        now = time.monotonic()
        if now - self._nodes_at < NODE_TICK:
            return
        self._nodes_at = now
        self._room, self._cpus = self._share()
        self._listen()
        alive = _alive()
        for member in list(self._members):
            allowed = self._deadline * (1 if member.beat[1] else SETTING_UP)
            if member.node and member.node not in alive:
                self._lose(member, "", waiting, condemn)
            elif member.work and now - member.heard > allowed:
                self._lose(member, f"it was silent for {allowed:g} s", waiting, condemn)

    def _listen(self) -> bool:
        """Read the heartbeats; False when there are none to be had, as when the heart was restarted a moment ago."""
        try:
            beats = ray.get(self._heart.beats.remote(), timeout=BEAT_SECONDS)
        except (RayActorError, GetTimeoutError):
            return False
        for member in self._members:
            turn, *beat = beats.get(member.number, (0, 0, ""))
            if turn == member.turn and tuple(beat) != member.beat:
                member.beat, member.heard = (beat[0], beat[1]), time.monotonic()
        return bool(beats)

    def _lose(self, member: _Member, why: str, waiting: deque[_Work], condemn: Condemn | None) -> None:
        """Give up a member; its unit waits again. Without `why` (a node that is gone) nobody is to blame for it."""
        self._drop(member)
        self._meters.lost.inc()
        work, (count, part) = member.work, member.beat
        if work is None or count == 0:  # it never came up, or never began
            self._false_starts += bool(why)
            if self._false_starts >= FALSE_STARTS:
                raise KtBatchError(f"Worker after worker is lost on the Ray cluster before it begins: {why}.")
        elif why:
            work.strikes[part].append(member.node)
            self._judge(work, part, why, condemn)
        if work is not None:
            waiting.appendleft(work)

    def _judge(self, work: _Work, part: str, why: str, condemn: Condemn | None) -> None:
        """Condemn a part that has cost STRIKES workers. Where the node is gone by now, it was the node."""
        alive = _alive()
        if sum(node in alive for node in work.strikes[part]) < STRIKES:
            return
        if condemn is None or not part:
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
        self._meters.condemned.inc()
        work.unit = condemn(work.unit, part, f"the process that worked on it was lost {STRIKES} times: {why}")

    def _drop(self, member: _Member) -> None:
        self._members.remove(member)
        with suppress(RayError, ValueError):  # it may be gone, and Ray with it
            ray.kill(member.actor)


def _alive() -> set[str]:
    """The ids of the nodes that the cluster believes in."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


class _Heart:
    """Keeps the last heartbeat of every member: its turn, how many there were in it, and the part."""

    def __init__(self) -> None:
        self.last: dict[int, tuple[int, int, str]] = {}

    def beat(self, number: int, turn: int, count: int, part: str) -> None:
        self.last[number] = (turn, count, part)

    def beats(self) -> dict[int, tuple[int, int, str]]:
        return self.last


class _Actor:
    """Holds the worker of the stage it was last asked for."""

    def __init__(self, number: int, heart: Any) -> None:
        self.number = number
        self.heart = heart
        self.stage = -1
        self.worker: Callable[[Any, Callable[[str], None]], Any] | None = None

    def ready(self) -> str:
        """Answers once the actor is there, with the id of its node."""
        return str(ray.get_runtime_context().get_node_id())

    def run(self, turn: int, stage: int, factory: list[Any], unit: Any) -> Any:
        """The worker is made here and not in the constructor, so that its error is raised as itself."""
        counts = itertools.count(1)

        def beat(part: str) -> None:
            """Waits until it is heard: a process that dies in the next moment would take the message with it."""
            try:
                ray.get(self.heart.beat.remote(self.number, turn, next(counts), part), timeout=BEAT_SECONDS)
            except (RayActorError, GetTimeoutError):
                return  # the heart is being restarted; the work is worth more than the news of it

        beat("")
        if self.worker is None or stage != self.stage:
            self.worker = None  # before the next one is made, so that the two never stand in memory together
            self.worker, self.stage = ray.get(factory[0])(), stage
        return self.worker(unit, beat)


def first_line(error: Exception) -> str:
    """Ray's messages go on with logs and tracebacks."""
    return (str(error).strip() or "no reason given").splitlines()[0].rstrip(" .:")
