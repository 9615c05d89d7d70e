"""Open a library or a run: the one way to do so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from kt_batch.errors import MismatchError, MissingError, UsageError
from kt_batch.store.committed import Committed
from kt_batch.store.library import Library
from kt_batch.store.locations import open_location
from kt_batch.store.paired import PairedLibrary, is_paired
from kt_batch.store.run import Run, is_run
from kt_batch.store.units import Ledger

Opened: TypeAlias = Library | PairedLibrary | Run
Kind: TypeAlias = Literal["library", "pairs", "run"]
_NAMES: dict[Kind, str] = {"library": "a knowledge library", "pairs": "a paired library", "run": "a run"}


def open_place(place: str) -> Opened:
    """Open the library, the paired library or the run at a path or URI.

    Raises:
        MissingError: nothing was ever planned there.
        MismatchError: its configuration is of another version.
    """
    committed = _committed(place, "is neither a knowledge library nor a run")
    if is_paired(committed.config):
        return PairedLibrary(committed)
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
    if is_paired(committed.config):
        raise MismatchError(f"'{place}' is a paired library, which serves --method retouch; name a knowledge library.")
    return Library(committed)


def open_paired(place: str) -> PairedLibrary:
    """Open the paired library at a path or URI.

    Raises:
        MissingError: nothing was ever planned there.
        MismatchError: it is a run, a knowledge library, or of another version.
    """
    committed = _committed(place, "is not a paired library")
    if not is_paired(committed.config):
        kind = "a run" if is_run(committed.config) else "a knowledge library"
        raise MismatchError(f"'{place}' is {kind}; name a paired library: kt-batch extract --before A --after B.")
    return PairedLibrary(committed)


def open_run(place: str) -> Run:
    """Open the run at a path or URI.

    Raises:
        MissingError: nothing was ever planned there.
        UsageError: it is a library.
        MismatchError: it is a run of another version.
    """
    opened = open_place(place)
    if not isinstance(opened, Run):
        raise UsageError(f"'{place}' is {_NAMES[kind_of(opened)]}; name a run.")
    return opened


def refuse_other_kind(ledger: Ledger, kind: Kind) -> None:
    """Raise UsageError when a job that writes a place of one kind finds one of another kind there."""
    planned = ledger.config()
    if planned is not None and (there := _planned_kind(planned[0])) != kind:
        place, wanted = ledger.location.uri, _NAMES[kind]
        raise UsageError(f"'{place}' is {_NAMES[there]}; name {wanted}, or a new folder for one.")


def kind_of(opened: Opened) -> Kind:
    """Return the kind of an opened place."""
    return _planned_kind(opened.committed.config)


def _planned_kind(config: Mapping[str, Any]) -> Kind:
    return "run" if is_run(config) else "pairs" if is_paired(config) else "library"


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
