"""The common contents of libraries and runs: plan, receipts, rejects and parts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from kt_batch.store.attempts import Rejects, resolve
from kt_batch.store.locations import Location
from kt_batch.store.receipts import Receipt, TableRef
from kt_batch.store.units import Attempt, Ledger


class Committed:
    """The committed content of a library or a run.

    The plan and the receipts state it. Each value is read at the first use and then kept.
    """

    def __init__(self, ledger: Ledger, config: Mapping[str, Any]) -> None:
        """Take a place's plan and receipts, and the configuration it was planned with."""
        self.ledger = ledger
        self.config = config

    @property
    def location(self) -> Location:
        """Return the location of the library or the run."""
        return self.ledger.location

    @cached_property
    def receipts(self) -> dict[str, Receipt]:
        """Return the receipts of the committed units, by unit id, in plan order."""
        return self.ledger.receipts()

    @cached_property
    def attempts(self) -> list[Attempt]:
        """Return all units in plan order with their receipts."""
        return [(unit, self.receipts.get(unit.id)) for unit in self.ledger.units()]

    @cached_property
    def rejects(self) -> Rejects:
        """Return the rejects that count."""
        return resolve(self.attempts, self.ledger.reject_tables(self.attempts))

    @cached_property
    def snapshot(self) -> str:
        """Return the digest of everything committed, 16 hex digits."""
        return self.ledger.snapshot()

    def parts(self, kind: str) -> dict[str, TableRef]:
        """Return the committed part of each unit that has one of this table kind.

        Parts come by ascending unit id. A reject part may hold rows that a later attempt has superseded.
        """
        return {
            unit: table for unit in sorted(self.receipts) for table in self.receipts[unit].tables if table.kind == kind
        }
