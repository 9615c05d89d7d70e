"""Is everything there that receipts and indexes say, byte for byte? And a digest of it that no order can change.

Two libraries or runs of the same inputs and options have the same digest, whatever workers, unit size, order of inputs
or interruptions they were made with (on one numerics class): it is a sum over rows and outputs, not over part files.
Rejects that a later attempt has superseded are not in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from kt_batch.errors import StorageError, UnreachableError
from kt_batch.maintenance.gc import survey
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.store import layout
from kt_batch.store.attempts import resolve
from kt_batch.store.indexes import read_index_summaries
from kt_batch.store.library import Library
from kt_batch.store.locations import Location
from kt_batch.store.opening import kind_of, open_place
from kt_batch.store.run import Run
from kt_batch.store.schemas import from_fixed_binary
from kt_batch.store.tables import read_table

MODULUS = 1 << 256
ROWS = 65536  # of a table that are digested at a time
CHUNK = 1 << 20


@dataclass(frozen=True)
class VerifySummary:
    """What `verify` found. kind is `library` or `run`; units those that are committed, pending those that are not;
    faults one sentence each; orphans the files that nothing committed names and `gc` would remove, foreign those whose
    names are not kt_batch's, neither of them faults; digest 64 hex digits over all rows and outputs, None where some
    cannot be read."""

    place: str
    kind: str
    units: int
    pending: int
    files: int
    bytes: int
    faults: tuple[str, ...]
    orphans: int
    foreign: int
    digest: str | None


def verify(place: str, progress: Progress) -> VerifySummary:
    """Read back all that a library or a run says it holds.

    Raises MissingError where there is neither, DamagedError for a plan or a receipt that is none, UnreachableError when
    the store fails.
    """
    opened = open_place(place)
    location = opened.location
    tables = [(unit, table) for unit, receipt in opened.committed.receipts.items() for table in receipt.tables]
    outputs = [(output.name, output.sha256) for output in opened.outputs.values()] if isinstance(opened, Run) else []
    blobs = [*outputs, *(_index_files(location) if isinstance(opened, Library) else [])]
    total, size, digest = len(tables) + len(blobs), 0, 0
    faults: list[str] = []
    rejects: dict[str, pa.Table] = {}
    for number, (unit, ref) in enumerate(tables, start=1):
        try:
            table = read_table(location, ref, verify=True)
            size += ref.bytes
            if ref.kind == layout.REJECTS:
                rejects[unit] = table
            else:
                digest += rows_digest(ref.kind, table)
        except UnreachableError:
            raise
        except StorageError as error:
            faults.append(str(error))
        progress(Step("verify", number, total))
    for number, (name, sha256) in enumerate(blobs, start=len(tables) + 1):
        try:
            found, length = _hash(location, name)
            size += length
            if found != sha256:
                faults.append(f"'{name}' at '{location.uri}' has the SHA-256 {found}, not {sha256}.")
        except UnreachableError:
            raise
        except StorageError as error:
            faults.append(str(error))
        progress(Step("verify", number, total))
    digest += rows_digest(layout.REJECTS, resolve(opened.committed.attempts, rejects).rows)
    for name, sha256 in outputs:
        digest += _number(f"{name} {sha256}".encode())
    beside = survey(opened)
    return VerifySummary(
        place=location.uri,
        kind=kind_of(opened),
        units=len(opened.committed.receipts),
        pending=beside.pending,
        files=total,
        bytes=size,
        faults=tuple(faults),
        orphans=len(beside.orphans),
        foreign=len(beside.foreign),
        digest=None if faults else f"{digest % MODULUS:064x}",
    )


def rows_digest(kind: str, table: pa.Table) -> int:
    """The sum of the SHA-256 of every row of a table, which neither order nor division into parts can change.

    A row is its kind and its values in the order of the columns, each with its length.
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
    """Every value of a column as bytes that stand for it alone."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_fixed_size_binary(column.type) and column.null_count == 0:
        width = column.type.byte_width
        raw = from_fixed_binary(column, "u1", (width,)).tobytes() if len(column) else b""
        return (raw[start : start + width] for start in range(0, len(raw), width))
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        values = np.ascontiguousarray(column.to_numpy())
        raw = values.tobytes()
        return (raw[start : start + values.itemsize] for start in range(0, len(raw), values.itemsize))
    return (_plain(value) for value in column.to_pylist())


def _plain(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest(), "little")


def _index_files(location: Location) -> list[tuple[str, str]]:
    """The name and SHA-256 of every file that an index of a library names."""
    found: dict[str, str] = {}
    for summary in read_index_summaries(location):
        found[layout.tree_path(summary.digest)] = summary.tree_sha256
        found[layout.members_path(summary.digest)] = summary.members_sha256
        found |= {layout.shard_path(shard.sha256): shard.sha256 for shard in summary.shards}
    return sorted(found.items())


def _hash(location: Location, name: str) -> tuple[str, int]:
    """SHA-256 and size of a file, read piece by piece."""
    digest, size = hashlib.sha256(), 0
    with location.open(name) as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size
