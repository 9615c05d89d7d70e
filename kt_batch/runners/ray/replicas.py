"""The replicas of keepers: where they run, which of them a process asks, and when it turns to another one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


class Placement:
    """The places of the actors of keepers: replicas of one keeper lie on different nodes, if there are as many."""

    def __init__(self, memory: Sequence[int], replicas: int) -> None:
        """Take the bytes that each actor of a keeper reserves, and the number of its actors."""
        self._memory, self._replicas = memory, replicas
        groups = memory if replicas > 1 else ()
        self._groups: list[Any] = [placement_group([{"memory": size}] * replicas, "SPREAD") for size in groups]

    def options(self, keeper: int) -> list[dict[str, Any]]:
        """Return Ray's options of each actor of a keeper."""
        strategies: list[Any] = ["SPREAD"]  # of all keepers, which is no promise for two of them
        if self._groups:
            group = self._groups[keeper]
            strategies = [PlacementGroupSchedulingStrategy(group, number) for number in range(self._replicas)]
        same = {"memory": self._memory[keeper], "max_restarts": -1, "num_cpus": 0}
        return [{**same, "scheduling_strategy": strategy} for strategy in strategies]

    def close(self) -> None:
        """Give the places back."""
        for group in self._groups:
            with suppress(RayError, ValueError):  # Ray itself may be gone
                remove_placement_group(group)
        self._groups = []


class Replicas:
    """The replicas of keepers, as one process asks them; a process that is sent this begins anew.

    A process asks one replica of each keeper, which then knows its earlier requests. When that one is lost, the process
    turns to the next one, and comes back between two pieces of work, as soon as its own one is made again.
    """

    def __init__(self, actors: Sequence[Sequence[Any]], numbers: Any) -> None:
        """Take the replicas of each keeper, and an actor whose `next_number` numbers the processes that ask."""
        self._actors, self._numbers = actors, numbers
        self._process: int | None = None
        self._turned: dict[int, int] = {}  # keeper -> how many replicas after its own one the process asks
        self._made: dict[int, Any] = {}  # keeper -> an answer that comes when its own replica is made again

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave behind what belongs to this process."""
        return Replicas, (self._actors, self._numbers)

    def __len__(self) -> int:
        """Return the number of keepers."""
        return len(self._actors)

    def each(self, keepers: Iterable[int]) -> Iterator[tuple[int, Any]]:
        """Yield the number of a keeper with each of its replicas, for some keepers."""
        for keeper in keepers:
            for actor in self._actors[keeper]:
                yield keeper, actor

    def chosen(self, keeper: int) -> Any:
        """Return the replica that this process asks."""
        return self._replica(keeper, self._turned.get(keeper, 0))

    def turn(self, keeper: int) -> bool:
        """Turn to the next replica, after the chosen one was lost; return whether all have had their turn."""
        if len(self._actors[keeper]) == 1:
            return True
        turned = self._turned.get(keeper, 0)
        if turned == 0:
            self._made[keeper] = self._replica(keeper, 0).make.remote()
        self._turned[keeper] = (turned + 1) % len(self._actors[keeper])
        return self._turned[keeper] == 0

    def come_back(self, keepers: Iterable[int]) -> None:
        """Come back to the own replicas of some keepers, where they are made again."""
        for keeper in keepers:
            if self._turned.get(keeper) and ray.wait([self._made[keeper]], timeout=0)[0]:
                try:
                    ray.get(self._made[keeper])
                    self._turned[keeper] = 0
                except RayError:  # it has not started again
                    self._made[keeper] = self._replica(keeper, 0).make.remote()

    def _replica(self, keeper: int, turned: int) -> Any:
        """Return the own replica of this process, or one so many after it."""
        replicas = self._actors[keeper]
        if len(replicas) == 1:
            return replicas[0]
        if self._process is None:
            self._process = _answer_of(self._numbers.next_number.remote())
        return replicas[(self._process + keeper + turned) % len(replicas)]


def _answer_of(asked: Any) -> int:
    try:
        number: int = ray.get(asked)
    except RayError:  # processes then share a number
        return 0
    return number
