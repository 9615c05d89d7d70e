"""A plain loop in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from kt_batch.events import log_context, log_event, set_context
from kt_batch.runners.shutdown import GracefulShutdown
from kt_batch.store.receipts import this_worker

U = TypeVar("U")
R = TypeVar("R")


class LocalRunner:
    """Runs units one after the other with one worker."""

    def __init__(self, shutdown: GracefulShutdown | None = None) -> None:
        self._shutdown = shutdown or GracefulShutdown()

    def run(
        self,
        factory: Callable[[], Callable[[U, Callable[[str], bool]], R]],
        units: Sequence[U],
        quarantine: Callable[[U, str, str], U] | None = None,  # noqa: ARG002
    ) -> Iterator[R]:
        """Yield the result of each unit; the worker is made when the first unit is due. Nobody watches a loop in one's
        own process: `condemn` is never called. Raises StoppedError between units when the end was asked for."""
        worker: Callable[[U, Callable[[str], bool]], R] | None = None
        for unit in units:
            self._shutdown.check()
            with log_context(unit=unit_name(unit), worker=this_worker()):
                log_event("unit_started")
                worker = worker or factory()
                result = worker(unit, _begins)
            yield result

    def close(self) -> None:
        """Nothing to close."""


def unit_name(unit: object) -> str:
    """How a unit is called in the log."""
    return str(getattr(unit, "id", unit))


def _begins(part: str) -> bool:
    """A heartbeat: nobody waits for it, but the log should know what it is about."""
    set_context(image=part)
    return False
