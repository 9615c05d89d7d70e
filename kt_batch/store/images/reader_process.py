"""Decode images in a child process: a crash there crashes nothing else.

Results equal those of `images.files.decode`, bit for bit. The child (`reader_child`) has no credentials and hard
limits. This module starts it, enforces its deadline and replaces it. Its answers are checked like any untrusted input.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from kt_batch.errors import KtBatchError, Reason, RejectError
from kt_batch.store.images.file_bytes import Data, FileBytes
from kt_batch.store.images.files import WorkingImage
from kt_batch.store.images.headers import MAX_PIXELS
from kt_batch.store.images.originals import Bands, Original
from kt_batch.store.images.rasters import fit
from kt_batch.store.images.reader_child import (
    BAND,
    DESCRIPTION,
    FORM,
    HELLO,
    IMAGE,
    INK,
    MAX_PROFILE,
    MAX_REFUSAL,
    ORIGINAL,
    REFUSAL,
    REPLY,
    REQUEST,
    SRGB,
    WORKING,
)

# The costliest allowed image takes about 50 s of one core, an ordinary one of the same size 15 s. The limit is higher,
# since a busy machine must not cause a reject. Two children in a row stay within a runner's own limit.
SECONDS = 280.0
START_SECONDS = 120.0

_MODULE = "kt_batch.store.images.reader_child"
_COMMAND = (sys.executable, "-P", "-B", "-m", _MODULE)  # no modules of the current folder, no .pyc files
_PASSED_ON = ("LD_LIBRARY_PATH", "PYTHONHOME")  # the only inherited variables
_FORMS = ((1, False), (1, True), (3, False), (3, True), (4, False))  # channels and alpha
_PIPE_BYTES = 2**20  # every user's maximum; more than the usual 2^16 saves context switches


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

    def decode(self, data: Data, size: int) -> WorkingImage:
        """Decode an image as `images.files.decode` does.

        Raises:
            RejectError: also DECODER_SLOW for an image over the time limit, and DECODER_DIED when two children in a row
                died of it; one alone may have been ended from outside.
            KtBatchError: no child can be started, which is no fault of the image.
        """
        try:
            answer = self._ask(data, size)
        except _DiedError:
            answer = self._ask_again(data, size)
        if isinstance(answer, RejectError):
            raise answer
        return answer

    def original(self, data: Data, *, ink: bool, srgb: bool) -> tuple[Original, Bands]:
        """Read an image at its full size as `images.originals.read_original` does.

        The bands have to be taken before the next image is asked for. A child that dies is not asked again, since the
        caller may have used bands already.

        Raises:
            RejectError: As `decode` does; also while bands are taken.
            KtBatchError: No child can be started.
        """
        child = self._ready()
        deadline = _Deadline(self._seconds)
        with self._in_step():
            original = child.describe(data, INK * ink | SRGB * srgb, self._seconds, deadline)
        if isinstance(original, RejectError):
            raise original
        return original, self._bands(child, original, deadline)

    def _bands(self, child: _Child, original: Original, deadline: _Deadline) -> Bands:
        left = original.height
        finished = False
        try:
            while left:
                with self._in_step():
                    band = child.band(original, left, deadline)
                if isinstance(band, RejectError):
                    finished = True
                    raise band
                left -= len(band)
                yield band
            finished = True
        finally:
            if not finished:  # bands that nobody took would be in the way of the next answer
                self.close()

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        """Turn what happens to a child into a reject; a child that is out of step ends."""
        try:
            yield
        except TimeoutError as error:
            self.close()
            raise self._too_slow() from error
        except _DiedError as error:
            self.close()
            raise _died_of_it(error) from error
        except BaseException:
            self.close()
            raise

    def _too_slow(self) -> RejectError:
        return RejectError(Reason.DECODER_SLOW, f"decoding it takes over {self._seconds:g} seconds")

    def _ask_again(self, data: Data, size: int) -> WorkingImage | RejectError:
        try:
            return self._ask(data, size)
        except _DiedError as error:
            return _died_of_it(error)

    def _ask(self, data: Data, size: int) -> WorkingImage | RejectError:
        child = self._ready()
        try:
            return child.ask(data, size, self._seconds)
        except TimeoutError:
            self.close()
            return self._too_slow()
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


def _died_of_it(error: _DiedError) -> RejectError:
    return RejectError(Reason.DECODER_DIED, f"decoding it ended the process that did so: {error}")


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
    """One child, the socket of its requests and the pipe of its answers."""

    def __init__(self, command: Sequence[str]) -> None:
        self.to, theirs = socket.socketpair()
        with theirs:
            try:
                self.process = self._start(command, theirs)
            except OSError:
                self.to.close()
                raise
        self.answers = cast("IO[bytes]", self.process.stdout)
        self.back = self.answers.fileno()
        self.to.setblocking(False)
        self.to.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIPE_BYTES)
        os.set_blocking(self.back, False)
        with suppress(OSError):  # refused when the user's pipes hold too much already
            fcntl.fcntl(self.back, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def _start(self, command: Sequence[str], requests: socket.socket) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - our own module and interpreter
            command,
            stdin=requests.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what libraries print about a file
            bufsize=0,
            cwd="/",
            env=_environment(),
            process_group=0,  # Ctrl-C is for this process
        )

    def end(self) -> None:
        """Kill the child and close the channels; between two images it holds no state."""
        self.process.kill()
        self.process.wait()
        self.to.close()
        self.answers.close()

    def greet(self) -> None:
        """Wait until the child has started; raise TimeoutError or _DiedError."""
        if self._receive(len(HELLO), _Deadline(START_SECONDS)) != HELLO:
            raise _DiedError("it is another program")

    def ask(self, data: Data, size: int, seconds: float) -> WorkingImage | RejectError:
        """Have one image decoded; raise TimeoutError or _DiedError."""
        deadline = _Deadline(seconds)
        self._request(WORKING, data, size, seconds, deadline)
        kind, *numbers = self._reply(deadline)
        if kind == IMAGE:
            return self._receive_image(deadline, size, *numbers)
        return self._refusal(kind, numbers[0], deadline)

    def describe(self, data: Data, options: int, seconds: float, deadline: _Deadline) -> Original | RejectError:
        """Have an image opened at its full size; raise TimeoutError or _DiedError."""
        self._request(ORIGINAL, data, options, seconds, deadline)
        kind, height, width, samples, profile = self._reply(deadline)
        if kind != DESCRIPTION:
            return self._refusal(kind, height, deadline)
        if not 0 < width * height <= MAX_PIXELS or profile > MAX_PROFILE:
            raise _DiedError("it gave an image of a size that cannot be")
        channels, alpha, deep, deep_file = FORM.unpack(self._receive(FORM.size, deadline))
        if (channels, alpha) not in _FORMS or channels + alpha != samples:
            raise _DiedError("it gave channels that no image has")
        return Original(height, width, channels, alpha, deep, self._receive(profile, deadline), deep_file)

    def band(self, original: Original, left: int, deadline: _Deadline) -> NDArray[Any] | RejectError:
        """Receive the next rows of an image, of which `left` are left; raise TimeoutError or _DiedError."""
        kind, rows, *_ = self._reply(deadline)
        if kind != BAND:
            return self._refusal(kind, rows, deadline)
        if not 0 < rows <= left:
            raise _DiedError("it gave more rows than the image has")
        band = np.empty((rows, original.width, original.samples), original.dtype)
        self._receive_into(band.data.cast("B"), deadline)
        return band

    def _request(self, kind: int, data: Data, option: int, seconds: float, deadline: _Deadline) -> None:
        comes_along = isinstance(data, FileBytes)
        head = REQUEST.pack(kind, comes_along, len(data), option, seconds)
        if isinstance(data, FileBytes):
            self._send_open_file(head, data, deadline)
        else:
            self._send(head, deadline)
            self._send(data, deadline)

    def _send_open_file(self, head: bytes, data: FileBytes, deadline: _Deadline) -> None:
        """Send a header together with a descriptor; the child reads the file at places of its own."""
        try:
            sent = 0
            while not sent:
                try:
                    sent = socket.send_fds(self.to, [head], [data.descriptor])
                except BlockingIOError:
                    deadline.wait(self.to.fileno(), select.POLLOUT)
        except OSError as error:
            raise self._died() from error
        self._send(head[sent:], deadline)

    def _reply(self, deadline: _Deadline) -> tuple[int, int, int, int, int]:
        return cast("tuple[int, int, int, int, int]", REPLY.unpack(self._receive(REPLY.size, deadline)))

    def _refusal(self, kind: int, length: int, deadline: _Deadline) -> RejectError:
        if kind == REFUSAL and length <= MAX_REFUSAL:
            reason, _, message = self._receive(length, deadline).decode(errors="replace").partition("\n")
            if reason in tuple(Reason):
                return RejectError(Reason(reason), message)
        raise _DiedError("it gave an answer that makes no sense")

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
                rest = rest[self.to.send(rest) :]
            except BlockingIOError:
                deadline.wait(self.to.fileno(), select.POLLOUT)
            except (BrokenPipeError, ConnectionResetError) as error:
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
