"""Resolve several attempts at one input: the last one counts.

An attempt is a committed unit. Attempts are ordered by the plan, never by a clock. Two attempts are at the same input
when they share its name and also its bytes or its place. A retry, a mended file and a file that could not be read for a
while therefore follow the failed attempt. Its reject counts until then.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from kt_batch.errors import Reason
from kt_batch.store.plans import Item, Unit
from kt_batch.store.schemas import REJECTS
from kt_batch.store.units import Attempt, Ledger, Retry

Key = tuple[str, str]


@dataclass(frozen=True, order=True)
class Reject:
    """One reject that counts: its row, and the name of the input."""

    name: str
    uri: str
    stage: str
    reason: str
    message: str


@dataclass(frozen=True)
class Rejects:
    """The rejects of a library or a run.

    standing: (unit id, item) of the rejects that count. rows: their table rows, by unit id. superseded: unit id -> URIs
    of its rejects that no longer count; units without any are absent. tables: the reject tables of all units, by id.
    """

    standing: frozenset[tuple[str, Item]]
    rows: pa.Table
    superseded: Mapping[str, frozenset[str]]
    tables: Mapping[str, pa.Table] = field(default_factory=dict, repr=False)

    def listed(self, most: int | None = None) -> list[Reject]:
        """Return the rejects that count by name, or the first `most` of them."""
        return sorted(self._listed()) if most is None else heapq.nsmallest(most, self._listed())

    def _listed(self) -> Iterator[Reject]:
        names: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for unit, item in self.standing:
            names[unit][item.uri] = min(item.name, names[unit].get(item.uri, item.name))
        for unit, counting in names.items():
            for row in self.tables[unit].to_pylist():
                if row["uri"] in counting:
                    yield Reject(counting[row["uri"]], row["uri"], row["stage"], row["reason"], row["message"])

    def of_reason(self, reason: Reason) -> Iterator[tuple[str, Item]]:
        """Yield (unit id, item) of the standing rejects that have a reason."""
        for unit, item in sorted(self.standing, key=lambda standing: standing[0]):
            table = self.tables[unit]
            rows = zip(table["uri"].to_pylist(), table["reason"].to_pylist(), strict=True)
            if (item.uri, reason) in rows:
                yield unit, item

    @property
    def count(self) -> int:
        """Return the number of rejects that count."""
        return len(self.rows)

    def among(self, units: Iterable[Unit]) -> int:
        """Count the standing rejects that are inputs of `units`, which are still pending."""
        keys = {key for unit in units for item in unit.items for key in _keys(item)}
        return sum(not keys.isdisjoint(_keys(item)) for _, item in self.standing)


def resolve(attempts: Sequence[Attempt], tables: Mapping[str, pa.Table]) -> Rejects:
    """Decide which rejects count.

    Args:
        attempts: all units in plan order with their receipts.
        tables: the reject tables of the committed units, by unit id.
    """
    uris = {unit: frozenset(table["uri"].to_pylist()) for unit, table in tables.items()}
    standing: set[tuple[str, Item]] = set()
    failed: defaultdict[Key, set[tuple[str, Item]]] = defaultdict(set)
    for unit, receipt in attempts:
        if receipt is None:
            continue
        if failed:
            for item in unit.items:
                for key in _keys(item):
                    standing -= failed.pop(key, set())
        for item in unit.items:
            if item.uri in uris.get(unit.id, ()):
                standing.add((unit.id, item))
                for key in _keys(item):
                    failed[key].add((unit.id, item))
    counting: defaultdict[str, set[str]] = defaultdict(set)
    for unit_id, item in standing:
        counting[unit_id].add(item.uri)
    superseded = {unit: left for unit, rejected in uris.items() if (left := rejected - counting[unit])}
    return Rejects(frozenset(standing), _rows(tables, superseded), superseded, tables)


def find_rejects(ledger: Ledger) -> Rejects:
    """Return the current rejects of a library or a run."""
    attempts = ledger.attempts()
    return resolve(attempts, ledger.reject_tables(attempts))


def find_retry(ledger: Ledger, items: Sequence[Item], *, all_rejects: bool) -> Retry:
    """Return the listed items to retry, and the number of their retry.

    With `all_rejects`, an item is retried when its input is a reject. Without, it is retried only when what is recorded
    is not true any more: its output is made, but its input still counts as a reject, since the file held other bytes in
    between; or the output was made from other bytes, but nothing says so, since the file held those again in between.
    No item is retried that a pending unit holds. The retry is the last one while it is unfinished, and the next one
    otherwise. A driver that continues a stopped retry therefore begins no other, and drivers that ask at the same time
    get the same one.
    """
    attempts = ledger.attempts()
    rejects = resolve(attempts, ledger.reject_tables(attempts))
    pending = [unit for unit, receipt in attempts if receipt is None]
    waiting = {key for unit in pending for item in unit.items for key in _keys(item)}
    failed = {key for _, item in rejects.standing for key in _keys(item)}
    planned = {(item.image_id, item.name) for unit, _ in attempts for item in unit.items}
    made = made_outputs(attempts)
    changed = {key for _, item in rejects.of_reason(Reason.CHANGED) for key in _keys(item)}

    def again(item: Item) -> bool:
        rejected, holder = not failed.isdisjoint(_keys(item)), made.get(item.name)
        if holder == item.image_id:
            return rejected and (all_rejects or not changed.isdisjoint(_keys(item)))
        return (rejected and all_rejects) or (not rejected and holder is not None)

    chosen = tuple(
        item
        for item in items
        if (item.image_id, item.name) in planned and waiting.isdisjoint(_keys(item)) and again(item)
    )
    last = max((unit.retry for unit, _ in attempts), default=0)
    under_way = last > 0 and any(unit.retry == last for unit in pending)
    return Retry(last if under_way else last + 1, chosen)


def made_outputs(attempts: Iterable[Attempt]) -> dict[str, str]:
    """Return an input's name -> the image id that its output was made from, over the committed units."""
    return {
        item.name: item.image_id
        for unit, receipt in attempts
        for item, output in zip(unit.items, receipt.outputs if receipt else (), strict=False)
        if output
    }


def _keys(item: Item) -> tuple[Key, Key]:
    """Return the keys of an input.

    Items that share a key are one input. An image id never equals a URI.
    """
    return (item.name, item.image_id), (item.name, item.uri)


def _rows(tables: Mapping[str, pa.Table], superseded: Mapping[str, frozenset[str]]) -> pa.Table:
    kept = [REJECTS.empty_table()]
    for unit, table in sorted(tables.items()):
        dropped = superseded.get(unit, frozenset())
        kept.append(table.filter(pa.array([uri not in dropped for uri in table["uri"].to_pylist()], pa.bool_())))
    return pa.concat_tables(kept)
