"""Open a library or a run: the one way to do so."""

from __future__ import annotations

from typing import Literal

from kt_batch.errors import MismatchError, MissingError, UsageError
from kt_batch.store.committed import Committed
from kt_batch.store.library import Library
from kt_batch.store.locations import open_location
from kt_batch.store.run import Run, is_run
from kt_batch.store.units import Ledger


def open_place(place: str) -> Library | Run:
    """Open the library or the run at a path or URI.

    Raises:
        MissingError: nothing was ever planned there.
        MismatchError: its configuration is of another version.
    """
    committed = _committed(place, "is neither a knowledge library nor a run")
    return Run(committed) if is_run(committed.config) else Library(committed)


def open_library(place: str) -> Library:
    """Open the library at a path or URI.

    Raises:
        MissingError: nothing was ever planned there.
        MismatchError: it is a run, or a library of another version.
    """
    committed = _committed(place, "is not a knowledge library")
    if is_run(committed.config):
        raise MismatchError(f"'{place}' is a run; name a knowledge library.")
    return Library(committed)


def open_run(place: str) -> Run:
    """Open the run at a path or URI.

    Raises:
        MissingError: nothing was ever planned there.
        UsageError: it is a library.
        MismatchError: it is a run of another version.
    """
    opened = open_place(place)
    if isinstance(opened, Library):
        raise UsageError(f"'{place}' is a knowledge library; name a run.")
    return opened


def refuse_other_kind(ledger: Ledger, kind: Literal["library", "run"]) -> None:
    """Raise UsageError when a job that writes a place of one kind finds one of the other kind there."""
    planned = ledger.config()
    if planned is not None and is_run(planned[0]) != (kind == "run"):
        there, wanted = ("a knowledge library", "a run") if kind == "run" else ("a run", "a knowledge library")
        raise UsageError(f"'{ledger.location.uri}' is {there}; name {wanted}, or a new folder for one.")


def kind_of(opened: Library | Run) -> Literal["library", "run"]:
    """Return the kind of an opened place."""
    return "run" if isinstance(opened, Run) else "library"


def _committed(place: str, otherwise: str) -> Committed:
    """Return what is committed at `place`.

    Raises:
        MissingError: there is no plan; the message says `otherwise`.
    """
    ledger = Ledger(open_location(place))
    planned = ledger.config()
    if planned is None:
        raise MissingError(f"'{ledger.location.uri}' {otherwise}: it has no plan.")
    config, _ = planned
    return Committed(ledger, config)
