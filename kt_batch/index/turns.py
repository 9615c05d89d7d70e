"""Threads that compute in turn: one computes, while others wait for the answers of other processes.

Two threads that compute at a time would take twice the processors of a worker, and both would set the threads of torch
(index.threads). So a thread that waits leaves the turn to another one, and takes it again before it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from threading import Lock
from typing import TypeVar

import torch

R = TypeVar("R")

_turn: ContextVar[Lock | None] = ContextVar("turn", default=None)


def takes_turns() -> bool:
    """Return whether the calling thread is one of several that compute in turn."""
    return _turn.get() is not None


@contextmanager
def waiting() -> Iterator[None]:
    """Leave the turn to another thread within the block, which computes nothing."""
    turn = _turn.get()
    if turn is None:
        yield
        return
    turn.release()
    try:
        yield
    finally:
        turn.acquire()


class Turns:
    """Threads that compute in turn. They live as long as this object, since memory is kept for every new thread."""

    def __init__(self, threads: int) -> None:
        """Start at most so many threads, when they are needed."""
        self._threads = ThreadPoolExecutor(threads)
        self._turn = Lock()

    def submit(self, work: Callable[[], R]) -> Future[R]:
        """Run `work` on a thread, in turn with others. It sees the context variables of the caller.

        Where the caller takes turns with other threads, `work` takes them with these too.
        """
        turn, inference = _turn.get() or self._turn, torch.is_inference_mode_enabled()  # the latter is per thread
        threads = torch.get_num_threads()

        def in_turn() -> R:
            _turn.set(turn)
            with turn, torch.inference_mode(inference):
                torch.set_num_threads(threads)
                return work()

        return self._threads.submit(copy_context().run, in_turn)

    def each(self, works: Sequence[Callable[[], R]]) -> list[R]:
        """Return the results of all, in order, after all have ended. Raises the error of the first that has one."""
        futures = [self.submit(work) for work in works]
        with waiting():
            errors = [future.exception() for future in futures]
        for error in errors:
            if error is not None:
                raise error
        return [future.result() for future in futures]
