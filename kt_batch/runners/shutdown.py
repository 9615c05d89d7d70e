"""SIGTERM is a request: finish what is begun, commit it, begin nothing new."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from kt_batch.errors import StoppedError
from kt_batch.events import log_event


class GracefulShutdown:
    """Whether somebody asked for the end. Runners look at it before they hand out a unit."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raise StoppedError when the end was asked for; to be called when nothing is under way."""
        if self.requested:
            log_event("drained")
            raise StoppedError("stopped as asked; what was begun is finished, start the same command again to go on.")

    @contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """Within, the first SIGTERM sets `requested`, and a second one ends the process as if there were no handler.

        For the main thread, after `ray.init`, which sets a handler of its own.
        """
        previous: Any = signal.getsignal(signal.SIGTERM)

        def request(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            self.requested = True
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            log_event("drain_requested", "SIGTERM: what is begun will be finished, nothing else begun")

        signal.signal(signal.SIGTERM, request)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)
