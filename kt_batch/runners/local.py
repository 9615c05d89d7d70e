"""Run units in a loop in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from kt_batch.events import log_context, log_event, set_context
from kt_batch.runners.base import PartSeen
from kt_batch.runners.shutdown import GracefulShutdown
from kt_batch.store.receipts import this_worker

U = TypeVar("U")
R = TypeVar("R")


class LocalRunner:
    """Runs units one after the other, with one worker per call of `run`."""

    def __init__(self, shutdown: GracefulShutdown | None = None) -> None:
        self._shutdown = shutdown or GracefulShutdown()
        self.on_part: PartSeen | None = None

    def run(
        self,
        factory: Callable[[], Callable[[U, Callable[[str], bool]], R]],
        units: Sequence[U],
        quarantine: Callable[[U, str, str], U] | None = None,  # noqa: ARG002
    ) -> Iterator[R]:
        """Yield the result of each unit, in order. The worker is made for the first unit.

        `quarantine` is never called: a process cannot watch itself.

        Raises:
            StoppedError: Shutdown was requested before the next unit began.
        """
        worker: Callable[[U, Callable[[str], bool]], R] | None = None
        for unit in units:
            self._shutdown.check()
            with log_context(unit=unit_name(unit), worker=this_worker()):
                log_event("unit_started")
                worker = worker or factory()
                result = worker(unit, partial(self._heartbeat, unit_name(unit)))
            yield result

    def hosts(self) -> int:
        """Return 1."""
        return 1

    def close(self) -> None:
        """Do nothing: there is no resource to release."""

    def _heartbeat(self, unit: str, part: str) -> bool:
        """Add the part to the log's context; units never run in isolation here."""
        set_context(image=part)
        if self.on_part is not None:
            self.on_part(unit, part)
        return False


def unit_name(unit: object) -> str:
    """Return the name of a unit in the log."""
    return str(getattr(unit, "id", unit))
