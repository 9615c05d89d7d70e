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
    """`paintings` holds 1.png .. 4.png, `photos` 11.png .. 13.png, all 72 x 56, so 64 x 50 when encoded: 16 x 13 cells,
    15 x 12 patches. `library` is made of the paintings; `index` is the digest of its index."""

    paintings: Path
    photos: Path
    library: Path
    index: str


PATCHES = 15 * 12


class Recorder:
    """A local runner that remembers what it was given, and stops before unit number `stop_at`."""

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


class Meddler(LocalRunner):
    """Changes a file between plan and work."""

    def __init__(self, change: Callable[[], object]) -> None:
        super().__init__()
        self.change = change

    def run(self, factory: Factory, units: Sequence[Any], quarantine: Any = None) -> Iterator[Any]:
        self.change()
        return super().run(factory, units, quarantine)
