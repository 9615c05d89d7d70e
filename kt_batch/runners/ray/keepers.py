"""Actors that each keep one part of something large, and answer requests about it from any process of the cluster."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock, Thread
from typing import Any, cast

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnschedulableError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
)

from kt_batch.errors import KtBatchError
from kt_batch.process import return_all_freed_memory, tune_process
from kt_batch.runners.base import Keeper
from kt_batch.runners.ray.actors import on_this_node, still_waiting
from kt_batch.runners.ray.metrics import KeeperMetrics
from kt_batch.runners.ray.replicas import Placement, Replicas
from kt_batch.runners.ray.startup import report_waiting_keepers

PATIENCE_SECONDS = 600.0  # for lost actors to come back; a new node may have to join first
PAUSE_SECONDS = 0.2  # before an actor that is starting again is asked again
START_POLL_SECONDS = 1.0  # between two looks whether shutdown is requested, while actors start
WAIT_REPORT_SECONDS = 2.0  # between two signs of life of a process that waits for an answer
SILENT_SECONDS = 3600.0  # for an answer, which a successor gives when it has staged its files
START_REPORT_SECONDS = 30.0  # between two warnings that they have not started
NOTE_TIMEOUT_SECONDS = 10.0
IDLE_SECONDS = 120.0  # without a request, until an actor lets go what it keeps
NEVER_STARTS = (ActorUnschedulableError, RuntimeEnvSetupError)
LOST = (RayActorError, ObjectLostError, *NEVER_STARTS)  # the actor, or an answer that its node still held
MOST_NAME = 300  # characters
INLINE_BYTES = 64 << 10  # Ray loses larger arguments of an actor, and cannot start it again


class _KeeperActor:
    """Keeps what a factory makes from the first request on, and lets it go when nobody has asked for a while."""

    _name = "kt_batch index owner"  # Ray asks for it too where the arguments of an actor cannot be read

    def __init__(self, name: str, factory: Callable[[], Keeper], threads: int, idle: float) -> None:
        self._name = name
        self._factory = factory
        self._threads = threads
        self._keeper: Keeper | None = None
        self._busy, self._asked = Lock(), time.monotonic()
        Thread(target=self._rest, args=(idle,), daemon=True).start()

    def __repr__(self) -> str:
        """Return its name in Ray's dashboard."""
        return self._name

    def ready(self) -> int:
        """Return the id of this process, as soon as the actor runs."""
        return os.getpid()

    def make(self) -> None:
        """Make the keeper, if there is none."""
        with self._busy:
            self._made()

    def answer(self, requests: list[Any]) -> Any:
        with self._busy:
            try:
                return self._made().answer(requests)
            finally:
                self._asked = time.monotonic()

    def _made(self) -> Keeper:
        if self._keeper is None:  # here and not in the constructor, so that an error is raised as it is
            tune_process()
            import torch

            torch.set_num_threads(self._threads)
            self._keeper = self._factory()
            self._asked = time.monotonic()
        return self._keeper

    def _rest(self, idle: float) -> None:
        """Let the keeper go whenever nobody has asked it for so many seconds; the next request makes another one."""
        while True:
            time.sleep(idle / 4)
            with self._busy:
                if self._keeper is not None and time.monotonic() - self._asked > idle:
                    self._keeper = None
                    return_all_freed_memory()


class _Tally:
    """Adds up what processes count of each keeper, and shows it to Prometheus."""

    def __init__(self, keepers: int) -> None:
        self._counts: list[Counter[str]] = [Counter() for _ in range(keepers)]
        self._metrics = KeeperMetrics()
        self._processes = 0

    def __repr__(self) -> str:
        """Return its name in Ray's dashboard."""
        return "kt_batch counts of index owners"

    def next_number(self) -> int:
        """Return the number of the next process that asks."""
        self._processes += 1
        return self._processes - 1

    def add(self, counts: dict[int, dict[str, float]]) -> None:
        for number, some in counts.items():
            self._counts[number].update(some)
            self._metrics.add(number, some)

    def read(self) -> list[dict[str, float]]:
        return [dict(counts) for counts in self._counts]


class _Counts:
    """The counts that the threads of one process keep of each keeper; a process that is sent this begins anew."""

    def __init__(self) -> None:
        self._counts: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Counts, ()

    def add(self, keeper: int, counts: Mapping[str, float]) -> None:
        with self._lock:
            self._counts[keeper].update(counts)

    def take(self) -> dict[int, dict[str, float]]:
        with self._lock:
            return {keeper: dict(self._counts.pop(keeper)) for keeper in sorted(self._counts)}


