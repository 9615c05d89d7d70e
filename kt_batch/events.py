"""Structured log of a run: events with the ids they belong to, one JSON object per line.

This is standard `logging` under the logger `kt_batch.events`, whose records carry an event's name and fields.
`log_context` adds fields to every event within it, so that a retry deep in the store names its unit and image. Nothing
is written without `write_log`, and nothing of other packages: clients of object stores log what they send.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from kt_batch.errors import KtBatchError, StorageError, UsageError
from kt_batch.redaction import redacted, redacted_values
from kt_batch.text import printable, printable_json

Event = dict[str, Any]  # a record between processes: created, levelno, levelname, event, fields, msg

LOGGER = logging.getLogger("kt_batch.events")
LOGGER.setLevel(logging.CRITICAL + 1)  # events cost nothing until a handler is added
STANDARD_ERROR = "-"
LINE_START = b'{"time": "'  # of every line of a log, which tells a log from other files

_subject: ContextVar[Mapping[str, Any]] = ContextVar("subject")


def log_event(event: str, message: str = "", level: int = logging.INFO, **fields: Any) -> None:
    """Log an event with its fields and those of the context; fields are JSON-able, None and "" are left out."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, message or event, extra={"event": event, "fields": _joined(fields)})


@contextmanager
def log_context(**fields: Any) -> Iterator[None]:
    """Add fields to the events logged within."""
    token = _subject.set(_joined(fields))
    try:
        yield
    finally:
        _subject.reset(token)


def set_context(**fields: Any) -> None:
    """Replace fields of the enclosing `log_context` until it ends; None or "" removes one."""
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
        """Keep one event."""
        if hasattr(record, "event"):
            names = ("created", "levelno", "levelname", "event", "fields", "msg")
            self._events.append({name: getattr(record, name) for name in names})

    def take(self) -> list[Event]:
        """Return the events kept since the last call."""
        with self.lock or nullcontext():  # `emit` holds it too, for other threads of the worker
            taken, self._events = self._events, []
        return taken


@contextmanager
def keep_events() -> Iterator[Kept]:
    """Keep the events logged within, for another process to `repeat`."""
    kept = Kept()
    with _listening(kept):
        yield kept


def repeat(events: Sequence[Event]) -> None:
    """Log the events that another process kept, with their own times."""
    for event in events:
        if LOGGER.isEnabledFor(event["levelno"]):
            LOGGER.handle(logging.makeLogRecord({**event, "name": LOGGER.name}))


# ---- a file ----------------------------------------------------------------------------------------------------------


@contextmanager
def write_log(path: str | None) -> Iterator[None]:
    """Append every event logged within to a file, as a line of JSON. An error that ends the block is the last event.

    Args:
        path: The file; `-` is standard error, None writes nothing.

    Raises:
        UsageError: The path is a URI, or a file that is no log.
        StorageError: The file cannot be written.
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
                message = str(error) if isinstance(error, KtBatchError) else f"{type(error).__name__}: {error}"
                log_event("failed", message, logging.ERROR, kind=type(error).__name__)
                raise
    finally:
        log.close()


class _LogFile(logging.Handler):
    """Appends lines, each in one write.

    So drivers that share a file do not mix their lines, and a process that dies leaves nothing in a buffer. When a
    write fails, one sentence on standard error says so, and the run continues.
    """

    def __init__(self, path: str) -> None:
        super().__init__(logging.INFO)
        if "://" in path:
            raise UsageError(f"--log-file is a file on this machine or '-' for standard error, not '{path}'.")
        self._path = path
        if path != STANDARD_ERROR and not _may_hold_events(path):
            raise UsageError(f"--log-file '{path}' exists and is no log of kt-batch; name another file.")
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._file = os.dup(2) if path == STANDARD_ERROR else os.open(path, flags, 0o666)
        except OSError as error:
            raise StorageError(f"The log '{path}' cannot be written: {error.strerror}.") from error
        self._broken = False

    def emit(self, record: logging.LogRecord) -> None:
        """Append one event."""
        if self._broken or not hasattr(record, "event"):
            return
        line = f"{as_json(record)}\n".encode()
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            self._broken = True
            with suppress(OSError):  # the log may be standard error itself
                path = printable(self._path)
                sys.stderr.write(f"kt-batch: the log '{path}' ends here: {error.strerror}; the run goes on.\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
        super().close()


def _may_hold_events(path: str) -> bool:
    """Tell whether events may be appended: to a log, to an empty or new file, and to what is no regular file."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return True
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(len(LINE_START)) in (b"", LINE_START)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise StorageError(f"The log '{path}' cannot be written: {error.strerror}.") from error


def as_json(record: logging.LogRecord) -> str:
    """Return an event as one line of JSON: time (UTC), level, event, its fields, message; without credentials."""
    content = vars(record)
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    first = {"time": time.replace("+00:00", "Z"), "level": record.levelname.lower(), "event": content["event"]}
    message = {} if record.msg == content["event"] else {"message": redacted(record.msg)}
    fields = {name: redacted_values(value) for name, value in content["fields"].items()}
    return printable_json({**first, **fields, **message})


@contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    """Send all events logged within to the handler."""
    before = LOGGER.level
    LOGGER.setLevel(logging.INFO)
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)
