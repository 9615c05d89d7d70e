"""Ctrl-C: the first one ends the command in order, the second one at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

INTERRUPTED = 130  # the exit code, as of shells
MESSAGE = "kt-batch: interrupted; what is finished is kept, start the same command again to go on.\n"

_received = False


def interrupt_in_order() -> None:
    """Raise KeyboardInterrupt at the first Ctrl-C, and end the process at the second.

    A caller that ignores Ctrl-C (`nohup`, a job in the background) or handles it is left as it is.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_interrupt)
        sys.unraisablehook = _on_unraisable


def was_interrupted() -> bool:
    """Return whether Ctrl-C was pressed: code below may have turned the KeyboardInterrupt into another error."""
    return _received


def report_interrupt() -> int:
    """Say how to go on, and return the exit code."""
    sys.stderr.write(MESSAGE)
    sys.stderr.flush()
    return INTERRUPTED


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    global _received  # noqa: PLW0603 - a signal is of the whole process
    if _received:
        os._exit(INTERRUPTED)
    _received = True
    raise KeyboardInterrupt


def _on_unraisable(report: Any) -> None:
    """Raise an interrupt again that Python cannot deliver from a destructor; show other errors as usual."""
    global _received  # noqa: PLW0603
    if report.exc_type is KeyboardInterrupt:
        _received = False
        main = threading.main_thread().ident
        again = threading.Timer(0.02, signal.pthread_kill, (main, signal.SIGINT))  # at once, it would hit this function
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(report)