class _Losses:
    """The keepers that were lost while they were asked."""

    def __init__(self, keepers: int) -> None:
        self._keepers = keepers
        self._since: dict[int, float] = {}  # not since they were asked, for an answer may take longer than a start

    def add(self, keeper: int, error: Exception) -> None:
        """Note that a keeper was lost. Raises KtBatchError where it can never start, or has been lost for long."""
        if isinstance(error, NEVER_STARTS) or (isinstance(error, ActorDiedError) and error.actor_init_failed):
            raise KtBatchError(f"A part of the index cannot be served: {_first_line(error)}") from error
        now = time.monotonic()
        if now - self._since.setdefault(keeper, now) > PATIENCE_SECONDS:
            raise KtBatchError(
                f"Part {keeper} of {self._keepers} of the index was lost with its process, and did not come back in "
                f"{PATIENCE_SECONDS:.0f} s: {_first_line(error)}"
            ) from error


def _go_on() -> None:
    """Do nothing: no shutdown is requested."""


class Keepers:
    """Keepers in actors: a `Service`.

    Ray starts a lost actor again, on any node with room. Requests to it are asked again until it answers; with
    replicas, another one is asked at once. Actors reserve memory and no CPU: whoever asks them waits meanwhile, and
    leaves its own CPUs idle.
    """

    def __init__(
        self,
        factories: Sequence[Callable[[], Keeper]],
        threads: int,
        memory: Sequence[int],
        replicas: int = 1,
        check: Callable[[], None] = _go_on,
    ) -> None:
        """Start actors for each factory.

        Args:
            factories: Each makes a keeper, also again for a successor; at most INLINE_BYTES as Ray sends it. Its text
                names the keeper in Ray's dashboard.
            threads: Threads of each actor.
            memory: Bytes that each actor of a keeper reserves; Ray starts it on a node that has as many to spare.
            replicas: Actors of each keeper, on different nodes where there are as many.
            check: Called every second or two while this process waits for actors; may raise.
        """
        self._memory = [size for size in memory for _ in range(replicas)]
        self._placement = Placement(memory, replicas)
        self._check = check
        actor, name_of = cast("Any", ray.remote(_KeeperActor)), partial(_name, replicas=replicas)
        actors = [
            [
                actor.options(**options).remote(name_of(factory, number), _small(factory), threads, IDLE_SECONDS)
                for number, options in enumerate(self._placement.options(keeper))
            ]
            for keeper, factory in enumerate(factories)
        ]
        options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": on_this_node()}
        self._tally: Any = ray.remote(_Tally).options(**options).remote(len(factories))
        self._replicas = Replicas(actors, self._tally)
        self._counts = _Counts()

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what belongs to this process."""
        return {**vars(self), "_check": _go_on}

    def pids(self) -> list[int]:
        """Return the id of the process of each actor, on its own machine; replicas of a keeper follow each other."""
        found: list[int] = ray.get([actor.ready.remote() for _, actor in self._every()])
        return found

    def _every(self) -> list[tuple[int, Any]]:
        """Return all actors, each with the number of its keeper."""
        return list(self._replicas.each(range(len(self._replicas))))

    def wait_until_started(self) -> None:
        """Wait until all actors run.

        Raises:
            KtBatchError: An actor cannot be started, or was lost and did not come back.
        """
        began = reported = time.monotonic()

        def look(left: int) -> None:
            nonlocal reported
            if left and time.monotonic() - reported > START_REPORT_SECONDS:
                reported = time.monotonic()
                report_waiting_keepers(reported - began, left, self._memory)

        self._wait_for([(number, actor.ready.remote) for number, actor in self._every()], look)

    def ask_replicas(self, requests: Mapping[int, Sequence[Any]]) -> None:
        """Let every replica of some keepers answer requests.

        One that is lost is asked again, and left out where another of its keeper has answered.

        Raises:
            KtBatchError: All replicas of a keeper were lost, and did not come back; or the error of one.
        """
        every = self._replicas.each(requests)
        self._wait_for([(number, partial(actor.answer.remote, list(requests[number]))) for number, actor in every])

    def _wait_for(
        self, calls: Sequence[tuple[int, Callable[[], Any]]], look: Callable[[int], None] = lambda _: None
    ) -> None:
        """Wait until replicas answer calls, as `ask_replicas` says.

        Each call comes with the number of its keeper. `look` gets the number of those left, every second.
        """
        answered, losses = set[int](), _Losses(len(self._replicas))
        left = {call(): (number, call) for number, call in calls}
        while left:
            done, _ = ray.wait(list(left), num_returns=len(left), timeout=START_POLL_SECONDS)
            self._check()
            lost = []
            for answer in done:
                number, call = left.pop(answer)
                try:
                    ray.get(answer)
                    answered.add(number)
                except LOST as error:
                    if number not in answered:
                        losses.add(number, error)
                    lost.append((number, call))
                except RayTaskError as error:
                    raise _own_error(error) from error
            again = [(number, call) for number, call in lost if number not in answered]
            look(len(left) + len(again))
            if again:
                time.sleep(PAUSE_SECONDS)
            left |= {call(): (number, call) for number, call in again}

    def ask(self, requests: Mapping[int, Sequence[Any]]) -> dict[int, Any]:
        """Return the answer of each keeper to the last of its requests; all work at the same time.

        Where the chosen replica is lost, the next one is asked at once; the last one is followed by a pause.

        Raises:
            KtBatchError: A keeper was lost, and had not answered PATIENCE_SECONDS later; or it was silent for
                SILENT_SECONDS; or its own error.
        """
        answers, lost, losses = dict[int, Any](), set[int](), _Losses(len(self._replicas))
        left = {self._send(number, some): (number, time.monotonic()) for number, some in requests.items()}
        while left:
            done, _ = ray.wait(list(left), num_returns=1, timeout=WAIT_REPORT_SECONDS)
            if not done:
                self._go_on_waiting(left.values())
                continue
            answer = done[0]
            number, sent = left.pop(answer)
            self._counts.add(number, {"waited": time.monotonic() - sent})
            try:
                answers[number] = ray.get(answer)
            except LOST as error:
                lost.add(number)
                if self._replicas.turn(number):
                    losses.add(number, error)
                    time.sleep(PAUSE_SECONDS)
                left[self._send(number, requests[number])] = number, time.monotonic()
            except RayTaskError as error:
                raise _own_error(error) from error
        for number in sorted(lost):
            self._counts.add(number, {"lost": 1})
        return answers

    def _go_on_waiting(self, left: Iterable[tuple[int, float]]) -> None:
        """Say that this process is alive. Raises KtBatchError for a keeper that was asked SILENT_SECONDS ago.

        Args:
            left: Keepers that have not answered, and when they were asked.
        """
        self._check()
        still_waiting()
        for number, sent in left:
            if time.monotonic() - sent > SILENT_SECONDS:
                raise KtBatchError(
                    f"Part {number} of {len(self._replicas)} of the index has not answered for {SILENT_SECONDS:.0f} s, "
                    "and its process is not lost; start the same command again to go on."
                )

    def _send(self, number: int, requests: Sequence[Any]) -> Any:
        """Send requests to the chosen replica of a keeper; return what becomes its answer."""
        return self._replicas.chosen(number).answer.remote(list(requests))

    def tell(self, requests: Mapping[int, Sequence[Any]]) -> None:
        """Send requests to keepers, and wait for no answer."""
        for number, some in requests.items():
            self._send(number, some)

    def note(self, counts: Mapping[int, Mapping[str, float]]) -> None:
        """Add counts to those of each keeper, with what this process has counted of them since.

        Work on these keepers is done for now: the process comes back to its own replicas.
        """
        for number, some in counts.items():
            self._counts.add(number, some)
        self._replicas.come_back(counts)
        with suppress(RayError, GetTimeoutError):  # what is counted matters less than the work
            ray.get(self._tally.add.remote(self._counts.take()), timeout=NOTE_TIMEOUT_SECONDS)

    def noted(self) -> list[dict[str, float]]:
        """Return the counts of each keeper so far; nothing where they are lost."""
        try:
            found: list[dict[str, float]] = ray.get(self._tally.read.remote(), timeout=NOTE_TIMEOUT_SECONDS)
        except (RayError, GetTimeoutError):
            return []
        return found

    def close(self) -> None:
        """End all actors."""
        for _, actor in self._every():
            _kill(actor)
        if self._tally is not None:
            _kill(self._tally)
        self._placement.close()
        self._replicas, self._tally = Replicas([], None), None


def _name(factory: Callable[[], Keeper], replica: int, *, replicas: int) -> str:
    """Return what Ray's dashboard calls an actor; other runs may have actors of the same name."""
    name = f"kt_batch {factory}"[:MOST_NAME]
    return f"{name}, replica {replica} of {replicas}" if replicas > 1 else name


def _small(factory: Callable[[], Keeper]) -> Callable[[], Keeper]:
    """Return a factory. Raises ValueError for one that Ray would lose."""
    if (size := len(ray.cloudpickle.dumps(factory))) > INLINE_BYTES:
        raise ValueError(f"A factory of a keeper has {size} bytes; allowed are {INLINE_BYTES}.")
    return factory


def _kill(actor: Any) -> None:
    with suppress(RayError, ValueError):  # the actor may be gone, or Ray itself
        ray.kill(actor)


def _own_error(error: RayTaskError) -> Exception:
    """Return the error of an actor itself: Ray's derived error has a traceback for its message."""
    return error.cause if isinstance(error.cause, Exception) else error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
