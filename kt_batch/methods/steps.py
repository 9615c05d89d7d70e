"""Steps of iterative methods: whoever waits for a long picture learns how far it is, and that it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

# Called with the number of a step, that of all steps, and the loss; a value of a GPU is fetched only by who wants it.
Watch = Callable[[int, int, Tensor | None], None]

_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Have the steps of methods reported to `watch` within the block."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def report_step(number: int, total: int, loss: Tensor | None = None) -> None:
    """Report a step of `total`, from 1, with its loss where it is known. No result depends on it."""
    watch = _watch.get()
    if watch is not None:
        watch(number, total, loss)
