"""The ledger of units: plan them, and commit them.

A plan is a sequence of files, each put if absent under the next number. A driver that loses a number reads the winner's
file and plans only what is still missing. Any number of drivers therefore end with the same units, and no unit ever
changes.

An item's key is (image id, name), wherever it is listed from. An item is planned once, and once more in each retry that
includes it. A unit's id follows from its items and the number of its retry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa

from kt_batch.errors import DamagedError, StorageError
from kt_batch.store import layout
from kt_batch.store.documents import MOST_BYTES
from kt_batch.store.locations import Location, exists, read_bounded
from kt_batch.store.mismatch import mismatch
from kt_batch.store.plans import Item, Plan, Unit, canonical, encode_plan, make_units, read_plan
from kt_batch.store.receipts import Receipt, check_adopted, parse_receipt
from kt_batch.store.schemas import REJECTS
from kt_batch.store.tables import open_table, read_table

READERS = 16  # files read at a time; they are small, and may be far away

Attempt = tuple[Unit, Receipt | None]  # None: not committed yet
Naming = Callable[[Sequence[Unit], Sequence[Item]], list[Item]]  # gives new items their outputs, after the units so far


@dataclass(frozen=True, slots=True)
class Retry:
    """Items that were planned before and are tried again, each once per retry number."""

    number: int
    items: tuple[Item, ...]


class Ledger:
    """The plan and the receipts of one library or run.

    What was read is kept, since it never changes; what others add is seen at the next call. Any method may raise
    StorageError, and DamagedError for a plan or a receipt that does not match its name.
    """

    def __init__(self, location: Location, naming: Naming = lambda _, items: list(items)) -> None:
        self._location, self._naming = location, naming
        self._plans: list[Plan] = []
        self._receipts: dict[str, Receipt] = {}
        self._rejects: dict[str, pa.Table] = {}

    @property
    def location(self) -> Location:
        """Return the location of the library or the run."""
        return self._location

    def plan(
        self,
        items: Sequence[Item],
        unit_size: int,
        config: Mapping[str, Any],
        config_digest: str,
        retry: Retry | None = None,
    ) -> list[Unit]:
        """Plan the items that no plan holds yet, and return all units in plan order.

        Args:
            items: the inputs.
            unit_size: most items of a new unit.
            config: the JSON-able configuration.
            config_digest: its digest.
            retry: items to plan again, unless this retry or a later one holds them.

        Raises:
            MismatchError: earlier units were planned with another configuration.
        """
        self._read_plans()
        while True:
            new, again = self._missing_units(items, unit_size, config, config_digest, retry)
            units = new or again
            if not units:
                return self._units()
            number = len(self._plans)
            self._location.put_if_absent(
                layout.plan_path(number), encode_plan(Plan(tuple(units), dict(config), config_digest))
            )
            self._plans.append(self._read_plan(number))  # ours or the winner's; the next round plans what is missing

    def plan_exactly(self, units: Sequence[Unit], config: Mapping[str, Any], config_digest: str) -> None:
        """Plan units that were made elsewhere, in the first plan file, unless there is one already.

        Args:
            units: The units, none of them a retry.
            config: The JSON-able configuration.
            config_digest: Its digest.
        """
        if not self.plans():
            first = Plan(tuple(units), dict(config), config_digest)
            self._location.put_if_absent(layout.plan_path(0), encode_plan(first))

    def would_plan(
        self,
        items: Sequence[Item],
        unit_size: int,
        config: Mapping[str, Any],
        config_digest: str,
        retry: Retry | None = None,
    ) -> list[Unit]:
        """Return the units that `plan` would add; raise its errors, and write nothing."""
        self._read_plans()
        return list(chain(*self._missing_units(items, unit_size, config, config_digest, retry)))

    def units(self) -> list[Unit]:
        """Return all units planned so far, in plan order."""
        self._read_plans()
        return self._units()

    def plans(self) -> list[Plan]:
        """Return all plan files so far, in their order."""
        self._read_plans()
        return list(self._plans)

    def config(self) -> tuple[dict[str, Any], str] | None:
        """Return the planned configuration and its digest; None before the first plan."""
        self._read_plans()
        return (self._plans[0].config, self._plans[0].config_digest) if self._plans else None

    def receipts(self) -> dict[str, Receipt]:
        """Return unit id -> receipt of every committed unit, in plan order.

        Receipts of units in no plan are ignored.
        """
        units = self.units()
        committed = set(map(layout.parse_receipt_path, self._location.list(layout.RECEIPTS)))
        new = [unit for unit in units if unit.id in committed and unit.id not in self._receipts]
        with ThreadPoolExecutor(READERS) as pool:
            self._receipts.update(zip((unit.id for unit in new), pool.map(self._checked_receipt, new), strict=True))
        return {unit.id: self._receipts[unit.id] for unit in units if unit.id in committed}

    def attempts(self) -> list[Attempt]:
        """Return all units in plan order with their receipts, as of one moment."""
        done = self.receipts()
        return [(unit, done.get(unit.id)) for unit in self._units()]

    def pending(self) -> list[Unit]:
        """Return the units without a receipt, in plan order."""
        return [unit for unit, receipt in self.attempts() if receipt is None]

    def reject_tables(self, attempts: Iterable[Attempt]) -> dict[str, pa.Table]:
        """Return unit id -> reject table of every committed unit that has one."""
        tables = {
            unit.id: table
            for unit, receipt in attempts
            if receipt
            for table in receipt.tables
            if table.kind == layout.REJECTS
        }
        new = [unit for unit in tables if unit not in self._rejects]
        with ThreadPoolExecutor(READERS) as pool:
            read = pool.map(lambda unit: read_table(self._location, tables[unit], REJECTS.names), new)
            self._rejects.update(zip(new, read, strict=True))
        return {unit: self._rejects[unit] for unit in tables}

    def commit(self, receipt: Receipt) -> Receipt:
        """Commit a unit and return the receipt that counts: this one, or an earlier one.

        A returned receipt with the caller's attempt id is the caller's commit, also when the store's reply was lost.
        """
        name = layout.receipt_path(receipt.unit)
        if publishing := self._location.publishing():
            receipt = receipt.model_copy(update={"publishing": publishing})
        try:
            if self._location.put_if_absent(name, receipt.to_json()):
                return receipt
        except StorageError:
            if not exists(self._location, name):
                raise
        adopted = self._read_receipt(receipt.unit)
        check_adopted(receipt, adopted, f"{self._location.uri}/{name}")
        return adopted

    def snapshot(self) -> str:
        """Return 16 hex digits over all units, tables and outputs that are committed.

        They count by content. The order of completion, attempts, times and workers have no effect on it. A retry that
        brought nothing has none either, so an index of the library remains current.
        """
        digest = hashlib.sha256()
        for unit, receipt in sorted(self.attempts(), key=lambda attempt: attempt[0].id):
            if receipt is None or (unit.retry and not _brought_something(receipt)):
                continue
            tables = sorted((table.kind, table.sha256) for table in receipt.tables)
            outputs = [output and output[0] for output in receipt.outputs]
            digest.update(canonical([unit.id, tables, outputs]).encode())
        return digest.hexdigest()[:16]

    def _units(self) -> list[Unit]:
        return [unit for plan in self._plans for unit in plan.units]

    def _missing_units(
        self, items: Sequence[Item], unit_size: int, config: Mapping[str, Any], config_digest: str, retry: Retry | None
    ) -> tuple[list[Unit], list[Unit]]:
        """Return the units of items that no plan holds yet, and the units of the retry.

        One plan file holds units of one of the two lists.
        """
        self._require_config(config, config_digest)
        new = make_units(self._unplanned(items), unit_size)
        again = make_units(self._unplanned(retry.items, retry.number), unit_size, retry.number) if retry else []
        return new, again

    def _unplanned(self, items: Sequence[Item], retry: int = 0) -> list[Item]:
        """Return the items that are not planned in this retry or a later one."""
        planned = {(item.image_id, item.name) for unit in self._units() if unit.retry >= retry for item in unit.items}
        return self._naming(self._units(), [item for item in items if (item.image_id, item.name) not in planned])

    def _read_plans(self) -> None:
        names = [name for name in self._location.list(layout.PLAN) if layout.is_plan(name)]
        for number, name in enumerate(names):
            if name != layout.plan_path(number):
                raise DamagedError(f"{self._location.uri} holds {name}, but not the earlier {layout.plan_path(number)}")
        self._plans += [self._read_plan(number) for number in range(len(self._plans), len(names))]

    def _read_plan(self, number: int) -> Plan:
        name = layout.plan_path(number)
        with open_table(self._location, name) as file:
            return read_plan(file, f"{self._location.uri}/{name}")

    def _read_receipt(self, unit: str) -> Receipt:
        name = layout.receipt_path(unit)
        return parse_receipt(read_bounded(self._location, name, MOST_BYTES), f"{self._location.uri}/{name}")

    def _checked_receipt(self, unit: Unit) -> Receipt:
        receipt = self._read_receipt(unit.id)
        place = f"{self._location.uri}/{layout.receipt_path(unit.id)}"
        if receipt.config_digest != self._plans[0].config_digest:
            planned = self._plans[0].config_digest
            raise DamagedError(f"{place} has the config digest {receipt.config_digest}, but its plan has {planned}")
        for what, values in (("outputs", receipt.outputs), ("seconds of items", receipt.item_seconds)):
            required = what == "outputs" and "format" in self._plans[0].config  # a run has an image format
            if (values or required) and len(values) != len(unit.items):
                raise DamagedError(f"{place} has {len(values)} {what}, but its unit has {len(unit.items)} items")
        return receipt

    def _require_config(self, config: Mapping[str, Any], config_digest: str) -> None:
        for plan in self._plans:
            if plan.config_digest != config_digest:
                raise mismatch(self._location, (plan.config, plan.config_digest), (config, config_digest))


def _brought_something(receipt: Receipt) -> bool:
    return any(receipt.outputs) or any(table.kind != layout.REJECTS for table in receipt.tables)
