"""The local runner is a plain loop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from kt_batch.errors import StoppedError, UsageError
from kt_batch.runners.local import LocalRunner
from kt_batch.runners.shutdown import GracefulShutdown


class Counting:
    """A factory that counts the workers it creates."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> Callable[[int, object], int]:
        self.made += 1
        return lambda unit, beat: unit * unit


def test_one_worker_does_the_units_in_order() -> None:
    factory = Counting()
    assert list(LocalRunner().run(factory, [1, 2, 3])) == [1, 4, 9]
    assert factory.made == 1


def test_without_units_no_worker_is_created() -> None:
    factory = Counting()
    assert list(LocalRunner().run(factory, [])) == []
    assert factory.made == 0


def test_results_arrive_before_later_units_begin() -> None:
    begun: list[int] = []

    def worker(unit: int, beat: object) -> int:
        begun.append(unit)
        return unit

    results = LocalRunner().run(lambda: worker, [1, 2, 3])
    assert next(results) == 1
    assert begun == [1]


def test_an_error_ends_the_loop_after_the_finished_results() -> None:
    def worker(unit: int, beat: object) -> int:
        if unit == 2:
            raise UsageError("two is not possible")
        return unit

    results = LocalRunner().run(lambda: worker, [1, 2, 3])
    assert next(results) == 1
    with pytest.raises(UsageError, match="two is not possible"):
        next(results)
    assert list(results) == []


def test_a_loop_that_shuts_down_finishes_its_current_unit() -> None:
    shutdown = GracefulShutdown()

    def worker(unit: int, beat: object) -> int:
        shutdown.requested = unit == 2
        return unit

    results = LocalRunner(shutdown).run(lambda: worker, [1, 2, 3])
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(StoppedError, match=r"^stopped as asked; what was begun is finished, start the same command"):
        next(results)


def test_the_first_sigterm_requests_a_shutdown_and_the_second_forces_it() -> None:
    shutdown = GracefulShutdown()
    before = signal.getsignal(signal.SIGTERM)
    with shutdown.on_sigterm():
        assert not shutdown.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert shutdown.requested
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before
