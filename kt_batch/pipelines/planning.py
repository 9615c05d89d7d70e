"""Plan units of images: those that are not planned yet, and those to be tried once more."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydantic import ValidationError

from kt_batch.config import Config, RunOptions
from kt_batch.store.attempts import find_retry
from kt_batch.store.mismatch import mismatch
from kt_batch.store.plans import Item, Unit
from kt_batch.store.units import Ledger


@dataclass(frozen=True)
class PlannedUnits:
    """The units of a library or a run, in plan order.

    new: Units that this plan adds. unwritten: Those of them that a dry run did not write. pending: All units without a
    receipt, the new ones included. units: All units, the new ones included.
    """

    new: Sequence[Unit]
    unwritten: Sequence[Unit]
    pending: Sequence[Unit]
    units: Sequence[Unit]


def plan_units(
    ledger: Ledger, items: Sequence[Item], options: RunOptions, config: Config, *, dry_run: bool
) -> PlannedUnits:
    """Plan every item that is not planned yet, and those to be tried once more: see `find_retry`.

    Args:
        ledger: The plan and the receipts so far.
        items: The inputs that were named.
        options: Unit size, and whether rejects are tried again.
        config: What the units are planned with.
        dry_run: Write nothing.

    Raises:
        MismatchError: Earlier units were planned with another configuration.
    """
    _check_config(ledger, config)
    retry = find_retry(ledger, items, all_rejects=options.retry_rejected)
    wanted = (items, options.unit_size, config.model_dump(mode="json"), config.digest(), retry)
    if dry_run:
        new = ledger.would_plan(*wanted)
        return PlannedUnits(new, new, [*ledger.pending(), *new], [*ledger.units(), *new])
    before = len(ledger.units())
    units = ledger.plan(*wanted)
    return PlannedUnits(units[before:], (), ledger.pending(), units)


def _check_config(ledger: Ledger, config: Config) -> None:
    """Raise MismatchError when units were planned with another configuration of the same kind.

    The planned configuration is read by its class first, so that fields and names of an earlier version are no
    differences. The ledger refuses one of another kind.
    """
    planned = ledger.config()
    if planned is None or planned[1] == config.digest():
        return
    with suppress(ValidationError):
        content = type(config).model_validate(planned[0]).model_dump(mode="json")
        raise mismatch(ledger.location, (content, planned[1]), (config.model_dump(mode="json"), config.digest()))


def earlier_numerics(ledger: Ledger) -> tuple[tuple[str, str], ...] | None:
    """Return the numerics class of the units committed so far; None when there are none."""
    numerics = next((receipt.numerics for receipt in ledger.receipts().values()), None)
    return tuple(numerics.items()) if numerics else None
