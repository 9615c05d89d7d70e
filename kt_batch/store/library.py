"""A knowledge library on disk: configuration, committed parts, summary."""

from __future__ import annotations

from functools import cached_property

from pydantic import ValidationError

from kt_batch.config import ExtractConfig
from kt_batch.errors import DamagedError, MismatchError, MissingError
from kt_batch.store import layout
from kt_batch.store.attempts import find_rejects
from kt_batch.store.committed import Committed
from kt_batch.store.derived import write_summary
from kt_batch.store.locations import Location
from kt_batch.store.schemas import VECTOR
from kt_batch.store.tables import read_schema
from kt_batch.store.units import Ledger

LIBRARY_FORMAT = "kt-batch-library/1"


class Library:
    """An opened library. `store/opening.py` opens one."""

    def __init__(self, committed: Committed) -> None:
        """Raise MismatchError when the planned configuration is not that of a library."""
        self.committed = committed
        try:
            self.config = ExtractConfig.model_validate(committed.config)
        except ValidationError as error:
            raise MismatchError(
                f"'{committed.location.uri}' is not a knowledge library of this version: is it a run?"
            ) from error

    @property
    def location(self) -> Location:
        """Return the library's location."""
        return self.committed.location

    @property
    def patches(self) -> int:
        """Return the number of patches in all committed parts."""
        return sum(receipt.patches for receipt in self.committed.receipts.values())

    @cached_property
    def channels(self) -> int:
        """Return C, the channels of a cell, as the width of the stored vectors gives it.

        Raises:
            MissingError: the library holds no patches.
            DamagedError: its first part is no table of patches.
        """
        part = next(iter(self.committed.parts(layout.PATCHES).values()), None)
        if part is None:
            raise MissingError(f"'{self.location.uri}' holds no patches.")
        schema = read_schema(self.location, part)
        if VECTOR not in schema.names:
            raise DamagedError(f"{self.location.uri}/{part.name} has no column {VECTOR!r}")
        return int(schema.field(VECTOR).type.byte_width) // 8


def write_library_summary(location: Location, ledger: Ledger, config: ExtractConfig) -> int:
    """Write `library.json` from plan, receipts and reject tables.

    Returns:
        The number of rejects.
    """
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
