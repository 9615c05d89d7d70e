"""Events and heartbeats within one image, for methods that work on it for minutes."""

from __future__ import annotations

import time

from torch import Tensor

from kt_batch.events import log_event
from kt_batch.runners.base import Heartbeat

SECONDS = 10.0  # between two events of an image


class StepEvents:
    """Logs the event `step` with the loss every few seconds, and says that the worker goes on with the image."""

    def __init__(self, image: str, beat: Heartbeat, seconds: float | None = None) -> None:
        self._image, self._beat = image, beat
        self._seconds = SECONDS if seconds is None else seconds
        self._due = time.monotonic() + self._seconds

    def __call__(self, number: int, total: int, loss: Tensor | None) -> None:
        """Log a step where an event is due."""
        if time.monotonic() < self._due:
            return
        self._beat(self._image)  # its deadline starts again
        value = None if loss is None else round(loss.item(), 6)
        log_event("step", f"step {number} of {total}", image=self._image, step=number, of=total, loss=value)
        self._due = time.monotonic() + self._seconds
