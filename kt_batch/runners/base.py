"""The contract of a runner: it runs units of work with workers, and knows no algorithm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

U = TypeVar("U")
R = TypeVar("R")

# A worker calls its heartbeat with the part of the unit that it begins. The answer says whether the unit has already
# cost a worker and must be done in isolation: one part at a time, without concurrent work.
Heartbeat = Callable[[str], bool]
Worker = Callable[[U, Heartbeat], R]
Quarantine = Callable[[U, str, str], U]  # (unit, part, reason) -> the unit without that part


def no_heartbeat(part: str) -> bool:  # noqa: ARG001
    """Ignore the heartbeat: nothing watches this worker."""
    return False


class Runner(Protocol):
    """Runs units of work."""

    def run(
        self,
        factory: Callable[[], Worker[U, R]],
        units: Sequence[U],
        quarantine: Quarantine[U] | None = None,
    ) -> Iterator[R]:
        """Yield the result of every unit, in the order in which they finish.

        Args:
            factory: Makes a worker in the process that does the work. A worker lives through many units.
            units: The work.
            quarantine: Takes a part out of a unit after it has cost several workers. Without it the run fails then.
        """
