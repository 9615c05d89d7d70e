"""What happens in a run, told as it happens: events with the ids they are about, one JSON object per line.

Standard `logging` under the logger `kt_batch.events`, whose records carry an event's name and its fields. `about` says
what the work within it is about, so that a retry deep in the store tells which unit and image it was for. Nothing is
written unless `write_log` is asked to, and nothing of other packages: clients of object stores log what they send.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from kt_batch.errors import KtBatchError, StorageError, UsageError

Event = dict[str, Any]  # as it travels between processes: created, levelno, event, fields, msg

LOGGER = logging.getLogger("kt_batch.events")
LOGGER.setLevel(logging.CRITICAL + 1)  # nothing is told, and costs anything, until somebody listens
STANDARD_ERROR = "-"

_subject: ContextVar[Mapping[str, Any]] = ContextVar("subject")


def log_event(event: str, message: str = "", level: int = logging.INFO, **fields: Any) -> None:
    """Tell of an event. Fields are JSON-able; those that are None or "" are left out; `about` gives the others."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, message or event, extra={"event": event, "fields": _joined(fields)})


@contextmanager
def log_context(**fields: Any) -> Iterator[None]:
    """Events told within have these fields too."""
    token = _subject.set(_joined(fields))
    try:
        yield
    finally:
        _subject.reset(token)


def set_context(**fields: Any) -> None:
    """From here to the end of the enclosing `about`, events have these fields instead; None or "" takes one away."""
    _subject.set(_joined(fields))


def _joined(fields: Mapping[str, Any]) -> dict[str, Any]:
    joined = {**_subject.get({}), **fields}
    return {name: value for name, value in joined.items() if value is not None and value != ""}


# ---- from process to process -----------------------------------------------------------------------------------------


class Kept(logging.Handler):
    """Keeps the events of this process until they are taken."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._events: list[Event] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        if hasattr(record, "event"):
            names = ("created", "levelno", "levelname", "event", "fields", "msg")
            self._events.append({name: getattr(record, name) for name in names})

    def take(self) -> list[Event]:
        """What was kept since the last call."""
        with self.lock or nullcontext():  # as `emit` is called: other threads of the worker tell of things, too
            taken, self._events = self._events, []
        return taken


@contextmanager
def keep_events() -> Iterator[Kept]:
    """Within, the events of this process are kept for another one, which is to `repeat` them."""
    kept = Kept()
    with _listening(kept):
        yield kept


def repeat(events: Sequence[Event]) -> None:
    """Tell what another process has kept, with its own times."""
    for event in events:
        if LOGGER.isEnabledFor(event["levelno"]):
            LOGGER.handle(logging.makeLogRecord({**event, "name": LOGGER.name}))


# ---- a file ----------------------------------------------------------------------------------------------------------


@contextmanager
def write_log(path: str | None) -> Iterator[None]:
    """Within, every event is a line at the end of the file `path` (`-`: standard error); None: nowhere.

    An error that ends the block is the last event. Raises UsageError, StorageError.
    """
    if path is None:
        yield
        return
    log = _LogFile(path)
    try:
        with _listening(log):
            try:
                yield
            except Exception as error:
                said = str(error) if isinstance(error, KtBatchError) else f"{type(error).__name__}: {error}"
                log_event("failed", said, logging.ERROR, kind=type(error).__name__)
                raise
    finally:
        log.close()


class _LogFile(logging.Handler):
    """Appends lines, each in one write, so that drivers that share a file do not mix theirs, and nothing is left in a
    buffer by a process that dies. When they cannot be written that is said once, and the run goes on."""

    def __init__(self, path: str) -> None:
        super().__init__(logging.INFO)
        if "://" in path:
            raise UsageError(f"--log-file is a file on this machine or '-' for standard error, not '{path}'.")
        self._path = path
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._file = os.dup(2) if path == STANDARD_ERROR else os.open(path, flags, 0o666)
        except OSError as error:
            raise StorageError(f"The log '{path}' cannot be written: {error.strerror}.") from error
        self._broken = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        if self._broken or not hasattr(record, "event"):
            return
        line = f"{as_json(record)}\n".encode(errors="backslashreplace")  # what is no character is so an escape of JSON
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            self._broken = True
            sys.stderr.write(f"kt-batch: the log '{self._path}' ends here: {error.strerror}; the run goes on.\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
        super().close()


def as_json(record: logging.LogRecord) -> str:
    """An event as one line of JSON: time (UTC), level, event, its fields, message."""
    told = vars(record)
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    first = {"time": time.replace("+00:00", "Z"), "level": record.levelname.lower(), "event": told["event"]}
    message = {} if record.msg == told["event"] else {"message": record.msg}
    return json.dumps({**first, **told["fields"], **message}, ensure_ascii=False, default=str)


@contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    """The handler hears all events."""
    before = LOGGER.level
    LOGGER.setLevel(logging.INFO)
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)
