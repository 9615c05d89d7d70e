"""The pool state machine maps sequences of events to instructions, without a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from kt_batch.runners.pool_state import PoolState

ALIVE = frozenset({"node"})
DEADLINE = 5.0


def started(*units: str, room: int = 1, can_quarantine: bool = True, now: float = 0.0) -> PoolState:
    """Return a pool whose stage has these units."""
    state = PoolState(room, 2.0, DEADLINE)
    assert state.handle(StageStarted(now, units, can_quarantine)) == []
    return state


def told(state: PoolState, *events: PoolEvent) -> list[Instruction]:
    """Return the instructions for these events in order."""
    return [instruction for event in events for instruction in state.handle(event)]


def ready(worker: int, node: str = "node") -> WorkerReady:
    return WorkerReady(worker, node, f"w{worker}")


def heartbeats(worker: int, assignment: int, *parts: str, now: float = 0.0) -> list[HeartbeatSeen]:
    """Return the heartbeats of a worker that is set up and begins these parts."""
    return [HeartbeatSeen(now, worker, assignment, count, part) for count, part in enumerate(("", *parts), 1)]


def died(
    worker: int, *, preempted: bool = False, heartbeats_known: bool = True, alive_nodes: frozenset[str] = ALIVE
) -> WorkerLost:
    return WorkerLost(worker, "oom", preempted, heartbeats_known, alive_nodes)


def cluster(now: float, *, alive: frozenset[str] = ALIVE, room: int = 1, cpus: float = 2.0) -> ClusterSeen:
    return ClusterSeen(now, alive, room, cpus)


def assigned(worker: int, unit: int, name: str, assignment: int, *, tries: int = 1) -> list[Instruction]:
    """Return the instruction that begins a unit; a retry is isolated."""
    log = LogEvent("unit_started", {"unit": name, "worker": f"w{worker}", "tries": tries})
    return [log, AssignUnit(worker, unit, assignment, isolated=tries > 1)]


def is_ready(worker: int, node: str = "node") -> LogEvent:
    return LogEvent("worker_ready", {"worker": f"w{worker}", "node": node})


def lost(
    worker: int, unit: str | None, part: str, message: str = "it died (oom)", node: str = "node"
) -> list[Instruction]:
    """Return the first instructions of a loss."""
    fields = {"worker": f"w{worker}" if node else "", "node": node, "unit": unit, "image": part}
    return [StopWorker(worker, lost=True), LogEvent("worker_lost", fields, message, warning=True)]


def retried(unit: str, tries: int, message: str = "it died (oom)") -> LogEvent:
    return LogEvent("unit_retried", {"unit": unit, "tries": tries}, message, warning=True)


def lose_in_isolation(state: PoolState, times: int, part: str = "b", first: int = 0) -> list[Instruction]:
    """Lose successive workers over a part; return the last instructions.

    `first` is the number of earlier losses.
    """
    instructions: list[Instruction] = []
    for worker in range(first, first + times):
        told(state, Tick(0), ready(worker), Tick(0), *heartbeats(worker, worker + 1, part))
        instructions = told(state, died(worker))
    return instructions


# ---- units -----------------------------------------------------------------------------------------------------------


def test_workers_take_units_in_their_order_and_finish_in_any_order() -> None:
    state = started("u0", "u1", "u2", room=2)
    assert told(state, Tick(0)) == [StartWorker(0, 2.0), StartWorker(1, 2.0)]
    assert told(state, Tick(0)) == []  # both are starting
    assert told(state, ready(1), ready(0)) == [is_ready(1), is_ready(0)]
    assert told(state, Tick(1)) == [*assigned(0, 0, "u0", 1), *assigned(1, 1, "u1", 2)]
    assert (state.busy, state.waiting) == (2, 1)
    assert told(state, UnitDone(1, "r1"), Tick(2)) == [YieldResult("r1"), *assigned(1, 2, "u2", 3)]
    assert told(state, UnitDone(1, "r2"), UnitDone(0, "r0")) == [YieldResult("r2"), YieldResult("r0")]
    assert state.finished


def test_no_more_workers_start_than_there_are_units_or_room_for() -> None:
    assert told(started("u0", "u1", room=5), Tick(0)) == [StartWorker(0, 2.0), StartWorker(1, 2.0)]
    assert told(started("u0", "u1", room=1), Tick(0)) == [StartWorker(0, 2.0)]
    assert told(started(), Tick(0)) == []


def test_a_node_that_joins_gets_workers_and_units() -> None:
    state = started("u0", "u1")
    told(state, Tick(0), ready(0), Tick(0))
    assert told(state, cluster(2.0, room=2), Tick(2)) == [StartWorker(1, 2.0)]
    assert told(state, ready(1), Tick(3)) == [is_ready(1), *assigned(1, 1, "u1", 2)]


def test_workers_warm_up_before_a_stage_and_live_through_stages() -> None:
    state = PoolState(3, 2.0, DEADLINE)
    assert told(state, WarmUpRequested(2)) == [StartWorker(0, 2.0), StartWorker(1, 2.0)]
    assert told(state, StageStarted(0, ("u0",), can_quarantine=True), Tick(0), ready(0)) == [is_ready(0)]
    told(state, Tick(0), UnitDone(0, "r0"), StageEnded())
    assert told(state, StageStarted(1, ("v0",), can_quarantine=True), Tick(1)) == assigned(0, 0, "v0", 2)
    assert told(state, PoolClosed()) == [StopWorker(0), StopWorker(1)]


def test_the_end_of_a_stage_stops_the_workers_that_still_run_its_units() -> None:
    state = started("u0", "u1", "u2", room=2)
    told(state, Tick(0), ready(0), ready(1), Tick(0), UnitDone(0, "r0"))
    assert told(state, StageEnded()) == [StopWorker(1)]
    assert state.finished
    assert told(state, StageStarted(1, ("v0",), can_quarantine=True), Tick(1)) == assigned(0, 0, "v0", 3)


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(TypeError, match="Not an event of a pool: 'hello'"):
        PoolState(1, 1.0, DEADLINE).handle("hello")  # type: ignore[arg-type]


# ---- shutdown --------------------------------------------------------------------------------------------------------


def test_after_a_shutdown_request_running_units_finish_and_no_other_begins() -> None:
    state = started("u0", "u1", room=2)
    told(state, Tick(0), ready(0), Tick(0))
    assert told(state, ShutdownRequested(), ready(1), Tick(1)) == [is_ready(1)]
    assert told(state, UnitDone(0, "r0")) == [YieldResult("r0")]
    assert told(state, Tick(2)) == [StopRun()]


def test_a_unit_lost_during_shutdown_does_not_begin_again() -> None:
    state = started("u0")
    told(state, Tick(0), ready(0), Tick(0), ShutdownRequested())
    assert told(state, died(0), Tick(1)) == [*lost(0, "u0", ""), retried("u0", 1), StopRun()]


# ---- losses and quarantine -------------------------------------------------------------------------------------------


def test_a_unit_that_cost_a_worker_is_retried_first_and_in_isolation() -> None:
    state = started("u0", "u1")
    told(state, Tick(0), ready(0), Tick(0), *heartbeats(0, 1, "a", "b"))
    assert told(state, died(0)) == [*lost(0, "u0", "b"), retried("u0", 1)]
    assert told(state, Tick(1), ready(1), Tick(1)) == [
        StartWorker(1, 2.0),
        is_ready(1),
        *assigned(1, 0, "u0", 2, tries=2),
    ]
    assert told(state, UnitDone(1, "r0"), Tick(2)) == [YieldResult("r0"), *assigned(1, 1, "u1", 3)]


def test_a_part_that_costs_three_workers_in_isolation_is_quarantined() -> None:
    state = started("u0")
    assert lose_in_isolation(state, 3) == [*lost(2, "u0", "b"), retried("u0", 3)]  # the first loss is not a strike
    reason = "the process that worked on it was lost 3 times: it died (oom)"
    assert lose_in_isolation(state, 1, first=3) == [
        *lost(3, "u0", "b"),
        LogEvent("image_quarantined", {"unit": "u0", "image": "b"}, reason, warning=True),
        QuarantinePart(0, "b", reason),
        retried("u0", 4),
    ]
    assert told(state, Tick(1), ready(4), Tick(1))[2:] == assigned(4, 0, "u0", 5, tries=5)
    assert told(state, UnitDone(4, "r0")) == [YieldResult("r0")]
    assert state.finished


def test_strikes_of_two_parts_do_not_add_up() -> None:
    state = started("u0")
    lose_in_isolation(state, 3)
    assert lose_in_isolation(state, 2, "c", first=3) == [*lost(4, "u0", "c"), retried("u0", 5)]
    assert QuarantinePart in map(type, lose_in_isolation(state, 1, "c", first=5))


def test_losses_on_a_dead_node_are_not_strikes() -> None:
    state = started("u0")
    lose_in_isolation(state, 1)
    for worker, node in [(1, "old"), (2, "old"), (3, "node")]:
        told(state, Tick(0), ready(worker, node), Tick(0), *heartbeats(worker, worker + 1, "b"))
        alive_nodes = ALIVE if worker == 3 else ALIVE | {"old"}
        assert told(state, died(worker, alive_nodes=alive_nodes)) == [
            *lost(worker, "u0", "b", node=node),
            retried("u0", worker + 1),
        ]


@pytest.mark.parametrize("excuse", [{"preempted": True}, {"heartbeats_known": False}])
def test_losing_a_preempted_worker_or_one_without_known_heartbeats_is_not_a_strike(excuse: dict[str, Any]) -> None:
    state = started("u0")
    lose_in_isolation(state, 3)
    told(state, Tick(0), ready(3), Tick(0), *heartbeats(3, 4, "b"))
    assert told(state, died(3, **excuse)) == [
        *lost(3, "u0", "b", "its node is gone"),
        retried("u0", 4, "its node is gone"),
    ]


@pytest.mark.parametrize(("can_quarantine", "part", "losses"), [(False, "b", 3), (True, "", 4)])
def test_without_a_part_to_quarantine_three_strikes_end_the_run(can_quarantine: bool, part: str, losses: int) -> None:
    """Units that cannot do without a part run in isolation from the first try, so that the first loss is a strike."""
    state = started("u0", can_quarantine=can_quarantine)
    assert lose_in_isolation(state, losses, part) == [
        *lost(losses - 1, "u0", part),
        Fail(
            "A worker of the Ray cluster was lost, 3 times on the same work: it died (oom); "
            "start the same command again to go on."
        ),
    ]


def test_the_circuit_breaker_ends_the_run_at_the_fifth_quarantine_in_a_row() -> None:
    state = started("u0")
    lose_in_isolation(state, 1)
    for quarantined in range(4):
        last = lose_in_isolation(state, 3, f"part {quarantined}", first=1 + 3 * quarantined)
        assert QuarantinePart in map(type, last)
    assert lose_in_isolation(state, 3, "part 4", first=13)[2:] == [
        Fail(
            "5 images one after another cost worker after worker, and no unit is finished between them, "
            "so it is not the images: it died (oom)."
        )
    ]


def test_a_finished_unit_resets_the_circuit_breaker() -> None:
    state = started("u0", "u1")
    lose_in_isolation(state, 4, "a")
    for part, first in [("b", 4), ("c", 7), ("d", 10)]:
        lose_in_isolation(state, 3, part, first=first)
    assert told(state, Tick(0), ready(13), Tick(0), UnitDone(13, "r0"))[-1] == YieldResult("r0")
    told(state, Tick(0), *heartbeats(13, 15, "e"), died(13))
    for worker in (14, 15, 16):
        told(state, Tick(0), ready(worker), Tick(0), *heartbeats(worker, worker + 2, "e"))
        last = told(state, died(worker))
    assert [type(instruction) for instruction in last[2:]] == [LogEvent, QuarantinePart, LogEvent]


# ---- workers that never begin ----------------------------------------------------------------------------------------


def test_too_many_workers_lost_before_they_begin_end_the_run() -> None:
    state = started("u0")
    for worker in range(19):
        assert told(state, Tick(0), died(worker, heartbeats_known=False)) == [
            StartWorker(worker, 2.0),
            *lost(worker, None, "", node=""),
        ]
    assert told(state, Tick(0), died(19, heartbeats_known=False)) == [
        StartWorker(19, 2.0),
        *lost(19, None, "", node=""),
        Fail("Worker after worker is lost on the Ray cluster before it begins: it died (oom)."),
    ]


def test_a_lost_worker_without_a_heartbeat_is_a_false_start_and_not_a_strike() -> None:
    state = started("u0")
    lose_in_isolation(state, 3)
    for worker in range(3, 22):
        told(state, Tick(0), ready(worker), Tick(0))
        assert told(state, died(worker)) == [*lost(worker, "u0", ""), retried("u0", worker + 1)]
    told(state, Tick(0), ready(22), Tick(0))
    assert isinstance(told(state, died(22))[-1], Fail)


def test_no_instruction_follows_the_end_of_a_run() -> None:
    """Two workers are silent at once, and the first of them is one false start too many."""
    state = started("u0", "u1", room=2)
    for worker in range(1, 20):
        told(state, Tick(0), died(worker))
    told(state, Tick(0), ready(0), ready(20), Tick(0))
    silent = "it was silent for 50 s"
    assert told(state, cluster(51.0, room=2)) == [
        *lost(0, "u0", "", silent),
        Fail(f"Worker after worker is lost on the Ray cluster before it begins: {silent}."),
    ]


def test_a_worker_that_requests_more_than_any_node_has_is_replaced() -> None:
    state = started("u0")
    told(state, Tick(0))
    assert told(state, cluster(2.0, cpus=1.0), Tick(2)) == [StopWorker(0), StartWorker(1, 1.0)]


def test_the_lack_of_any_worker_is_reported_after_a_minute_and_then_every_ten() -> None:
    state = started("u0", now=100.0)
    told(state, Tick(100))
    assert told(state, cluster(159.0)) == []
    assert told(state, cluster(161.0), cluster(700.0)) == [ReportStartupDelay(61.0, 2.0)]
    assert told(state, cluster(761.0)) == [ReportStartupDelay(661.0, 2.0)]
    told(state, ready(0), Tick(762))
    assert told(state, cluster(763.0)) == []
    told(state, died(0))
    assert told(state, cluster(800.0)) == []
    assert told(state, cluster(823.0)) == [ReportStartupDelay(60.0, 2.0)]


# ---- silence ---------------------------------------------------------------------------------------------------------


def test_a_silent_worker_is_lost_after_the_deadline() -> None:
    state = started("u0")
    told(state, Tick(0), ready(0), Tick(0), *heartbeats(0, 1, "a", now=10.0))
    assert told(state, cluster(15.0)) == []
    silent = "it was silent for 5 s"
    assert told(state, cluster(15.1)) == [*lost(0, "u0", "a", silent), retried("u0", 1, silent)]


def test_each_new_heartbeat_extends_the_deadline_and_an_old_one_does_not() -> None:
    state = started("u0")
    told(state, Tick(0), ready(0), Tick(0), *heartbeats(0, 1, "a", now=10.0))
    told(state, HeartbeatSeen(14.0, 0, 1, 3, "b"), HeartbeatSeen(18.0, 0, 1, 3, "b"), HeartbeatSeen(18.0, 0, 0, 9, "z"))
    assert told(state, cluster(19.0)) == []
    assert told(state, cluster(19.1))[0] == StopWorker(0, lost=True)


def test_a_worker_in_setup_has_ten_times_the_deadline() -> None:
    state = started("u0")
    told(state, Tick(0), ready(0), Tick(7), HeartbeatSeen(8.0, 0, 1, 1, ""))
    assert told(state, cluster(58.0)) == []
    silent = "it was silent for 50 s"
    assert told(state, cluster(58.1)) == [*lost(0, "u0", "", silent), retried("u0", 1, silent)]


def test_an_idle_worker_may_be_silent() -> None:
    state = started("u0")
    told(state, Tick(0), ready(0), Tick(0), UnitDone(0, "r0"))
    assert told(state, cluster(1e6)) == []


def test_workers_of_a_lost_node_are_replaced_without_blame() -> None:
    state = started("u0", "u1", room=2)
    told(state, Tick(0), ready(0, "old"), ready(1), Tick(0), *heartbeats(0, 1, "a"))
    gone = "its node is gone"
    assert told(state, cluster(1.0, room=2), Tick(1)) == [
        *lost(0, "u0", "a", gone, node="old"),
        retried("u0", 1, gone),
        StartWorker(2, 2.0),
    ]


# ---- any sequence ----------------------------------------------------------------------------------------------------


class Executor:
    """Executes and checks instructions on workers that hypothesis controls."""

    def __init__(self, units: int, room: int, can_quarantine: bool) -> None:
        self.units, self.room = units, room
        self.now = 0.0
        self.can_quarantine = can_quarantine
        self.coming: list[int] = []
        self.idle: list[int] = []
        self.running: dict[int, AssignUnit] = {}
        self.finished: Counter[int] = Counter()
        self.failed = False
        self.alive = ["node 0", "node 1"]
        self.beats: Counter[int] = Counter()
        self.state = PoolState(room, 1.0, DEADLINE)
        self.send(StageStarted(0.0, tuple(f"u{unit}" for unit in range(units)), can_quarantine))

    def send(self, event: PoolEvent) -> None:
        for instruction in self.state.handle(event):
            assert not self.failed  # nothing follows the end
            match instruction:
                case StartWorker(worker):
                    self.coming.append(worker)
                case AssignUnit(worker, unit):
                    self.idle.remove(worker)
                    assert unit not in self.finished
                    assert unit not in {assigned.unit for assigned in self.running.values()}
                    self.running[worker] = instruction
                case StopWorker(worker):
                    self.coming = [known for known in self.coming if known != worker]
                    self.idle = [known for known in self.idle if known != worker]
                    self.running.pop(worker, None)
                case QuarantinePart(unit):
                    assert self.can_quarantine
                    assert unit not in {assigned.unit for assigned in self.running.values()}
                case YieldResult(unit):
                    self.finished[unit] += 1
                case Fail() | StopRun():
                    self.failed = True
        workers = len(self.coming) + len(self.idle) + len(self.running)
        assert workers <= self.room
        if not self.failed:
            assert self.state.busy == len(self.running)
            assert self.state.waiting + len(self.running) + self.finished.total() == self.units

    def bring_up(self, node: str) -> None:
        if self.coming:
            worker = self.coming.pop(0)
            self.idle.append(worker)
            self.send(WorkerReady(worker, node, f"w{worker}"))

    def finish(self, choice: int) -> None:
        if self.running:
            worker = sorted(self.running)[choice % len(self.running)]
            unit = self.running.pop(worker).unit
            self.idle.append(worker)
            self.send(UnitDone(worker, unit))

    def beat(self, choice: int, part: str) -> None:
        if self.running:
            worker = sorted(self.running)[choice % len(self.running)]
            assignment = self.running[worker].assignment
            self.beats[assignment] += 1
            self.send(HeartbeatSeen(self.now, worker, assignment, self.beats[assignment], part))

    def kill(self, choice: int, *, preempted: bool, heartbeats_known: bool) -> None:
        workers = sorted([*self.coming, *self.idle, *self.running])
        if workers:
            worker = workers[choice % len(workers)]
            self.send(WorkerLost(worker, "oom", preempted, heartbeats_known, frozenset(self.alive)))

    def look(self, seconds: float) -> None:
        self.now += seconds
        self.send(ClusterSeen(self.now, frozenset(self.alive), self.room, 1.0))


NODES = st.sampled_from(["node 0", "node 1"])
CHOICES = st.integers(0, 3)
ACTIONS = st.one_of(
    st.tuples(st.just("tick")),
    st.tuples(st.just("bring_up"), NODES),
    st.tuples(st.just("finish"), CHOICES),
    st.tuples(st.just("beat"), CHOICES, st.sampled_from(["", "a", "b"])),
    st.tuples(st.just("kill"), CHOICES, st.booleans(), st.booleans()),
    st.tuples(st.just("look"), st.sampled_from([1.0, 6.0, 60.0])),
    st.tuples(st.just("lose node"), NODES),
    st.tuples(st.just("regain node"), NODES),
)


def act(executor: Executor, action: tuple[Any, ...]) -> None:
    match action:
        case ("tick",):
            executor.send(Tick(executor.now))
        case ("bring_up", node):
            executor.bring_up(node)
        case ("finish", choice):
            executor.finish(choice)
        case ("beat", choice, part):
            executor.beat(choice, part)
        case ("kill", choice, preempted, known):
            executor.kill(choice, preempted=preempted, heartbeats_known=known)
        case ("look", seconds):
            executor.look(seconds)
        case ("lose node", node):
            executor.alive = [alive for alive in executor.alive if alive != node]
        case ("regain node", node):
            executor.alive = sorted({*executor.alive, node})


def peace(units: int) -> Iterator[tuple[Any, ...]]:
    """Let every unit finish without further losses."""
    yield from [("regain node", "node 0"), ("regain node", "node 1")]
    for _ in range(units):
        yield from [("tick",), *[("bring_up", "node 0")] * 3, ("tick",), *[("finish", 0)] * 3]


@given(
    units=st.integers(0, 6), room=st.integers(1, 3), can_quarantine=st.booleans(), story=st.lists(ACTIONS, max_size=80)
)
def test_under_any_losses_every_unit_finishes_once_or_the_run_ends_with_an_error(
    units: int, room: int, can_quarantine: bool, story: list[tuple[Any, ...]]
) -> None:
    executor = Executor(units, room, can_quarantine)
    for action in [*story, *peace(units)]:
        if not executor.failed:
            act(executor, action)
    assert executor.failed or executor.state.finished
    assert executor.finished == Counter(range(units)) or executor.failed
    assert max(executor.finished.values(), default=1) == 1


@given(
    kills=st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.integers(0, 3)), max_size=60),
    can_quarantine=st.booleans(),
)
def test_a_run_that_loses_every_worker_ends(kills: list[tuple[str, int]], can_quarantine: bool) -> None:
    executor = Executor(2, 1, can_quarantine)
    for part, beats in [*kills, *[("a", 2), ("b", 2), ("", 2)] * 20]:
        if not executor.failed:
            for action in [("tick",), ("bring_up", "node 0"), ("tick",), *[("beat", 0, part)] * beats]:
                act(executor, action)
            executor.kill(0, preempted=False, heartbeats_known=True)
    assert executor.failed
    assert not executor.finished
