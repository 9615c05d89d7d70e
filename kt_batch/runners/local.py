"""A plain loop in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from kt_batch.runners.drain import Drain

U = TypeVar("U")
R = TypeVar("R")


class LocalRunner:
    """Runs units one after the other with one worker."""

    def __init__(self, drain: Drain | None = None) -> None:
        self._drain = drain or Drain()

    def run(
        self,
        factory: Callable[[], Callable[[U, Callable[[str], None]], R]],
        units: Sequence[U],
        condemn: Callable[[U, str, str], U] | None = None,  # noqa: ARG002
    ) -> Iterator[R]:
        """Yield the result of each unit; the worker is made when the first unit is due. Nobody watches a loop in one's
        own process: `condemn` is never called. Raises StoppedError between units when the end was asked for."""
        worker: Callable[[U, Callable[[str], None]], R] | None = None
        for unit in units:
            self._drain.check()
            worker = worker or factory()
            yield worker(unit, _unheard)

    def close(self) -> None:
        """Nothing to close."""


def _unheard(part: str) -> None:
    """A heartbeat that nobody waits for."""
