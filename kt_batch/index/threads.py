"""Map work over threads that compute on one thread each.

The products of a search are too small for a linear algebra library to split. Its queries and leaves are not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Protocol, TypeVar

import torch

P = TypeVar("P")
R = TypeVar("R")


class Each(Protocol):
    """A function that applies `work` to every part."""

    def __call__(self, work: Callable[[P], R], parts: Iterable[P], /) -> list[R]:
        """Return the results, in the order of the parts."""


def in_turn(work: Callable[[P], R], parts: Iterable[P], /) -> list[R]:
    """Apply `work` to every part on the calling thread: an `Each`."""
    return [work(part) for part in parts]


@contextmanager
def parallel_map() -> Iterator[Each]:
    """Yield an `Each` on as many threads as torch has. Not re-entrant: work on a part must not map its own parts."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield in_turn
        return

    inference = torch.is_inference_mode_enabled()  # per thread

    def each(work: Callable[[P], R], parts: Iterable[P], /) -> list[R]:
        def in_mode(part: P) -> R:
            with torch.inference_mode(inference):
                return work(part)

        return list(_pool(threads).map(in_mode, parts))

    torch.set_num_threads(1)
    try:
        yield each
    finally:
        torch.set_num_threads(threads)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads that live as long as the process. The allocator keeps memory for every thread ever started."""
    return ThreadPoolExecutor(threads)


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked child has no threads of its parent
