"""A collection of paintings and photographs with its library, and runners that interfere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kt_batch.runners.local import LocalRunner

Factory = Callable[[], Callable[[Any, Callable[[str], bool]], Any]]


@dataclass(frozen=True)
class Collection:
    """Paintings, photographs, and the library of the paintings.

    `paintings` contains 1.png .. 4.png and `photos` 11.png .. 13.png, all 72 x 56. Encoded they have 64 x 50 pixels,
    16 x 13 cells and 15 x 12 patches. `index` is the digest of the index of `library`.
    """

    paintings: Path
    photos: Path
    library: Path
    index: str


PATCHES = 15 * 12


class Recorder:
    """A local runner that records its units and stops before unit number `stop_at`."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.units: list[Any] = []
        self.stop_at = stop_at

    def run(self, factory: Factory, units: Sequence[Any], quarantine: Any = None) -> Iterator[Any]:
        self.units += units
        results = LocalRunner().run(factory, units, quarantine)
        for number, _ in enumerate(units):
            if number == self.stop_at:
                raise ZeroDivisionError("a worker broke")
            yield next(results)

    def hosts(self) -> int:
        return 1


class Stopping(LocalRunner):
    """A runner that fails after a number of units over all stages."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def run(self, factory: Factory, units: Sequence[Any], quarantine: Any = None) -> Iterator[Any]:
        for result in super().run(factory, units, quarantine):
            yield result
            self.left -= 1
            if self.left == 0:
                raise ZeroDivisionError("a worker broke")


class Meddler(LocalRunner):
    """A runner that changes a file between planning and work."""

    def __init__(self, change: Callable[[], object]) -> None:
        super().__init__()
        self.change = change

    def run(self, factory: Factory, units: Sequence[Any], quarantine: Any = None) -> Iterator[Any]:
        self.change()
        return super().run(factory, units, quarantine)
