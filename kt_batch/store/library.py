"""A knowledge library on disk, for reading: its configuration, its committed parts, its summary."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import pyarrow.parquet as pq
from pydantic import ValidationError

from kt_batch.config import ExtractConfig
from kt_batch.errors import MismatchError, MissingError, StorageError
from kt_batch.store import layout
from kt_batch.store.attempts import Rejects, find_rejects, resolve
from kt_batch.store.locations import Location, open_location
from kt_batch.store.receipts import Receipt, TableRef
from kt_batch.store.units import Attempt, Ledger

LIBRARY_FORMAT = "kt-batch-library/1"


class Library:
    """An opened library. What it holds is what its receipts say, and nothing else."""

    def __init__(self, location: Location) -> None:
        """Raises MissingError when nothing was ever planned there."""
        self.location = location
        self.ledger = Ledger(location)
        found = self.ledger.config()
        if found is None:
            raise MissingError(f"'{location.uri}' is not a knowledge library: it has no plan.")
        try:
            self.config = ExtractConfig.model_validate(found[0])
        except ValidationError as error:
            raise MismatchError(f"'{location.uri}' is not a knowledge library of this version: is it a run?") from error
        self.config_digest = found[1]

    @classmethod
    def open(cls, text: str) -> Library:
        """From a path or s3:// URI."""
        return cls(open_location(text))

    @cached_property
    def receipts(self) -> dict[str, Receipt]:
        """Committed units, by unit id."""
        return self.ledger.receipts()

    @cached_property
    def attempts(self) -> list[Attempt]:
        """All units in plan order with their receipts."""
        return [(unit, self.receipts.get(unit.id)) for unit in self.ledger.units()]

    @cached_property
    def rejects(self) -> Rejects:
        """The rejects that count."""
        return resolve(self.attempts, self.ledger.reject_tables(self.attempts))

    @cached_property
    def snapshot(self) -> str:
        """Digest of everything committed, 16 hex digits."""
        return self.ledger.snapshot()

    @property
    def patches(self) -> int:
        """Patches in all committed parts."""
        return sum(receipt.patches for receipt in self.receipts.values())

    @cached_property
    def channels(self) -> int:
        """C, from the vectors' width. Raises MissingError when the library holds no patches."""
        parts = self.parts(layout.PATCHES)
        if not parts:
            raise MissingError(f"'{self.location.uri}' holds no patches.")
        with self.location.open(parts[0].name) as source:
            return int(pq.read_schema(source).field("vector").type.byte_width) // 8

    def parts(self, kind: str) -> list[TableRef]:
        """The committed parts of one kind (`images`, `patches`, `rejects`), by unit id; not all rejects need count."""
        return [table for unit in sorted(self.receipts) for table in self.receipts[unit].tables if table.kind == kind]


def write_library_summary(location: Location, ledger: Ledger, config: ExtractConfig) -> int:
    """Write `library.json`, derived from plan, receipts and reject tables alone; returns the number of rejects."""
    receipts = ledger.receipts()
    rejects = find_rejects(ledger).count
    write_summary(
        location,
        layout.LIBRARY_SUMMARY,
        {
            "format": LIBRARY_FORMAT,
            "config": config.model_dump(mode="json"),
            "config_digest": config.digest(),
            "snapshot": ledger.snapshot(),
            "units": len(receipts),
            "images": sum(r.images for r in receipts.values()),
            "patches": sum(r.patches for r in receipts.values()),
            "rejects": rejects,
            "bytes": sum(table.bytes for r in receipts.values() for table in r.tables),
        },
    )
    return rejects


def write_summary(location: Location, name: str, content: dict[str, Any]) -> None:
    """Put a derived summary in place of an older one. In between there is none, and readers use plan and receipts."""
    put_derived(location, name, (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def put_derived(location: Location, name: str, data: bytes) -> None:
    """Make `name` hold `data`, which follows from what is committed; something else that lies there is replaced."""
    for _ in range(8):
        try:
            if location.read_bytes(name) == data:
                return
            location.delete(name)
        except MissingError:
            pass
        if location.put_if_absent(name, data):
            return
    raise StorageError(f"'{name}' at '{location.uri}' keeps being replaced by another driver.")
