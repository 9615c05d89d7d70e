"""Actors that each keep one part of something large, and answer requests about it from any process of the cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError

from kt_batch.errors import KtBatchError
from kt_batch.process import tune_process

PATIENCE_SECONDS = 600.0  # for lost actors to come back; a new node may have to join first
PAUSE_SECONDS = 0.2  # before an actor that is starting again is asked again


class Keeper(Protocol):
    """An object that an actor keeps. Its successor is made anew, and knows nothing of earlier requests."""

    def answer(self, requests: Sequence[Any], /) -> Any:
        """Answer the last of some requests, after the others."""


class _KeeperActor:
    """Keeps what a factory makes, from the first request on. `factory` holds a reference to it."""

    def __init__(self, factory: list[Any], threads: int) -> None:
        self._factory = factory
        self._threads = threads
        self._keeper: Keeper | None = None

    def answer(self, requests: list[Any]) -> Any:
        if self._keeper is None:  # here and not in the constructor, so that an error is raised as it is
            tune_process()
            import torch

            torch.set_num_threads(self._threads)
            self._keeper = ray.get(self._factory[0])()
        return self._keeper.answer(requests)


class Keepers:
    """Keepers in actors. It can be sent to other processes, which then ask the same actors.

    Ray starts a lost actor again, on any node with room. Requests to it are asked again until it answers.
    """

    def __init__(self, factories: Sequence[Callable[[], Keeper]], threads: int, memory: Sequence[int]) -> None:
        """Start an actor for each factory.

        Args:
            factories: Each makes a keeper, also again for a successor.
            threads: CPUs of each actor.
            memory: Bytes that each actor reserves; Ray starts it on a node that has as many to spare.
        """
        actor: Any = ray.remote(_KeeperActor)
        # Ray needs the factories again for successors; they are there as long as something refers to them.
        self._factories = [ray.put(factory) for factory in factories]
        self._actors: list[Any] = [
            actor.options(max_restarts=-1, num_cpus=threads, memory=size).remote([factory], threads)
            for factory, size in zip(self._factories, memory, strict=True)
        ]

    def ask(self, requests: Mapping[int, Sequence[Any]]) -> dict[int, Any]:
        """Return the answer of each keeper to the last of its requests; all work at the same time.

        Raises:
            KtBatchError: A keeper was lost, and did not come back in PATIENCE_SECONDS; or its own error.
        """
        answers: dict[int, Any] = {}
        waited_since = time.monotonic()
        while left := [number for number in requests if number not in answers]:
            asked = {number: self._actors[number].answer.remote(list(requests[number])) for number in left}
            lost = None
            for number, answer in asked.items():
                try:
                    answers[number] = ray.get(answer)
                except RayActorError as error:
                    lost = number, error
            if lost is not None:
                if time.monotonic() - waited_since > PATIENCE_SECONDS:
                    raise KtBatchError(
                        f"Part {lost[0]} of {len(self._actors)} of the index was lost with its process, and did not "
                        f"come back in {PATIENCE_SECONDS:.0f} s: {str(lost[1]).splitlines()[0]}"
                    ) from lost[1]
                time.sleep(PAUSE_SECONDS)
        return answers

    def close(self) -> None:
        """End all actors."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
