"""Decode images in a child process: a crash there crashes nothing else.

Results equal those of `images.files.decode`, bit for bit. The child (`reader_child`) has no credentials and hard
limits. This module starts it, enforces its deadline and replaces it. Its answers are checked like any untrusted input.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import numpy as np

from kt_batch.errors import KtBatchError, Reason, RejectError
from kt_batch.store.images.files import WorkingImage
from kt_batch.store.images.headers import MAX_PIXELS
from kt_batch.store.images.rasters import fit
from kt_batch.store.images.reader_child import (
    FACTS,
    FACTS_WANTED,
    HELLO,
    IMAGE,
    MAX_FACTS,
    MAX_REFUSAL,
    REFUSAL,
    REPLY,
    REQUEST,
)

# The costliest allowed image takes about 50 s of one core, an ordinary one of the same size 15 s. The limit is higher,
# since a busy machine must not cause a reject. Two children in a row stay within a runner's own limit.
SECONDS = 280.0
START_SECONDS = 120.0

_MODULE = "kt_batch.store.images.reader_child"
_COMMAND = (sys.executable, "-P", "-B", "-m", _MODULE)  # no modules of the current folder, no .pyc files
_PASSED_ON = ("LD_LIBRARY_PATH", "PYTHONHOME")  # the only inherited variables
_PIPE_BYTES = 2**20  # every user's maximum; more than the usual 2^16 saves context switches


_Answer: TypeAlias = WorkingImage | dict[str, Any]


class ImageReaderProcess:
    """A child process that decodes images; it starts at the first image.

    A child that ended is replaced. The object is for one thread. The child ends with `close`, with the object, and with
    this process.

    seconds: time limit of one image. command: the program to start, for tests.
    """

    def __init__(self, seconds: float = SECONDS, command: Sequence[str] = _COMMAND) -> None:
        self._seconds = seconds
        self._command = tuple(command)
        self._child: _Child | None = None
        self._end: weakref.finalize[[], ImageReaderProcess] | None = None

    def __enter__(self) -> ImageReaderProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Return the process id of the child; None without one."""
        return self._child.process.pid if self._child else None

    def close(self) -> None:
        """End the child, if there is one; the next image would start another."""
        if self._end is not None:
            self._end()
        self._child = self._end = None

    def decode(self, data: bytes, size: int) -> WorkingImage:
        """Decode an image as `images.files.decode` does.

        Raises:
            RejectError: also DECODER_SLOW for an image over the time limit, and DECODER_DIED when two children in a row
                died of it; one alone may have been ended from outside.
            KtBatchError: no child can be started, which is no fault of the image.
        """
        return cast("WorkingImage", self._answer(data, size))

    def facts(self, data: bytes) -> dict[str, Any]:
        """Return what is understood of a file, as `images.facts.facts_of` does. Texts in it come from the file.

        Raises:
            RejectError, KtBatchError: As `decode`.
        """
        return cast("dict[str, Any]", self._answer(data, FACTS_WANTED))

    def _answer(self, data: bytes, size: int) -> _Answer:
        try:
            answer = self._ask(data, size)
        except _DiedError:
            answer = self._ask_again(data, size)
        if isinstance(answer, RejectError):
            raise answer
        return answer

    def _ask_again(self, data: bytes, size: int) -> _Answer | RejectError:
        try:
            return self._ask(data, size)
        except _DiedError as error:
            return RejectError(Reason.DECODER_DIED, f"decoding it ended the process that did so: {error}")

    def _ask(self, data: bytes, size: int) -> _Answer | RejectError:
        child = self._ready()
        try:
            return child.ask(data, size, self._seconds)
        except TimeoutError:
            self.close()
            return RejectError(Reason.DECODER_SLOW, f"decoding it takes over {self._seconds:g} seconds")
        except BaseException:  # the child is gone, or out of step with the protocol
            self.close()
            raise

    def _ready(self) -> _Child:
        if self._child is not None and self._child.process.poll() is None:
            return self._child
        self.close()
        try:
            self._child = _Child(self._command)
            self._end = weakref.finalize(self, self._child.end)
            self._child.greet()
        except (OSError, _DiedError) as error:
            self.close()
            raise KtBatchError(
                f"The process that decodes images does not start ({error}); `python -m {_MODULE}` shows why."
            ) from error
        except BaseException:
            self.close()
            raise
        return self._child


class _DiedError(Exception):
    """The child ended, or answered against the protocol; the text tells how."""


