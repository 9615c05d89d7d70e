"""A runner whose keepers are in this process: owners of an index without a cluster."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from threading import Lock
from typing import Any

from kt_batch.index.turns import _turn
from kt_batch.runners.base import Keeper
from kt_batch.runners.local import LocalRunner


class KeepersHere:
    """Keepers in this process, with messages as copies. Before every few questions one of them is lost.

    They compute in turn with the threads that ask: elsewhere they are in processes of their own, and the precision of
    products (models.precision), which is one for a process, is then not theirs.

    With replicas, the next one is asked instead, and the first one again later, which knows what it was asked before.
    asked: How many messages of each kind were sent. lost: How many keepers were.
    """

    def __init__(self, factories: Sequence[Callable[[], Keeper]], every: int, replicas: int = 1) -> None:
        self.factories, self.every, self.replicas = factories, every, replicas
        self.keepers = [[factory() for _ in range(replicas)] for factory in factories]
        self.questions = self.lost = 0
        self.asked: Counter[str] = Counter()
        self.counts: list[Counter[str]] = [Counter() for _ in factories]
        self._one = Lock()  # a keeper answers one thread at a time

    def ask(self, requests: Mapping[int, Sequence[Any]]) -> dict[int, Any]:
        with _turn.get() or nullcontext(), self._one:
            return self._ask(requests)

    def _ask(self, requests: Mapping[int, Sequence[Any]]) -> dict[int, Any]:
        self.questions += 1
        if self.questions % self.every == 0:
            self.lost += 1
            number = self.lost % len(self.keepers)
            lost = self.keepers[number].pop(0)
            self.keepers[number].append(lost if self.keepers[number] else self.factories[number]())
        return {number: self._asked(self.keepers[number][0], some) for number, some in requests.items()}

    def _asked(self, keeper: Keeper, requests: Sequence[Any]) -> Any:
        self.asked.update(type(request).__name__ for request in requests)
        return copied(keeper.answer(copied(list(requests))))

    def ask_replicas(self, requests: Mapping[int, Sequence[Any]]) -> None:
        for number, some in requests.items():
            for keeper in self.keepers[number]:
                self._asked(keeper, some)

    def tell(self, requests: Mapping[int, Sequence[Any]]) -> None:
        with self._one:  # whoever tells has the turn
            self._ask(requests)

    def note(self, counts: Mapping[int, Mapping[str, float]]) -> None:
        for number, some in counts.items():
            self.counts[number].update({name: int(value) for name, value in some.items()})

    def noted(self) -> list[dict[str, float]]:
        return [dict(counts) for counts in self.counts]

    def close(self) -> None:
        self.keepers = []


class ServingRunner(LocalRunner):
    """One worker in this process, and keepers beside it."""

    def __init__(self, every: int = 10**9) -> None:
        super().__init__()
        self.workers, self.every = 1, every
        self.service = KeepersHere((), every)

    def serve(self, factories: Sequence[Callable[[], Keeper]], memory: Sequence[int], replicas: int = 1) -> KeepersHere:
        assert len(factories) == len(memory)
        self.service = KeepersHere(factories, self.every, replicas)
        return self.service


def copied(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))
