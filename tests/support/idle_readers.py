"""Processes that decode images, kept from run to run of the tests: starting one is half of the work of a small run.

Between two images such a process holds no state, and real runs keep one for thousands of images. What its start, its
end and its limits do is tested without this, in `tests/store/images`, and by the tests that start commands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from kt_batch.errors import RejectError
from kt_batch.store.images import reader_process
from kt_batch.store.images.file_bytes import Data
from kt_batch.store.images.originals import Original
from kt_batch.store.images.reader_channel import Answer, Child, Deadline


class KeptChild(Child):
    """A child that waits for the next reader when its own one ends, unless that left it in the middle of an answer."""

    idle: ClassVar[list[Child]] = []

    def __init__(self, command: Sequence[str]) -> None:
        self.kept = tuple(command) == reader_process._COMMAND
        self.rows = self.asked = 0  # rows of an original that are still to come; requests without an answer
        self.greeted = self.ended = False
        other = self._waiting() if self.kept else None
        if other is None:
            super().__init__(command)
        else:
            self.to, self.process, self.answers, self.back = other.to, other.process, other.answers, other.back
            self.greeted = True

    def _waiting(self) -> Child | None:
        """Return a child that waits and lives."""
        while True:
            try:
                other = self.idle.pop()
            except IndexError:
                return None
            if other.process.poll() is None:
                return other
            other.end()

    def greet(self) -> None:
        if not self.greeted:
            super().greet()
        self.greeted = True

    def end(self) -> None:
        if self.ended:
            return
        self.ended = True
        if self.kept and self.greeted and not self.rows and not self.asked and self.process.poll() is None:
            waiting = Child.__new__(Child)
            waiting.to, waiting.process, waiting.answers, waiting.back = self.to, self.process, self.answers, self.back
            self.idle.append(waiting)
        else:
            super().end()

    def _request(self, kind: int, data: Data, option: int, seconds: float, deadline: Deadline) -> None:
        self.asked += 1
        super()._request(kind, data, option, seconds, deadline)

    def ask(self, *arguments: Any) -> Answer | RejectError:
        answer = super().ask(*arguments)
        self.asked -= 1
        return answer

    def metadata(self, *arguments: Any) -> Any:
        answer = super().metadata(*arguments)
        self.asked -= 1
        return answer

    def converted(self, *arguments: Any) -> NDArray[np.uint16] | RejectError:
        answer = super().converted(*arguments)
        self.asked -= 1
        return answer

    def describe(self, *arguments: Any) -> Original | RejectError:
        answer = super().describe(*arguments)
        self.asked -= 1
        self.rows = 0 if isinstance(answer, RejectError) else answer.height
        return answer

    def band(self, original: Original, left: int, deadline: Deadline) -> NDArray[Any] | RejectError:
        band = super().band(original, left, deadline)
        self.rows = 0 if isinstance(band, RejectError) else left - len(band)
        return band


@contextmanager
def kept_readers() -> Iterator[None]:
    """Keep processes from reader to reader within this block, and end them after it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader_process, "Child", KeptChild)
        yield
    while KeptChild.idle:
        KeptChild.idle.pop().end()