class _Deadline:
    """The seconds that are left for one conversation.

    Only waiting is counted, and one wait as at most a second: a machine or a process that was paused has lost no time.
    """

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def wait(self, descriptor: int, event: int) -> None:
        """Wait until something can be read or written.

        Raises:
            TimeoutError: no time is left.
        """
        poll = select.poll()
        poll.register(descriptor, event)
        ready: list[tuple[int, int]] = []
        while not ready:
            if self.left <= 0:
                raise TimeoutError("no answer in time")
            since = time.monotonic()
            ready = poll.poll(1000 * min(self.left, 1.0))
            self.left -= min(time.monotonic() - since, 1.0)


class _Child:
    """One child and its two pipes."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(  # noqa: S603 - our own module and interpreter
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what libraries print about a file
            bufsize=0,
            cwd="/",
            env=_environment(),
            process_group=0,  # Ctrl-C is for this process
        )
        self.pipes = cast("IO[bytes]", self.process.stdin), cast("IO[bytes]", self.process.stdout)
        self.to, self.back = (pipe.fileno() for pipe in self.pipes)
        for descriptor in (self.to, self.back):
            os.set_blocking(descriptor, False)
            with suppress(OSError):  # refused when the user's pipes hold too much already
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def end(self) -> None:
        """Kill the child and close the pipes; between two images it holds no state."""
        self.process.kill()
        self.process.wait()
        for pipe in self.pipes:
            pipe.close()

    def greet(self) -> None:
        """Wait until the child has started; raise TimeoutError or _DiedError."""
        if self._receive(len(HELLO), _Deadline(START_SECONDS)) != HELLO:
            raise _DiedError("it is another program")

    def ask(self, data: bytes, size: int, seconds: float) -> _Answer | RejectError:
        """Have one image decoded; raise TimeoutError or _DiedError."""
        deadline = _Deadline(seconds)
        self._send(REQUEST.pack(len(data), size, seconds), deadline)
        self._send(data, deadline)
        kind, *numbers = REPLY.unpack(self._receive(REPLY.size, deadline))
        if kind == FACTS and size == FACTS_WANTED and numbers[0] <= MAX_FACTS:
            return self._receive_facts(deadline, numbers[0])
        if kind == IMAGE and size != FACTS_WANTED:
            return self._receive_image(deadline, size, *numbers)
        if kind == REFUSAL and numbers[0] <= MAX_REFUSAL:
            reason, _, message = self._receive(numbers[0], deadline).decode(errors="replace").partition("\n")
            if reason in tuple(Reason):
                return RejectError(Reason(reason), message)
        raise _DiedError("it gave an answer that makes no sense")

    def _receive_facts(self, deadline: _Deadline, length: int) -> dict[str, Any]:
        text = self._receive(length, deadline)
        try:
            facts = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _DiedError("it gave facts that cannot be read") from error
        if not isinstance(facts, dict):
            raise _DiedError("it gave facts that are none")
        return facts

    def _receive_image(
        self, deadline: _Deadline, size: int, height: int, width: int, original_height: int, original_width: int
    ) -> WorkingImage:
        pixels_of_file = original_width * original_height
        if not 0 < pixels_of_file <= MAX_PIXELS or (width, height) != fit(original_width, original_height, size):
            raise _DiedError("it gave an image of a size that cannot be")
        pixels = np.empty((height, width, 3), np.float32)
        self._receive_into(pixels.data.cast("B"), deadline)
        if not (pixels.min() >= 0.0 and pixels.max() <= 1.0):  # also refuses NaN
            raise _DiedError("it gave values that no image has")
        return WorkingImage(pixels, original_width, original_height)

    def _send(self, data: bytes, deadline: _Deadline) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self.to, rest) :]
            except BlockingIOError:
                deadline.wait(self.to, select.POLLOUT)
            except BrokenPipeError as error:
                raise self._died() from error

    def _receive(self, length: int, deadline: _Deadline) -> bytes:
        received = bytearray(length)
        self._receive_into(memoryview(received), deadline)
        return bytes(received)

    def _receive_into(self, rest: memoryview, deadline: _Deadline) -> None:
        while rest:
            try:
                count = os.readv(self.back, [rest])
            except BlockingIOError:
                deadline.wait(self.back, select.POLLIN)
                continue
            if count == 0:
                raise self._died()
            rest = rest[count:]

    def _died(self) -> _DiedError:
        try:
            code = self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return _DiedError("it stopped to answer")
        known = {-member.value: f"it ended by {member.name}" for member in signal.Signals}
        return _DiedError(known.get(code, f"it ended with code {code}"))


def _environment() -> dict[str, str]:
    """Return the variables by which the child imports the same modules, no others."""
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    return {**passed, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
