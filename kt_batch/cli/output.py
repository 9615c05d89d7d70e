"""The one way of text to a person: summaries, pages, errors and notes, without anything that steers a terminal.

Names and messages of libraries, runs and files come from strangers. Nothing else in this package prints.
"""

from __future__ import annotations

import codecs
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

from kt_batch.redaction import redacted
from kt_batch.text import printable, printable_json, printable_lines


def print_summary(content: Mapping[str, object], lines: Sequence[str], as_json: bool) -> None:
    """Print a summary as one JSON object, or as lines for a person."""
    if as_json:
        only_ascii = codecs.lookup(sys.stdout.encoding or "ascii").name != "utf-8"
        sys.stdout.write(f"{printable_json(content, only_ascii=only_ascii)}\n")
    else:
        print_lines(lines)


def print_lines(lines: Sequence[str]) -> None:
    """Print lines on standard output; a line end within one is shown as an escape."""
    _write(sys.stdout, lines)


def print_text(text: str) -> None:
    """Print a text of ours with several lines on standard output."""
    _write(sys.stdout, printable_lines(text))


def print_error(message: str) -> None:
    """Print one sentence on standard error."""
    _write(sys.stderr, [f"kt-batch: {redacted(message)}"])


def print_progress(line: str) -> None:
    """Print one line on standard error."""
    _write(sys.stderr, [line])


def print_traceback(error: BaseException) -> None:
    """Print a traceback on standard error; further lines of a message are indented, so that none passes for ours."""
    for part in map(redacted, traceback.format_exception(error)):
        ours = part.startswith(("  ", "\n", "Traceback"))
        _write(sys.stderr, printable_lines(part if ours else part.removesuffix("\n").replace("\n", "\n    ")))


@contextmanager
def printing_warnings() -> Iterator[None]:
    """Print warnings and unhandled log records of other packages the same way: they quote files and answers."""
    shown, handler = warnings.showwarning, logging.lastResort

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        print_progress(f"{category.__name__}: {message}")

    warnings.showwarning, logging.lastResort = show, _Printing(logging.WARNING)
    try:
        yield
    finally:
        warnings.showwarning, logging.lastResort = shown, handler


class _Printing(logging.Handler):
    """Prints log records that no other handler takes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        print_progress(self.format(record))


def _write(stream: TextIO, lines: Sequence[str]) -> None:
    stream.write("".join(f"{printable(line)}\n" for line in lines))
    stream.flush()


def counted(number: int, noun: str) -> str:
    """Return `1 file`, `2 files`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
