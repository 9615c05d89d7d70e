"""The events that a pool of workers reports to its state machine, and the instructions it gets back.

Units are numbers here; the executor holds what they stand for. A heartbeat names the *part* of a unit that begins, as a
rule an image; the first heartbeat of each assignment has the empty part, while the worker is being set up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# ---- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WarmUpRequested:
    """The caller wants this many workers before there are units."""

    workers: int


@dataclass(frozen=True)
class StageStarted:
    """Units are to be run: `units[i]` is the log name of unit i. Without `can_quarantine` no part can be left out."""

    now: float
    units: tuple[str, ...]
    can_quarantine: bool


@dataclass(frozen=True)
class StageEnded:
    """No more results of this stage are wanted."""


@dataclass(frozen=True)
class PoolClosed:
    """No worker is needed any more."""


@dataclass(frozen=True)
class ShutdownRequested:
    """Running units are to finish and no other unit may begin, now or later."""


@dataclass(frozen=True)
class Tick:
    """The executor is ready to start workers and to assign units."""

    now: float


@dataclass(frozen=True)
class ClusterSeen:
    """The ids of the nodes alive, the number of workers there is room for, and the CPUs that each can get."""

    now: float
    alive_nodes: frozenset[str]
    room: int
    cpus: float


@dataclass(frozen=True)
class WorkerReady:
    """A worker is up on `node`; receipts and logs call it `name`."""

    worker: int
    node: str
    name: str


@dataclass(frozen=True)
class HeartbeatSeen:
    """The last heartbeat of a worker: the `count`-th of its assignment, at the beginning of `part`."""

    now: float
    worker: int
    assignment: int
    count: int
    part: str


@dataclass(frozen=True)
class UnitDone:
    """A worker has finished its unit."""

    worker: int
    result: Any


@dataclass(frozen=True)
class WorkerLost:
    """A worker has died. `heartbeats_known`: its last heartbeat was reported before this event."""

    worker: int
    reason: str
    preempted: bool
    heartbeats_known: bool
    alive_nodes: frozenset[str]


PoolEvent = (
    WarmUpRequested
    | StageStarted
    | StageEnded
    | PoolClosed
    | ShutdownRequested
    | Tick
    | ClusterSeen
    | WorkerReady
    | HeartbeatSeen
    | UnitDone
    | WorkerLost
)


# ---- instructions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StartWorker:
    """Start a worker of so many CPUs and report WorkerReady or WorkerLost."""

    worker: int
    cpus: float


@dataclass(frozen=True)
class AssignUnit:
    """Have an idle worker run a unit; if isolated, it waits until each heartbeat is recorded."""

    worker: int
    unit: int
    assignment: int
    isolated: bool


@dataclass(frozen=True)
class StopWorker:
    """End a worker and report nothing of it any more. `lost`: it has failed, rather than become superfluous."""

    worker: int
    lost: bool = False


@dataclass(frozen=True)
class QuarantinePart:
    """Replace a unit by one that leaves out `part`."""

    unit: int
    part: str
    reason: str


@dataclass(frozen=True)
class YieldResult:
    """Hand the result of a finished unit to the caller."""

    result: Any


@dataclass(frozen=True)
class LogEvent:
    """Write an event to the log."""

    event: str
    fields: Mapping[str, Any]
    message: str = ""
    warning: bool = False


@dataclass(frozen=True)
class ReportStartupDelay:
    """Say that no worker has come up for `waited` seconds, each needing `cpus` CPUs; fail if none ever can."""

    waited: float
    cpus: float


@dataclass(frozen=True)
class StopRun:
    """Raise StoppedError: shutdown was requested and no unit is running."""


@dataclass(frozen=True)
class Fail:
    """Raise KtBatchError."""

    message: str


Effect = (
    StartWorker | AssignUnit | StopWorker | QuarantinePart | LogEvent | ReportStartupDelay | StopRun | Fail
)  # all instructions that return nothing to the caller
Instruction = Effect | YieldResult
