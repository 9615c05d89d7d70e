"""The contract of a runner: it runs units of work with workers, and knows no algorithm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

U = TypeVar("U")
R = TypeVar("R")

# A worker calls its heartbeat with the part of the unit that it begins. The answer says whether the unit has already
# cost a worker and must be done in isolation: one part at a time, without concurrent work.
Heartbeat = Callable[[str], bool]
Worker = Callable[[U, Heartbeat], R]
Quarantine = Callable[[U, str, str], U]  # (unit, part, reason) -> the unit without that part


# Called with the name of a unit and the part of it that a worker begins.
PartSeen = Callable[[str, str], None]


def no_heartbeat(part: str) -> bool:  # noqa: ARG001
    """Ignore the heartbeat: nothing watches this worker."""
    return False


@runtime_checkable
class ReportsParts(Protocol):
    """A runner that also reports the parts of units as they begin, as far as it knows them."""

    on_part: PartSeen | None


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

    def hosts(self) -> int:
        """Return the number of hosts that workers may run on now; a cluster may grow later."""
