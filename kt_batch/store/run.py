"""A run on disk, for reading, and its summary `run.json`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from kt_batch.config import TranslateConfig
from kt_batch.errors import DamagedError, MismatchError, MissingError
from kt_batch.store import layout
from kt_batch.store.attempts import Rejects, resolve
from kt_batch.store.inputs import output_name
from kt_batch.store.library import write_summary
from kt_batch.store.locations import Location, open_location
from kt_batch.store.receipts import Receipt, TableRef
from kt_batch.store.tables import read_table
from kt_batch.store.units import Attempt, Ledger, Unit

RUN_FORMAT = "kt-batch-run/1"


@dataclass(frozen=True)
class Totals:
    """The rejects of a run, and means over all its first matches; None where it has none."""

    rejects: int
    ncc_mean: float | None
    certified_share: float | None


@dataclass(frozen=True)
class Output:
    """One output image: its name in the run, the input's URI, and where its provenance lies."""

    name: str
    uri: str
    sha256: str
    part: TableRef
    row_group: int


class Run:
    """An opened run. What it holds is what its receipts say."""

    def __init__(self, location: Location) -> None:
        """Raises MissingError when nothing was ever planned there."""
        self.location = location
        self.ledger = Ledger(location)
        found = self.ledger.config()
        if found is None:
            raise MissingError(f"'{location.uri}' is not a run: it has no plan.")
        try:
            self.config = TranslateConfig.model_validate(found[0])
        except ValidationError as error:
            raise MismatchError(f"'{location.uri}' is not a run of this version: is it a library?") from error

    @classmethod
    def open(cls, text: str) -> Run:
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
    def outputs(self) -> dict[str, Output]:
        """All committed outputs, by name, sorted."""
        found = []
        for unit, receipt in self.attempts:
            if receipt is not None:
                found += _outputs(unit, receipt, self.config.format)
        return {output.name: output for output in sorted(found, key=lambda output: output.name)}

    def parts(self, kind: str) -> list[TableRef]:
        """The committed parts of one kind (`provenance`, `rejects`), by unit id; not all rejects need count."""
        return [table for unit in sorted(self.receipts) for table in self.receipts[unit].tables if table.kind == kind]


def _outputs(unit: Unit, receipt: Receipt, image_format: str) -> list[Output]:
    """Row groups of the unit's provenance part follow the items that were not rejected."""
    done = [(item, output) for item, output in zip(unit.items, receipt.outputs, strict=True) if output]
    part = next((table for table in receipt.tables if table.kind == layout.PROVENANCE), None)
    if part is None:
        return []
    return [
        Output(output_name(item.name, image_format), item.uri, output[0], part, group)
        for group, (item, output) in enumerate(done)
    ]


def provenance_of(run: Run, output: Output) -> Any:
    """The provenance table of one output."""
    try:
        with run.location.open(output.part.name) as source:
            return pq.ParquetFile(source).read_row_group(output.row_group)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(
            f"'{output.part.name}' at '{run.location.uri}' cannot be read as Parquet: {error}."
        ) from error


def write_run_summary(location: Location, ledger: Ledger, config: TranslateConfig, library: str) -> Totals:
    """Write `run.json`, derived from plan, receipts and tables alone."""
    run = Run(location)
    totals = _totals(run)
    receipts = run.receipts.values()
    write_summary(
        location,
        layout.RUN_SUMMARY,
        {
            "format": RUN_FORMAT,
            "config": config.model_dump(mode="json"),
            "config_digest": config.digest(),
            "library": library,
            "snapshot": ledger.snapshot(),
            "images": sum(r.images for r in receipts),
            "patches": sum(r.patches for r in receipts),
            "rejects": totals.rejects,
            "ncc_mean": totals.ncc_mean,
            "certified_share": totals.certified_share,
            "outputs": {
                output.name: {"uri": output.uri, "provenance": output.part.name, "row_group": output.row_group}
                for output in run.outputs.values()
            },
        },
    )
    return totals


def _totals(run: Run) -> Totals:
    """From what the receipts say: to read back the provenance of many images from a bucket takes long."""
    rejects = run.rejects.count
    sums = [_sums(run.location, run.receipts[unit]) for unit in sorted(run.receipts)]
    count = sum(receipt.patches for receipt in run.receipts.values())
    if count == 0:
        return Totals(rejects, None, None)
    ncc, certified = (sum(column) for column in zip(*sums, strict=True))
    return Totals(rejects, round(ncc / count, 6), round(certified / count, 6))


def _sums(location: Location, receipt: Receipt) -> tuple[float, int]:
    """The sum of the NCC and the certified ones among a unit's best matches."""
    if receipt.ncc_sum is not None and receipt.certified is not None:
        return receipt.ncc_sum, receipt.certified
    ncc, certified = 0.0, 0
    for part in (table for table in receipt.tables if table.kind == layout.PROVENANCE):
        table = read_table(location, part, ["rank", "ncc", "certified"])
        first = table["rank"].to_numpy() == 0
        certified += int(np.count_nonzero(table["certified"].to_numpy()[first]))
        ncc += float(table["ncc"].to_numpy()[first].astype(np.float64).sum())
    return ncc, certified
