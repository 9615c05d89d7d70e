"""Work shared out among threads that each compute on one thread of their own.

What a search multiplies is too small to be split by a library of linear algebra; its queries and leaves are not.
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
    """A function that does `work` on every part."""

    def __call__(self, work: Callable[[P], R], parts: Iterable[P], /) -> list[R]:
        """The results, in the order of the parts."""


def in_turn(work: Callable[[P], R], parts: Iterable[P], /) -> list[R]:
    """`Each` on the thread that asks."""
    return [work(part) for part in parts]


@contextmanager
def parallel_map() -> Iterator[Each]:
    """Within, an `Each` on as many threads as torch has. Work on a part must not share out its own."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield in_turn
        return

    inference = torch.is_inference_mode_enabled()  # which torch keeps by thread

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
    """Threads that live as long as the process: new ones for every search would each leave memory behind, as the
    allocator keeps a share for each."""
    return ThreadPoolExecutor(threads)


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of its parent's threads
