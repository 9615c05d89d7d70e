"""Read Parquet files that anyone may have written: bounded before a column is decoded, and checked afterwards.

A file says itself how large its content is, and a few bytes can stand for gigabytes: compressed pages, one long text
that a million rows name, runs of equal values. What a reader will take is therefore added up from the page headers, and
compared with the bytes of the file.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kt_batch.errors import DamagedError, StorageError
from kt_batch.store.parquet_footer import END, read_footer
from kt_batch.store.parquet_pages import Dictionary, Pages, longest_text, read_pages
from kt_batch.store.ranges import held_ranges
from kt_batch.store.schemas import COLUMN_TYPES, PICTURE, VECTORS

# A file may take FLOOR + FACTOR * its size bytes in memory. Honest tables of paths as long as Linux allows reach 400.
FLOOR, FACTOR = 64 << 20, 512
FEW_ROWS = 1 << 18  # of text, whose rows become Python objects; beyond, each needs a byte of the file
MOST_TEXT, MOST_BINARY = 64 << 10, 4 << 20  # bytes of one value
STREAMED = 1 << 20  # bytes of a column that are read ahead where a row group is read in slices
MOST_PICTURE = 64 << 20  # bytes of a working image of 4096 x 4096 pixels that does not compress, and more


class ParquetReader:
    """An opened Parquet file whose footer has been checked."""

    def __init__(self, source: BinaryIO, size: int, where: str, *, remote: bool = False, ours: bool = True) -> None:
        """Read the footer.

        Args:
            source: The file, seekable.
            size: Its bytes.
            where: Its name in error messages.
            remote: Each read of the source is a request, so the wanted parts are read in one piece.
            ours: Its columns are those of our tables. Otherwise they may be any without parts.

        Raises:
            DamagedError: the footer is damaged, or describes what no file of ours holds.
        """
        self._source, self._size, self._where, self._remote, self._ours = source, size, where, remote, ours
        with self._explained():
            self._footer, self._data_end = read_footer(source, size, entries=ours)
            file = pq.ParquetFile(source, metadata=self._footer, pre_buffer=False, arrow_extensions_enabled=False)
            self.schema: pa.Schema = file.schema_arrow
            self.rows = [self._footer.row_group(group).num_rows for group in range(self._footer.num_row_groups)]
        if min(self.rows, default=0) < 0 or sum(self.rows) != self._footer.num_rows:
            raise self._damaged("its row groups do not add up to its rows")

    def checked_schema(self, columns: Sequence[str] | None = None) -> pa.Schema:
        """Return the schema; raise DamagedError unless the columns, or all of them, have the types of our tables."""
        names = self.schema.names
        if not len(names) == len(set(names)) == self._footer.num_columns:
            raise self._damaged("a column stands there twice, or has parts")
        for name in (names if columns is None else columns) if self._ours else ():
            kind, expected = self.schema.field(self._column(name)).type, COLUMN_TYPES.get(name)
            if expected is None:
                raise self._damaged(f"it has a column {name[:64]!r}, which no table of ours has")
            if not (kind == expected or (name in VECTORS and _is_vector(kind)) or _is_stored(kind, expected)):
                raise self._damaged(f"its column {name!r} has the type {str(kind)[:64]}, not {expected}")
        return self.schema

    @property
    def metadata(self) -> dict[str, str]:
        """Return the key-value metadata of the file."""
        with self._explained():
            return {key.decode(): value.decode() for key, value in (self._footer.metadata or {}).items()}

    def read(
        self,
        columns: Sequence[str] | None = None,
        groups: Sequence[int] | None = None,
        *,
        nullable: Collection[str] = (),
    ) -> pa.Table:
        """Read columns, in the given order, of all or some row groups.

        Args:
            columns: their names; None for all.
            groups: the numbers of the row groups; None for all.
            nullable: the columns that may lack values.

        Raises:
            DamagedError: they are not there, would take more memory than the file can back, or hold what no table of
                ours holds: nulls, text that is not UTF-8, values of absurd length.
        """
        self.checked_schema(columns)
        names = self.schema.names if columns is None else list(columns)
        numbers = [self._column(name) for name in names]
        chosen = range(len(self.rows)) if groups is None else groups
        for group in chosen:
            if not 0 <= group < len(self.rows):
                raise self._damaged(f"it has {len(self.rows)} row groups, and so no number {group}")
        chosen = [group for group in chosen if self.rows[group]]
        with self._explained():
            source = held_ranges(self._source, self._ranges(numbers, chosen)) if self._remote else self._source
            self._check_sizes(source, numbers, chosen)
            with _native(source, remote=self._remote) as native:
                file = pq.ParquetFile(
                    native,
                    metadata=self._footer,
                    pre_buffer=False,
                    arrow_extensions_enabled=False,
                    page_checksum_verification=True,
                )
                table = file.read_row_groups(chosen, names).select(names)
            self._check_values(table, nullable)
        if table.num_rows != sum(self.rows[group] for group in chosen):
            raise self._damaged(f"it has {table.num_rows} rows where its footer says otherwise")
        return table

    def slices(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        """Yield columns, in the given order, at most `rows` rows at a time: of large row groups only parts are held.

        The source should be near: it is read in pieces of STREAMED bytes. No value may be missing. Raises as `read`.
        """
        self.checked_schema(columns)
        numbers = [self._column(name) for name in columns]
        chosen = [group for group, count in enumerate(self.rows) if count]
        found = 0
        with self._explained():
            self._check_sizes(self._source, numbers, chosen)
            with _native(self._source, remote=False) as native:
                file = pq.ParquetFile(
                    native,
                    metadata=self._footer,
                    buffer_size=STREAMED,
                    pre_buffer=False,
                    arrow_extensions_enabled=False,
                    page_checksum_verification=True,
                )
                for batch in file.iter_batches(rows, chosen, list(columns), use_threads=False):
                    table = pa.Table.from_batches([batch]).select(columns)
                    self._check_values(table, ())
                    found += table.num_rows
                    yield table
        if found != sum(self.rows):
            raise self._damaged(f"it has {found} rows where its footer says otherwise")

    def _column(self, name: str) -> int:
        if name not in self.schema.names:
            raise DamagedError(f"{self._where} has no column {name!r}; it has {', '.join(self.schema.names)}")
        return int(self.schema.get_field_index(name))

    # ---- before decoding ---------------------------------------------------------------------------------------------

    def _ranges(self, numbers: Sequence[int], groups: Sequence[int]) -> list[tuple[int, int]]:
        return sorted(self._range(group, number) for group in groups for number in numbers)

    def _range(self, group: int, number: int) -> tuple[int, int]:
        """Return where a column chunk begins, and its bytes."""
        chunk = self._footer.row_group(group).column(number)
        start, length = chunk.data_page_offset, chunk.total_compressed_size
        if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
            start = chunk.dictionary_page_offset
        if start < len(END) or length < 0 or start + length > self._data_end:
            raise self._damaged(f"its column {self.schema.names[number]!r} lies outside the file")
        return start, length

    def _check_sizes(self, source: BinaryIO, numbers: Sequence[int], groups: Sequence[int]) -> None:
        """Raise DamagedError when the columns would take more memory than the file can back."""

        def read(offset: int, length: int) -> bytes:
            source.seek(offset)
            return source.read(length)

        allowed, total = FLOOR + FACTOR * self._size, 0
        for group in groups:
            for number in numbers:
                field, rows = self.schema.field(number), self.rows[group]
                pages = read_pages(read, *self._range(group, number))
                if pages.values != rows and not pa.types.is_list(field.type):
                    raise self._damaged(f"its column {field.name!r} has {pages.values} values in {rows} rows")
                if _is_text(field.type) and pages.values > FEW_ROWS + self._size:
                    raise self._too_large(f"{pages.values} values of text", FEW_ROWS + self._size)
                total += _decoded_bytes(field.type, pages)
                if total <= allowed and pages.dictionary and _is_text(field.type):
                    total += pages.referring * self._longest(read, pages.dictionary, group, number)
                if total > allowed:
                    raise self._too_large(f"{total} bytes", allowed)

    def _longest(self, read: Callable[[int, int], bytes], page: Dictionary, group: int, number: int) -> int:
        """Return the length of the longest text of a dictionary."""
        codec = self._footer.row_group(group).column(number).compression
        data = read(page.start, page.stored)
        if codec != "UNCOMPRESSED":
            data = pa.decompress(data, page.inflated, "lz4_raw" if codec == "LZ4" else codec.lower(), asbytes=True)
        return longest_text(data, page.entries)

    # ---- after decoding ----------------------------------------------------------------------------------------------

    def _check_values(self, table: pa.Table, nullable: Collection[str]) -> None:
        for name, column in zip(table.column_names, table.columns, strict=True):
            column.validate(full=True)
            for chunk in column.chunks:
                leaf = _leaf(chunk)
                if name not in nullable and (chunk.null_count or leaf.null_count):
                    raise self._damaged(f"its column {name!r} has no value in some rows")
                if pa.types.is_dictionary(leaf.type):
                    leaf = leaf.dictionary
                    leaf.validate(full=True)
                    if leaf.null_count:
                        raise self._damaged(f"its column {name!r} has no value in some rows")
                self._check_text(name, leaf)

    def _check_text(self, name: str, values: pa.Array) -> None:
        if not (pa.types.is_string(values.type) or pa.types.is_binary(values.type)):
            return
        binary = MOST_PICTURE if name == PICTURE else MOST_BINARY
        most = MOST_TEXT if pa.types.is_string(values.type) else binary
        longest = pc.max(pc.binary_length(values)).as_py() or 0
        if longest > most:
            raise self._too_large(f"a value of {longest} bytes in the column {name!r}", most)

    # ---- errors ------------------------------------------------------------------------------------------------------

    def _damaged(self, what: str) -> DamagedError:
        table = "a table of ours" if self._ours else "a plain table"
        return DamagedError(f"{self._where} is not {table}: {what}")

    def _too_large(self, what: str, allowed: int) -> DamagedError:
        return DamagedError(f"{self._where} would take {what} from a file of {self._size} bytes; allowed are {allowed}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno is not None:  # Arrow sets none for what it cannot parse
                raise StorageError(f"cannot read {self._where}: {error.strerror}") from error
            raise self._unreadable(error) from error
        except (pa.ArrowException, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DamagedError:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        return DamagedError(f"{self._where} is not readable as Parquet: {reason[:200]}")


@contextmanager
def _native(source: BinaryIO, *, remote: bool) -> Iterator[Any]:
    """Yield the same file as Arrow itself reads it, which spares a copy; or the source, where there is no such file.

    The file is not mapped: one that is cut meanwhile would end the process.
    """
    open_file = None if remote or isinstance(source, io.BytesIO) else Path(f"/dev/fd/{source.fileno()}")
    if open_file is None or not open_file.exists():
        yield source
        return
    with pa.OSFile(str(open_file)) as native:
        yield native


def _decoded_bytes(kind: pa.DataType, pages: Pages) -> int:
    """Return the most bytes that decompressing and decoding pages takes, without the texts of a dictionary."""
    if pa.types.is_list(kind):
        return pages.bytes + 16 * pages.values
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_dictionary(kind):
        return pages.bytes + 8 * pages.values
    return max(pages.bytes, pages.values * max(int(kind.bit_width) // 8, 1))


def _is_vector(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_binary(kind) and kind.byte_width > 0 and kind.byte_width % 8 == 0)


def _is_stored(kind: pa.DataType, expected: pa.DataType) -> bool:
    """Tell whether values come without the dictionary of their type: Arrow keeps none for fixed-size bytes."""
    return bool(pa.types.is_dictionary(expected) and kind == expected.value_type)


def _is_text(kind: pa.DataType) -> bool:
    """Tell whether values have different lengths and become Python objects."""
    if pa.types.is_list(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def _leaf(array: pa.Array) -> pa.Array:
    return array.flatten() if pa.types.is_list(array.type) else array
