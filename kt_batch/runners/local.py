"""A plain loop in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

U = TypeVar("U")
R = TypeVar("R")


class LocalRunner:
    """Runs units one after the other with one worker."""

    def run(self, factory: Callable[[], Callable[[U], R]], units: Sequence[U], *, keep_worker: bool) -> Iterator[R]:  # noqa: ARG002
        """Yield the result of each unit. The worker is made when the first unit is due; `keep_worker` changes nothing
        here, since the one worker is always kept."""
        worker: Callable[[U], R] | None = None
        for unit in units:
            worker = worker or factory()
            yield worker(unit)

    def close(self) -> None:
        """Nothing to close."""
