"""Standard output and standard error that may be closed or full without ending the work."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO


def guard_streams() -> None:
    """Put guarded streams in place of this process's standard streams.

    Call it before any file is opened: a descriptor that the caller closed is opened on /dev/null, since the next file
    would take its number, and everything that is printed would go there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = GuardedStream(sys.stdout)
    sys.stderr = GuardedStream(sys.stderr)


def output_fault() -> OSError | None:
    """Return why standard output could not be written; None if all was written or its reader needed no more."""
    fault = getattr(sys.stdout, "fault", None)
    return None if fault is None or fault.errno == errno.EPIPE else fault


class GuardedStream(io.TextIOBase):
    """A text stream whose first fault is kept; from then on it drops what it gets.

    Whoever shows progress or a summary need not care whether anybody reads it.

    Attributes:
        fault: The first error; None as long as there was none.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: Any = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for good
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(errors="backslashreplace")
        self.fault: OSError | None = None

    def write(self, text: str) -> int:
        """Write text, unless an earlier write has failed."""
        if self.fault is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self.fault = error
        return len(text)

    def flush(self) -> None:
        """Flush, unless an earlier write has failed."""
        if self.fault is None:
            try:
                self._stream.flush()
            except OSError as error:
                self.fault = error

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return bool(self._stream.isatty())

    def fileno(self) -> int:
        """Return the descriptor."""
        return int(self._stream.fileno())

    def writable(self) -> bool:
        """Return True."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the text."""
        return str(self._stream.encoding)

    @property
    def buffer(self) -> Any:
        """The stream of bytes below."""
        return self._stream.buffer
