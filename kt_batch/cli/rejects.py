"""Rejected inputs for a person: the first on the terminal, all of them as CSV."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from kt_batch.config import RunOptions
from kt_batch.errors import UsageError
from kt_batch.events import STANDARD_ERROR
from kt_batch.store import layout
from kt_batch.store.attempts import Reject, find_rejects
from kt_batch.store.locations import open_location
from kt_batch.store.manifests import Manifest
from kt_batch.store.targets import Inputs, Target, refuse_input
from kt_batch.store.units import Ledger

LINES = 10  # rejects on the terminal
_HEADER = [field.name for field in fields(Reject)]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes a cell that begins so


def reject_lines(rejects: Sequence[Reject], count: int) -> list[str]:
    """Return the first rejects as lines, and where the others are."""
    lines = [f"    {reject.name}: {reject.reason}, {reject.message}" for reject in rejects[:LINES]]
    if count > len(lines):
        lines.append(f"    and {count - len(lines)} more; --rejects-csv FILE writes all, {layout.REJECTS}/ holds all")
    return [*lines, "  --retry-rejected tries them once more"] if count else []


def rejects_target(
    how: RunOptions, images: Sequence[str], place: str, manifests: Sequence[Manifest] = ()
) -> Target | None:
    """Return the file of `--rejects-csv`; None without one.

    Raises:
        UsageError: it, or the log, is an input, or both are one file.
    """
    if how.log_file not in (None, STANDARD_ERROR):
        refuse_input(
            "--log-file", how.log_file, Inputs(images, manifests=manifests)
        )  # an empty input could pass for an empty log
    if how.rejects_csv is None:
        return None
    start = ",".join(_HEADER).encode()
    inputs = Inputs(images, places=[place], manifests=manifests)
    target = Target("--rejects-csv", Path(how.rejects_csv), inputs, force=None, begins=start)
    path = target.check()
    if how.log_file not in (None, STANDARD_ERROR) and os.path.realpath(how.log_file) == str(path):
        raise UsageError(f"--rejects-csv and --log-file both name '{how.log_file}'; name two files.")
    return target


def write_rejects(target: Target | None, place: str) -> None:
    """Write all rejects of a library or a run, where a file was asked for."""
    if target is not None:
        target.write(rejects_csv(find_rejects(Ledger(open_location(place))).listed()))


def rejects_csv(rejects: Sequence[Reject]) -> bytes:
    """Return rejects as CSV in UTF-8. A cell that a spreadsheet would compute begins with an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    for reject in rejects:
        writer.writerow([f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in astuple(reject)])
    return text.getvalue().encode(errors="backslashreplace")
