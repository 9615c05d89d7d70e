"""The plain loop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from kt_batch.errors import StoppedError, UsageError
from kt_batch.runners.local import LocalRunner
from kt_batch.runners.shutdown import GracefulShutdown


class Counting:
    """A factory that counts the workers it made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> Callable[[int, object], int]:
        self.made += 1
        return lambda unit, beat: unit * unit


def test_units_are_done_in_order_by_one_worker() -> None:
    factory = Counting()
    assert list(LocalRunner().run(factory, [1, 2, 3])) == [1, 4, 9]
    assert factory.made == 1


def test_without_units_no_worker_is_made() -> None:
    factory = Counting()
    assert list(LocalRunner().run(factory, [])) == []
    assert factory.made == 0


def test_results_come_while_later_units_wait() -> None:
    begun: list[int] = []

    def worker(unit: int, beat: object) -> int:
        begun.append(unit)
        return unit

    results = LocalRunner().run(lambda: worker, [1, 2, 3])
    assert next(results) == 1
    assert begun == [1]


def test_an_error_ends_the_loop_after_what_was_done() -> None:
    def worker(unit: int, beat: object) -> int:
        if unit == 2:
            raise UsageError("two is not possible")
        return unit

    results = LocalRunner().run(lambda: worker, [1, 2, 3])
    assert next(results) == 1
    with pytest.raises(UsageError, match="two is not possible"):
        next(results)
    assert list(results) == []


def test_a_loop_that_was_asked_to_end_finishes_the_unit_it_is_at() -> None:
    shutdown = GracefulShutdown()

    def worker(unit: int, beat: object) -> int:
        shutdown.requested = unit == 2
        return unit

    results = LocalRunner(shutdown).run(lambda: worker, [1, 2, 3])
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(StoppedError, match=r"^stopped as asked; what was begun is finished, start the same command"):
        next(results)


def test_sigterm_is_a_request_the_first_time_and_an_order_the_second() -> None:
    shutdown = GracefulShutdown()
    before = signal.getsignal(signal.SIGTERM)
    with shutdown.on_sigterm():
        assert not shutdown.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert shutdown.requested
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before
