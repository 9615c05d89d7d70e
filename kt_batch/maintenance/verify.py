"""Check a library or a run byte for byte against its receipts and indexes, and compute a digest of its content.

The digest is a sum over rows and outputs, not over part files. Libraries or runs of the same inputs and options have
the same digest for any workers, unit size, input order or interruptions (on one numerics class). Superseded rejects are
left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from kt_batch.errors import DamagedError, MissingError, StorageError, UnreachableError
from kt_batch.maintenance.consistency import receipt_faults, table_faults, unplanned
from kt_batch.maintenance.gc import survey
from kt_batch.maintenance.shards import shard_faults
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.store import layout
from kt_batch.store.attempts import resolve
from kt_batch.store.indexes import read_index_summaries
from kt_batch.store.library import Library
from kt_batch.store.locations import Location
from kt_batch.store.opening import Opened, kind_of, open_place
from kt_batch.store.paired import PairedLibrary, fit_digests, read_fit_summaries, read_fit_summary
from kt_batch.store.plans import Unit
from kt_batch.store.receipts import TableRef
from kt_batch.store.run import Run
from kt_batch.store.schemas import REJECTS, from_fixed_binary, missing_columns
from kt_batch.store.series import described_location, read_described_receipts, read_series
from kt_batch.store.statistics import named_files, read_statistics_summary, statistics_digests
from kt_batch.store.tables import read_table

MODULUS = 1 << 256
ROWS = 65536  # rows of a table that are digested at a time
CHUNK = 1 << 20  # bytes of a file that are read at a time


@dataclass(frozen=True)
class VerifySummary:
    """The result of `verify`.

    Attributes:
        place: The URI.
        kind: `library` or `run`.
        units: Committed units.
        pending: Units that are not committed.
        files: Files that were read.
        bytes: Their size.
        faults: One sentence for each file that is missing or damaged, and for each receipt or table that is not of its
            plan.
        orphans: Files that `gc` would remove; no faults.
        foreign: Files that kt_batch did not write; no faults.
        unplanned: Those of them that are receipts of units in no plan, which somebody may have planted; nothing reads
            them.
        digest: 64 hex digits over all rows and outputs; None if there are faults.
    """

    place: str
    kind: str
    units: int
    pending: int
    files: int
    bytes: int
    faults: tuple[str, ...]
    orphans: int
    foreign: int
    unplanned: int
    digest: str | None


def verify(place: str, progress: Progress) -> VerifySummary:
    """Read and check all files that a library or a run names.

    Raises:
        MissingError: If there is neither a library nor a run.
        DamagedError: If a plan or a receipt cannot be read.
        UnreachableError: If the store fails.
    """
    opened = open_place(place)
    location = opened.location
    listed = location.list(layout.RECEIPTS)  # before the plan is read: a plan comes before its receipts
    image_format = opened.header.format if isinstance(opened, Run) else None
    tables = [(unit, table) for unit, receipt in opened.committed.receipts.items() for table in receipt.tables]
    outputs = [(output.name, output.sha256) for output in opened.outputs.values()] if isinstance(opened, Run) else []
    sizes = _output_sizes(opened) if isinstance(opened, Run) else _index_sizes(location)
    shards = opened.shards if isinstance(opened, Run) else {}
    described = _described_tables(opened)
    blobs = [] if shards else [*outputs, *_derived_files(opened)]
    check = _Check(location, len(tables) + len(blobs) + len(shards) + len(described), progress)
    check.faults += _fit_faults(location) if isinstance(opened, PairedLibrary) else []
    check.faults += _statistics_faults(location) if isinstance(opened, Library) else []
    check.faults += receipt_faults(opened.committed.attempts, image_format)
    rejects = _check_tables(check, tables, {unit.id: unit for unit, _ in opened.committed.attempts}, opened)
    _check_files(check, blobs, sizes)
    _check_described(check, described)
    check.faults += _series_faults(opened) if isinstance(opened, Run) else []
    for name, (shard, inside) in shards.items():
        with check.next_file():
            check.faults += shard_faults(location, name, shard, inside)
            check.bytes += shard.bytes
    digest = check.digest
    digest += rows_digest(layout.REJECTS, resolve(opened.committed.attempts, rejects).rows)
    for name, sha256 in outputs:
        digest += _number(f"{name} {sha256}".encode())
    others = survey(opened)
    return VerifySummary(
        place=location.uri,
        kind=kind_of(opened),
        units=len(opened.committed.receipts),
        pending=others.pending,
        files=check.total,
        bytes=check.bytes,
        faults=tuple(check.faults),
        orphans=len(others.orphans),
        foreign=len(others.foreign),
        unplanned=len(unplanned(listed, opened.committed.ledger.units())),
        digest=None if check.faults else f"{digest % MODULUS:064x}",
    )


@dataclass
class _Check:
    """The running totals of a verification of `total` files."""

    location: Location
    total: int
    progress: Progress
    files: int = 0
    bytes: int = 0
    digest: int = 0
    faults: list[str] = field(default_factory=list)

    @contextmanager
    def next_file(self) -> Iterator[None]:
        """Count one file and record its error as a fault, unless the store fails."""
        try:
            yield
        except UnreachableError:
            raise
        except StorageError as error:
            self.faults.append(str(error))
        self.files += 1
        self.progress(Step("verify", self.files, self.total))


def _check_tables(
    check: _Check, tables: Sequence[tuple[str, TableRef]], units: Mapping[str, Unit], opened: Opened
) -> dict[str, pa.Table]:
    """Read and digest the tables of all units; return the reject tables by unit, which are not digested yet."""
    image_format = opened.header.format if isinstance(opened, Run) else None
    rejects: dict[str, pa.Table] = {}
    for unit, ref in tables:
        with check.next_file():
            table = read_table(check.location, ref, REJECTS.names if ref.kind == layout.REJECTS else None, verify=True)
            if missing := missing_columns(ref.kind, table.column_names):
                raise DamagedError(f"'{ref.name}' at '{check.location.uri}' has no column '{missing[0]}'.")
            check.bytes += ref.bytes
            receipt = opened.committed.receipts[unit]
            check.faults += table_faults(ref.kind, table, units[unit], receipt, image_format)
            if ref.kind == layout.REJECTS:
                rejects[unit] = table
            else:
                check.digest += rows_digest(ref.kind, table)
    return rejects


def _check_files(check: _Check, files: Sequence[tuple[str, str]], sizes: Mapping[str, int]) -> None:
    """Compare files, given by name and SHA-256, with their content; first with their size where it is recorded."""
    for name, sha256 in files:
        with check.next_file():
            size = check.location.size(name)
            if size != sizes.get(name, size):
                raise DamagedError(f"'{name}' at '{check.location.uri}' has {size} bytes, not {sizes[name]}.")
            actual, length = _hash(check.location, name)
            check.bytes += length
            if actual != sha256:
                check.faults.append(f"'{name}' at '{check.location.uri}' has the SHA-256 {actual}, not {sha256}.")


def rows_digest(kind: str, table: pa.Table) -> int:
    """Return the sum of the SHA-256 of all rows; it does not depend on their order or their division into parts.

    A row is hashed as its kind and its values in column order, each with its length.
    """
    total = 0
    for start in range(0, table.num_rows, ROWS):
        part = table.slice(start, ROWS)
        columns = [_cells(part[name]) for name in part.column_names]
        for row in zip(*columns, strict=True):
            content = b"".join(len(cell).to_bytes(8, "little") + cell for cell in row)
            total += _number(kind.encode() + b"\0" + content)
    return total % MODULUS


def _cells(column: pa.ChunkedArray) -> Iterator[bytes]:
    """Return every value of a column as bytes that are unique to it."""
    if pa.types.is_dictionary(column.type):
        return _cells_of_dictionary(column)
    if pa.types.is_fixed_size_binary(column.type) and column.null_count == 0:
        width = column.type.byte_width
        raw = from_fixed_binary(column, "u1", (width,)).tobytes() if len(column) else b""
        return (raw[start : start + width] for start in range(0, len(raw), width))
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        values = np.ascontiguousarray(column.to_numpy())
        raw = values.tobytes()
        return (raw[start : start + values.itemsize] for start in range(0, len(raw), values.itemsize))
    return (_value_bytes(value) for value in column.to_pylist())


def _cells_of_dictionary(column: pa.ChunkedArray) -> Iterator[bytes]:
    """Yield every value as `_cells` does; equal values share their bytes, however often a row names them."""
    for chunk in column.chunks:
        values = list(_cells(pa.chunked_array([chunk.dictionary])))
        for index in chunk.indices.to_pylist():
            yield values[index]


def _value_bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest(), "little")


def _derived_files(opened: Opened) -> list[tuple[str, str]]:
    """Return name and SHA-256 of every file of an index, a fit or statistics."""
    if isinstance(opened, PairedLibrary):
        fits = read_fit_summaries(opened.location)
        return [(layout.blob_path(layout.FITS, fit.arrays_sha256), fit.arrays_sha256) for fit in fits]
    if not isinstance(opened, Library):
        return []
    try:
        statistics = named_files(opened.location)
    except DamagedError:  # `_statistics_faults` tells of it
        statistics = {}
    return [*_index_files(opened.location), *sorted(statistics.items())]


def _fit_faults(location: Location) -> list[str]:
    """Return a fault for every summary of a fit that cannot be read."""
    faults = []
    for digest in fit_digests(location):
        try:
            read_fit_summary(location, digest)
        except DamagedError as error:
            faults.append(f"{error}; run kt-batch fit again.")
    return faults


def _described_tables(opened: Opened) -> list[TableRef]:
    """Return the tables from which the series of a run were made; none of other places."""
    if not isinstance(opened, Run) or opened.header.series == "none":
        return []
    return [table for receipt in read_described_receipts(opened.location).values() for table in receipt.tables]


def _check_described(check: _Check, tables: Sequence[TableRef]) -> None:
    """Read the tables of described photographs; what they hold counts in no digest, for edits follow from it."""
    place = described_location(check.location)
    for ref in tables:
        with check.next_file():
            read_table(place, ref, verify=True)
            check.bytes += ref.bytes


def _series_faults(run: Run) -> list[str]:
    """Return a fault for every series file that cannot be read, or is gone though photographs were edited after it."""
    faults: list[str] = []
    if run.header.series == "none":
        return faults
    for number, plan in enumerate(run.committed.ledger.plans()):
        try:
            read_series(run.location, number)
        except MissingError as error:
            if any(unit.id in run.committed.receipts for unit in plan.units):
                faults.append(str(error))
        except DamagedError as error:
            faults.append(str(error))
    return faults


def _statistics_faults(location: Location) -> list[str]:
    """Return a fault for every summary of statistics that cannot be read, and for the first such receipt."""
    faults = []
    try:
        named_files(location)
    except DamagedError as error:
        faults.append(f"{error}; remove that file and run kt-batch statistics again.")
    for digest in statistics_digests(location):
        try:
            read_statistics_summary(location, digest)
        except DamagedError as error:
            faults.append(f"{error} Run kt-batch statistics again.")
    return faults


def _index_files(location: Location) -> list[tuple[str, str]]:
    """Return name and SHA-256 of every file that an index of a library names."""
    hashes: dict[str, str] = {}
    for summary in read_index_summaries(location):
        hashes |= {file.path: file.sha256 for file in (summary.tree, summary.leaf_statistics) if file}
        hashes[layout.members_path(summary.digest)] = summary.members_sha256
        if summary.parts_sha256:
            hashes[layout.covered_parts_path(summary.digest)] = summary.parts_sha256
        hashes |= {layout.shard_path(shard.sha256): shard.sha256 for shard in summary.shards}
    return sorted(hashes.items())


def _index_sizes(location: Location) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for summary in read_index_summaries(location):
        sizes |= {file.path: file.bytes for file in (summary.tree, summary.leaf_statistics) if file}
        sizes |= {layout.shard_path(shard.sha256): shard.bytes for shard in summary.shards}
    return sizes


def _output_sizes(run: Run) -> dict[str, int]:
    return {
        item.output_path(run.header.format): output[1]
        for unit, receipt in run.committed.attempts
        for item, output in zip(unit.items, receipt.outputs if receipt else (), strict=False)
        if output
    }


def _hash(location: Location, name: str) -> tuple[str, int]:
    """Return SHA-256 and size of a file, read in chunks."""
    digest, size = hashlib.sha256(), 0
    with location.open(name) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size
