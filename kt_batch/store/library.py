"""A knowledge library on disk: configuration, committed parts, summary."""

from __future__ import annotations

from functools import cached_property

from pydantic import ValidationError

from kt_batch.config import ExtractConfig, ScaleKey
from kt_batch.errors import DamagedError, MismatchError, MissingError, UsageError
from kt_batch.store import layout
from kt_batch.store.attempts import find_rejects
from kt_batch.store.committed import Committed
from kt_batch.store.derived import write_summary
from kt_batch.store.locations import Location
from kt_batch.store.receipts import TableRef
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
        """Return the number of patches of the base key in all committed parts."""
        return sum(receipt.patches for receipt in self.committed.receipts.values())

    def parts_at(self, key: ScaleKey) -> dict[str, TableRef]:
        """Return the committed part of patches of each unit at a key. Raises UsageError when it keeps none there."""
        if key not in self.config.keys:
            keys = ", ".join(map(str, self.config.keys))
            raise UsageError(f"'{self.location.uri}' keeps no patches at {key}; it keeps those at {keys}.")
        kind = layout.PATCHES if key == self.config.base else layout.patches_kind(str(key))
        return self.committed.parts(kind)

    def patches_at(self, key: ScaleKey) -> int:
        """Return the number of patches at a key."""
        return sum(part.rows for part in self.parts_at(key).values())

    @cached_property
    def channels(self) -> int:
        """Return C, the channels of a cell of the base key."""
        return self.channels_at(self.config.base)

    def channels_at(self, key: ScaleKey) -> int:
        """Return C, the channels of a cell at a key, as the width of the stored vectors gives it.

        Raises:
            MissingError: the library holds no patches.
            DamagedError: its first part is no table of patches.
        """
        part = next(iter(self.parts_at(key).values()), None)
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
    library = Library(Committed(ledger, config.model_dump(mode="json")))
    further = {str(key): library.patches_at(key) for key in config.keys[1:]}
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
            **({"patches_also": further} if further else {}),
            "rejects": rejects,
            "bytes": sum(table.bytes for r in receipts.values() for table in r.tables),
        },
    )
    return rejects
