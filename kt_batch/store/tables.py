"""Parquet parts, written under names that hold their own hash.

Their bytes depend on the table and its row groups alone. The column `vector` is plain and uncompressed, so reading it
is a copy; pictures are compressed already; all else is compressed with zstd.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from kt_batch.errors import DamagedError, UsageError
from kt_batch.store.layout import part_path
from kt_batch.store.locations import Location
from kt_batch.store.parquet import ParquetReader
from kt_batch.store.receipts import TableRef
from kt_batch.store.schemas import NULLABLE, PICTURE, VECTOR
from kt_batch.store.scratch import scratch_file

RAW_COLUMNS = frozenset({VECTOR, PICTURE})
SLICE_ROWS = 16384  # of patches that are worked on at a time; a picture of 4096 pixels has a million
COPIED_BYTES = 64 << 20  # of one request for a part that is read whole
SMALL_BYTES = 16  # widest values that get statistics, by which readers skip row groups


def commit_table(
    location: Location,
    kind: str,
    unit: str,
    table: pa.Table,
    row_groups: Sequence[int] | None = None,
) -> TableRef:
    """Write `table` as one part of `unit` and return its entry for the receipt.

    The encoded table is streamed through a file and never in memory as a whole.

    Args:
        location: the library or the run.
        kind: the table kind.
        unit: the unit's id.
        table: the rows.
        row_groups: the rows of each row group in order, zeros included; None makes one group.

    Raises:
        UsageError: the row groups do not add up to the table.
    """
    groups = [table.num_rows] if row_groups is None else list(row_groups)
    if min(groups, default=0) < 0 or sum(groups) != table.num_rows:
        raise UsageError(f"row groups of {groups} rows do not add up to the table's {table.num_rows}, kind {kind!r}")
    return commit_row_groups(location, kind, unit, table.schema, slices(table, groups))


def commit_row_groups(
    location: Location,
    kind: str,
    unit: str,
    schema: pa.Schema,
    groups: Iterable[pa.Table],
    levels: tuple[str, ...] = (),
) -> TableRef:
    """Write tables of one schema as the row groups of one part of `unit` and return its entry for the receipt.

    Only one of them is in memory at a time, where `groups` makes them as they are asked for. levels: as in `TableRef`.
    """
    with scratch_file(location, ".parquet") as path:
        rows = _write(schema, groups, path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        name = part_path(kind, unit, sha256)
        ref = TableRef(kind=kind, name=name, rows=rows, bytes=path.stat().st_size, sha256=sha256, levels=levels)
        location.put_content(name, path)
    return ref


def read_table(
    location: Location,
    ref: TableRef,
    columns: Sequence[str] | None = None,
    *,
    groups: Sequence[int] | slice | None = None,
    verify: bool = False,
) -> pa.Table:
    """Read a part, or some of its columns in the given order, or some of its row groups.

    `groups` are their numbers, or a slice of all of them. The size is always checked, the SHA-256 only with
    `verify`, which reads the whole file.

    Raises:
        MissingError: the part is gone.
        DamagedError: the part differs from its receipt, is not readable as Parquet, or is no table of ours.
    """
    size = location.size(ref.name)
    if size != ref.bytes:
        raise DamagedError(f"{location.uri}/{ref.name} has {size} bytes, but its receipt says {ref.bytes}")
    if verify:
        _verify(location, ref)
    with open_table(location, ref.name) as file:
        if sum(file.rows) != ref.rows:
            raise DamagedError(f"{location.uri}/{ref.name} has {sum(file.rows)} rows, but its receipt says {ref.rows}")
        chosen = range(len(file.rows))[groups] if isinstance(groups, slice) else groups
        return file.read(columns, chosen, nullable=NULLABLE.get(ref.kind, ()))


def read_patches(location: Location, ref: TableRef, channels: int) -> pa.Table:
    """Read the ids and the vectors of a part of patches.

    Raises as `read_table` does, and:
        DamagedError: the vectors are not those of `channels` channels.
    """
    table = read_table(location, ref, ["patch_id", VECTOR])
    check_channels(table.schema, channels, f"{location.uri}/{ref.name}")
    return table


def patch_slices(location: Location, ref: TableRef, channels: int, rows: int = SLICE_ROWS) -> Iterator[pa.Table]:
    """Yield the ids and the vectors of a part of patches, at most `rows` at a time, whatever its row groups are.

    A part of an object store is fetched once, in large pieces, to a scratch file.

    Raises as `read_patches` does.
    """
    where = f"{location.uri}/{ref.name}"
    size = location.size(ref.name)
    if size != ref.bytes:
        raise DamagedError(f"{where} has {size} bytes, but its receipt says {ref.bytes}")
    with _open_near(location, ref.name, size) as source:
        reader = ParquetReader(source, size, where)
        if sum(reader.rows) != ref.rows:
            raise DamagedError(f"{where} has {sum(reader.rows)} rows, but its receipt says {ref.rows}")
        check_channels(reader.checked_schema(["patch_id", VECTOR]), channels, where)
        yield from reader.slices(["patch_id", VECTOR], rows)


@contextmanager
def _open_near(location: Location, name: str, size: int) -> Iterator[BinaryIO]:
    """Open a local file, or a local copy of an object."""
    if location.local_path(name) is not None:
        with location.open(name) as source:
            yield source
        return
    with scratch_file(location, ".part") as path:
        with path.open("wb") as file:
            for start in range(0, size, COPIED_BYTES):
                file.write(location.read_range(name, start, COPIED_BYTES))
        with path.open("rb") as source:
            yield source


def check_channels(schema: pa.Schema, channels: int, where: str) -> None:
    """Raise DamagedError unless the vectors of a table have `channels` channels."""
    width = schema.field(VECTOR).type.byte_width
    if width != 8 * channels:
        raise DamagedError(f"{where} holds vectors of {width // 8} channels, where {channels} belong")


def read_schema(location: Location, ref: TableRef) -> pa.Schema:
    """Read the schema of a part, and no rows.

    Raises:
        DamagedError: the part is not readable as Parquet, or is no table of ours.
    """
    with open_table(location, ref.name) as file:
        return file.checked_schema()


@contextmanager
def open_table(location: Location, name: str) -> Iterator[ParquetReader]:
    """Open a Parquet file of a library, a run or an index: the one way to do so.

    Raises:
        MissingError: it is gone.
        DamagedError: it is not readable as Parquet, or is no table of ours.
    """
    with location.open(name) as source:
        size = source.seek(0, io.SEEK_END)
        yield ParquetReader(source, size, f"{location.uri}/{name}", remote=location.local_path(name) is None)


def _verify(location: Location, ref: TableRef) -> None:
    with location.open(ref.name) as file:
        sha256 = hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()
    if sha256 != ref.sha256:
        raise DamagedError(f"{location.uri}/{ref.name} has the SHA-256 {sha256}, but its receipt says {ref.sha256}")


def slices(table: pa.Table, groups: Iterable[int]) -> Iterator[pa.Table]:
    """Yield the rows of a table in groups of these sizes, without a copy."""
    start = 0
    for rows in groups:
        yield table.slice(start, rows)
        start += rows


def _write(schema: pa.Schema, groups: Iterable[pa.Table], path: Path) -> int:
    """Write row groups and return the number of their rows."""
    written = 0
    leaves = dict(leaf for field in schema for leaf in _leaves(field.name, field.type))
    with pq.ParquetWriter(
        path,
        schema,
        compression={column: "none" if column in RAW_COLUMNS else "zstd" for column in leaves},
        use_dictionary=[column for column, type_ in leaves.items() if column not in RAW_COLUMNS and _repeats(type_)],
        write_statistics=[column for column, type_ in leaves.items() if column not in RAW_COLUMNS and _is_small(type_)],
        write_page_checksum=PICTURE in leaves,  # read one at a time, without the part's hash; WebP has none of its own
    ) as writer:
        for table in groups:
            writer.write_table(table, row_group_size=max(table.num_rows, 1))
            written += table.num_rows
    return written


def _leaves(path: str, type_: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """Yield the Parquet columns of an Arrow column, under their Parquet names."""
    if pa.types.is_list(type_):
        yield from _leaves(f"{path}.list.element", type_.value_type)
    elif pa.types.is_struct(type_):
        for child in type_:
            yield from _leaves(f"{path}.{child.name}", child.type)
    else:
        yield path, type_


def _is_small(type_: pa.DataType) -> bool:
    if pa.types.is_fixed_size_binary(type_):
        return bool(type_.byte_width <= SMALL_BYTES)
    return not (pa.types.is_binary(type_) or pa.types.is_large_binary(type_))


def _repeats(type_: pa.DataType) -> bool:
    """Tell whether values of a type repeat within a part.

    Text, image ids and coordinates do; patch ids, vectors and previews do not.
    """
    return _is_small(type_) and not (pa.types.is_fixed_size_binary(type_) and type_.byte_width > 8)
