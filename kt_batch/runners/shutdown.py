"""Shut down gracefully on SIGTERM: running units finish and commit, no new unit begins."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from kt_batch.errors import StoppedError
from kt_batch.events import log_event


class GracefulShutdown:
    """Holds whether shutdown is requested. Runners check it before they assign a unit."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raise StoppedError if shutdown is requested. Call it when no unit is running."""
        if self.requested:
            log_event("drained")
            raise StoppedError("stopped as asked; what was begun is finished, start the same command again to go on.")

    @contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """Set `requested` at the first SIGTERM within the block; a second SIGTERM ends the process.

        Call it in the main thread, and after `ray.init`, which sets its own handler.
        """
        previous: Any = signal.getsignal(signal.SIGTERM)

        def request(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            self.requested = True
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            log_event("drain_requested", "SIGTERM: running units will finish, no new unit will begin")

        signal.signal(signal.SIGTERM, request)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)
