"""The conversation with the child process of `reader_process`: requests, answers, and how long both may take.

Answers are checked like any untrusted input.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from kt_batch.errors import Reason, RejectError
from kt_batch.kernels.sizes import fit
from kt_batch.store.images.file_bytes import Data, FileBytes
from kt_batch.store.images.files import WorkingImage
from kt_batch.store.images.headers import MAX_PIXELS
from kt_batch.store.images.metadata.blocks import Blocks
from kt_batch.store.images.originals import Original
from kt_batch.store.images.own_space import OwnSpace
from kt_batch.store.images.reader_child import (
    BAND,
    BLOCKS,
    DESCRIPTION,
    FACTS,
    FACTS_WANTED,
    FORM,
    FROM_SRGB,
    HELLO,
    IMAGE,
    MAX_BLOCK,
    MAX_FACTS,
    MAX_PROFILE,
    MAX_REFUSAL,
    METADATA,
    ORIGINAL,
    OWN,
    REFUSAL,
    REPLY,
    REQUEST,
    TO_SRGB,
    WORKING,
)

START_SECONDS = 120.0

_PASSED_ON = ("LD_LIBRARY_PATH", "PYTHONHOME")  # the only inherited variables
_FORMS = ((1, False), (1, True), (3, False), (3, True), (4, False))  # channels and alpha
_PIPE_BYTES = 2**20  # every user's maximum; more than the usual 2^16 saves context switches

Answer: TypeAlias = WorkingImage | dict[str, Any]


class DiedError(Exception):
    """The child ended, or answered against the protocol; the text tells how."""


class Deadline:
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


class Child:
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
        """Wait until the child has started; raise TimeoutError or DiedError."""
        if self._receive(len(HELLO), Deadline(START_SECONDS)) != HELLO:
            raise DiedError("it is another program")

    def ask(self, data: Data, size: int, seconds: float) -> Answer | RejectError:
        """Have one image decoded; raise TimeoutError or DiedError."""
        deadline = Deadline(seconds)
        self._request(WORKING, data, size, seconds, deadline)
        kind, *numbers = self._reply(deadline)
        if kind == FACTS and size == FACTS_WANTED and numbers[0] <= MAX_FACTS:
            return self._receive_facts(deadline, numbers[0])
        if kind == IMAGE and size != FACTS_WANTED:
            return self._receive_image(deadline, size, *numbers)
        return self._refusal(kind, numbers[0], deadline)

    def describe(self, data: Data, options: int, seconds: float, deadline: Deadline) -> Original | RejectError:
        """Have an image opened at its full size; raise TimeoutError or DiedError."""
        self._request(ORIGINAL, data, options, seconds, deadline)
        kind, height, width, samples, profile = self._reply(deadline)
        if kind != DESCRIPTION:
            return self._refusal(kind, height, deadline)
        if not 0 < width * height <= MAX_PIXELS or profile > MAX_PROFILE:
            raise DiedError("it gave an image of a size that cannot be")
        channels, alpha, deep, deep_file, is_srgb = FORM.unpack(self._receive(FORM.size, deadline))
        if (channels, alpha) not in _FORMS or channels + alpha != samples:
            raise DiedError("it gave channels that no image has")
        profile_bytes = self._receive(profile, deadline)
        return Original(height, width, channels, alpha, deep, profile_bytes, deep_file, is_srgb)

    def metadata(self, data: Data, seconds: float) -> Blocks | RejectError:
        """Have the metadata of a file read; raise TimeoutError or DiedError."""
        deadline = Deadline(seconds)
        self._request(METADATA, data, 0, seconds, deadline)
        kind, *sizes = self._reply(deadline)
        if kind != BLOCKS:
            return self._refusal(kind, sizes[0], deadline)
        if max(sizes) > MAX_BLOCK:
            raise DiedError("it gave a block that is too long")
        exif, xmp, iptc, icc = (self._receive(size, deadline) or None for size in sizes)
        return Blocks(exif, xmp, iptc, icc)

    def band(self, original: Original, left: int, deadline: Deadline) -> NDArray[Any] | RejectError:
        """Receive the next rows of an image, of which `left` are left; raise TimeoutError or DiedError."""
        kind, rows, *_ = self._reply(deadline)
        if kind != BAND:
            return self._refusal(kind, rows, deadline)
        if not 0 < rows <= left:
            raise DiedError("it gave more rows than the image has")
        band = np.empty((rows, original.width, original.samples), original.dtype)
        self._receive_into(band.data.cast("B"), deadline)
        return band

    def converted(
        self, samples: NDArray[np.uint16], profile: bytes, to_srgb: bool, seconds: float
    ) -> NDArray[np.uint16] | RejectError:
        """Have (h, w, 3) samples converted between sRGB and a profile; raise TimeoutError or DiedError."""
        deadline = Deadline(seconds)
        data = profile + samples.tobytes()
        self._request(TO_SRGB if to_srgb else FROM_SRGB, data, len(profile), seconds, deadline)
        kind, pixels, *_ = self._reply(deadline)
        if kind != BAND:
            return self._refusal(kind, pixels, deadline)
        if 3 * pixels != samples.size:
            raise DiedError("it gave other samples than were sent")
        result = np.empty(samples.shape, np.uint16)
        self._receive_into(result.data.cast("B"), deadline)
        return result

    def _request(self, kind: int, data: Data, option: int, seconds: float, deadline: Deadline) -> None:
        comes_along = isinstance(data, FileBytes)
        head = REQUEST.pack(kind, comes_along, len(data), option, seconds)
        if isinstance(data, FileBytes):
            self._send_open_file(head, data, deadline)
        else:
            self._send(head, deadline)
            self._send(data, deadline)

    def _send_open_file(self, head: bytes, data: FileBytes, deadline: Deadline) -> None:
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

    def _reply(self, deadline: Deadline) -> tuple[int, int, int, int, int]:
        return cast("tuple[int, int, int, int, int]", REPLY.unpack(self._receive(REPLY.size, deadline)))

    def _refusal(self, kind: int, length: int, deadline: Deadline) -> RejectError:
        if kind == REFUSAL and length <= MAX_REFUSAL:
            reason, _, message = self._receive(length, deadline).decode(errors="replace").partition("\n")
            if reason in tuple(Reason):
                return RejectError(Reason(reason), message)
        raise DiedError("it gave an answer that makes no sense")

    def _receive_facts(self, deadline: Deadline, length: int) -> dict[str, Any]:
        text = self._receive(length, deadline)
        try:
            facts = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DiedError("it gave facts that cannot be read") from error
        if not isinstance(facts, dict):
            raise DiedError("it gave facts that are none")
        return facts

    def _receive_image(
        self, deadline: Deadline, size: int, height: int, width: int, original_height: int, original_width: int
    ) -> WorkingImage:
        pixels_of_file = original_width * original_height
        if not 0 < pixels_of_file <= MAX_PIXELS or (width, height) != fit(original_width, original_height, size):
            raise DiedError("it gave an image of a size that cannot be")
        is_srgb, length = OWN.unpack(self._receive(OWN.size, deadline))
        if length > MAX_PROFILE:
            raise DiedError("it gave a profile that is too long")
        own = OwnSpace(self._receive(length, deadline), is_srgb) if length else None
        pixels = np.empty((height, width, 3), np.float32)
        self._receive_into(pixels.data.cast("B"), deadline)
        if not (pixels.min() >= 0.0 and pixels.max() <= 1.0):  # also refuses NaN
            raise DiedError("it gave values that no image has")
        return WorkingImage(pixels, original_width, original_height, own=own)

    def _send(self, data: bytes, deadline: Deadline) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.to.send(rest) :]
            except BlockingIOError:
                deadline.wait(self.to.fileno(), select.POLLOUT)
            except (BrokenPipeError, ConnectionResetError) as error:
                raise self._died() from error

    def _receive(self, length: int, deadline: Deadline) -> bytes:
        received = bytearray(length)
        self._receive_into(memoryview(received), deadline)
        return bytes(received)

    def _receive_into(self, rest: memoryview, deadline: Deadline) -> None:
        while rest:
            try:
                count = os.readv(self.back, [rest])
            except BlockingIOError:
                deadline.wait(self.back, select.POLLIN)
                continue
            if count == 0:
                raise self._died()
            rest = rest[count:]

    def _died(self) -> DiedError:
        try:
            code = self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return DiedError("it stopped to answer")
        known = {-member.value: f"it ended by {member.name}" for member in signal.Signals}
        return DiedError(known.get(code, f"it ended with code {code}"))


def _environment() -> dict[str, str]:
    """Return the variables by which the child imports the same modules, no others."""
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    return {**passed, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
