"""Read Parquet that may come from a stranger, within bounds.

What a file may hold is bounded by the bytes that it has. A footer of a few kilobytes can declare billions of rows, and
a dictionary can repeat one long text a million times. Declared sizes are checked in the footer, before anything is
decoded; text is decoded as a dictionary first, so that its repetitions can be counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kt_batch.errors import DamagedError

FREE_ROWS = 2**20  # a file of any size may have so many
ROWS_PER_BYTE = 16  # of the most repetitive table: the provenance of a picture of one colour
FREE_BYTES = 64 << 20  # a column of any file may take so many, decoded
PER_BYTE = 256  # decoded bytes for each byte of the file; text of our tables has fewer than 50
WIDE = 16  # bytes of a value from which on it must be in the file and no repetition

# Raised by Arrow for malformed bytes. OSError comes from its decoders, too.
FAULTS = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, UnicodeDecodeError)


@contextmanager
def reading_parquet(name: str) -> Iterator[None]:
    """Turn what Arrow raises for malformed bytes into one sentence."""
    try:
        yield
    except FAULTS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedError(f"{name} is not readable as Parquet: {reason}") from error


@dataclass(frozen=True)
class BoundedParquet:
    """An open file whose footer was checked. schema: The types that it states."""

    file: pq.ParquetFile
    schema: pa.Schema
    size: int
    name: str

    @property
    def groups(self) -> int:
        """Return the number of row groups."""
        return int(self.file.num_row_groups)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read all rows, with valid text.

        Raises:
            DamagedError: The file cannot be decoded, or its text takes more than its bytes can hold.
        """
        with reading_parquet(self.name):
            return _plain(self.file.read(columns), self.schema, self.size, self.name)

    def read_group(self, group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read one row group, as `read` does. Raises DamagedError, also for a row group that is not there."""
        if not 0 <= group < self.groups:
            raise DamagedError(f"{self.name} has {self.groups} row groups, and none with the number {group}")
        with reading_parquet(self.name):
            return _plain(self.file.read_row_group(group, columns), self.schema, self.size, self.name)


def open_parquet(source: BinaryIO | pa.NativeFile, size: int, name: str, *, pre_buffer: bool = False) -> BoundedParquet:
    """Open a file and check what its footer declares.

    Args:
        source: The open file.
        size: Its bytes.
        name: What errors call it.
        pre_buffer: Fetch all columns of a read in few requests.

    Raises:
        DamagedError: It is not Parquet, or declares more than `size` bytes can hold.
    """
    with reading_parquet(name):
        plain = pq.ParquetFile(source)
        _check_footer(plain.metadata, size, name)
        stored = plain.schema_arrow
        text = [field.name for field in stored if _is_variable(field.type)]
        file = pq.ParquetFile(source, read_dictionary=text, pre_buffer=pre_buffer, metadata=plain.metadata)
        return BoundedParquet(file, stored, size, name)


def check_types(table: pa.Table, expected: pa.Schema, name: str) -> None:
    """Raise DamagedError where a column has another type than in the expected schema, or holds nulls."""
    for field in expected:
        if field.name not in table.schema.names:
            continue
        found = table[field.name]
        if _value_type(found.type) != _value_type(field.type):
            raise DamagedError(f"{name} has the column '{field.name}' of type {found.type}; allowed is {field.type}")
        if found.null_count:
            raise DamagedError(f"{name} has {found.null_count} empty values in the column '{field.name}'")


def _check_footer(footer: pq.FileMetaData, size: int, name: str) -> None:
    most = FREE_ROWS + ROWS_PER_BYTE * size
    if not 0 <= footer.num_rows <= most:
        raise DamagedError(f"{name} declares {footer.num_rows} rows in {size} bytes; allowed are {most}")
    declared = 0
    for group in range(footer.num_row_groups):
        rows = footer.row_group(group)
        declared += rows.num_rows
        for number in range(rows.num_columns):
            column = rows.column(number)
            width = column.physical_type == "FIXED_LEN_BYTE_ARRAY" and footer.schema.column(number).length
            packed, whole = column.total_compressed_size, column.total_uncompressed_size
            wide = width * column.num_values if width and width > WIDE else 0
            fits = 0 <= packed <= size and 0 <= whole <= FREE_BYTES + PER_BYTE * size
            if not fits or not 0 <= column.num_values <= most or wide > FREE_BYTES + 2 * whole:
                raise DamagedError(
                    f"{name} declares {column.num_values} values of {max(whole, wide)} bytes in the column "
                    f"'{column.path_in_schema}', more than its {size} bytes can hold"
                )
    if declared != footer.num_rows:
        raise DamagedError(f"{name} declares {footer.num_rows} rows, and its row groups {declared}")


def _is_variable(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_binary(type_) or pa.types.is_large_string(type_))


def _plain(table: pa.Table, stored: pa.Schema, size: int, name: str) -> pa.Table:
    """Return the table with the types that the file states, after a look at how much text that is."""
    most = FREE_BYTES + PER_BYTE * size
    columns = []
    for column, field in zip(table.columns, (stored.field(name) for name in table.column_names), strict=True):
        if pa.types.is_dictionary(column.type) and _is_variable(column.type.value_type):
            taken = sum(_decoded_bytes(chunk) for chunk in column.chunks)
            if taken > most:
                raise DamagedError(f"{name} holds {taken} bytes in the column '{field.name}'; allowed are {most}")
        columns.append(column if column.type == field.type else column.cast(field.type))
    whole = pa.table(columns, names=table.column_names)
    if any(_is_variable(_value_type(field.type)) or pa.types.is_list(field.type) for field in whole.schema):
        whole.validate(full=True)
    return whole


def _decoded_bytes(chunk: pa.DictionaryArray) -> int:
    """Return the bytes of all values of a chunk, repetitions included."""
    lengths = pc.fill_null(pc.binary_length(chunk.dictionary), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    indices = chunk.indices.drop_null().to_numpy(zero_copy_only=False)
    if len(indices) and (indices.min() < 0 or indices.max() >= len(lengths)):
        raise ValueError("a dictionary has fewer values than are used")
    return int(lengths @ np.bincount(indices, minlength=len(lengths)).astype(np.int64)) if len(lengths) else 0


def _value_type(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_
