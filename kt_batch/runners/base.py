"""The contract of a runner: it runs units of work with workers, and knows no algorithm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

U = TypeVar("U")
R = TypeVar("R")
MOST_REPLICAS = 16  # of a keeper

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


class Keeper(Protocol):
    """An object that a service keeps. Its successor is made anew, and knows nothing of earlier requests."""

    def answer(self, requests: Sequence[Any], /) -> Any:
        """Answer the last of some requests, after the others."""


class Service(Protocol):
    """Keepers in processes of their own, numbered from 0. It can be sent to workers, which then ask the same ones.

    A keeper may have replicas, which know nothing of each other. A process asks one of them until that one is lost.
    """

    def ask(self, requests: Mapping[int, Sequence[Any]]) -> dict[int, Any]:
        """Return the answer of each keeper to the last of its requests; a lost one has a replica or a successor."""

    def ask_replicas(self, requests: Mapping[int, Sequence[Any]]) -> None:
        """Let every replica of some keepers answer requests; a lost one is left out where another has answered."""

    def tell(self, requests: Mapping[int, Sequence[Any]]) -> None:
        """Send requests to keepers, and wait for no answer."""

    def note(self, counts: Mapping[int, Mapping[str, float]]) -> None:
        """Add counts to those of each keeper, on which work is done for now."""

    def noted(self) -> list[dict[str, float]]:
        """Return the counts of each keeper so far, those of its replicas together.

        `waited` are the seconds that others waited for it, and `lost` their requests that were lost with a process.
        """

    def close(self) -> None:
        """End the processes."""


@runtime_checkable
class Serves(Protocol):
    """A runner that can also start keepers beside its workers."""

    workers: int

    def serve(self, factories: Sequence[Callable[[], Keeper]], memory: Sequence[int], replicas: int = 1) -> Service:
        """Start a keeper for each factory, in so many replicas, each with so many bytes of memory.

        The text of a factory names its keeper to people. They end with the runner, or at `close`.
        """


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
