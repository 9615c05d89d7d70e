"""The plain loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kt_batch.errors import UsageError
from kt_batch.runners.local import LocalRunner


class Counting:
    """A factory that counts the workers it made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> Callable[[int], int]:
        self.made += 1
        return lambda unit: unit * unit


@pytest.mark.parametrize("keep_worker", [False, True])
def test_units_are_done_in_order_by_one_worker(keep_worker: bool) -> None:
    factory = Counting()
    assert list(LocalRunner().run(factory, [1, 2, 3], keep_worker=keep_worker)) == [1, 4, 9]
    assert factory.made == 1


def test_without_units_no_worker_is_made() -> None:
    factory = Counting()
    assert list(LocalRunner().run(factory, [], keep_worker=True)) == []
    assert factory.made == 0


def test_results_come_while_later_units_wait() -> None:
    begun: list[int] = []

    def worker(unit: int) -> int:
        begun.append(unit)
        return unit

    results = LocalRunner().run(lambda: worker, [1, 2, 3], keep_worker=False)
    assert next(results) == 1
    assert begun == [1]


def test_an_error_ends_the_loop_after_what_was_done() -> None:
    def worker(unit: int) -> int:
        if unit == 2:
            raise UsageError("two is not possible")
        return unit

    results = LocalRunner().run(lambda: worker, [1, 2, 3], keep_worker=False)
    assert next(results) == 1
    with pytest.raises(UsageError, match="two is not possible"):
        next(results)
    assert list(results) == []
