"""Parquet files that others wrote are read within bounds that follow from their own bytes."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kt_batch.errors import DamagedError
from kt_batch.store.parquet import FLOOR, ParquetReader
from kt_batch.store.parquet_pages import PageError, longest_text, read_pages
from kt_batch.store.ranges import held_ranges

TABLE = pa.table({"uri": ["a", "bb", "a"], "row": pa.array([1, 2, 3], pa.uint16())})


def encoded(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **{"compression": "zstd", **options})
    return sink.getvalue()


def opened(data: bytes, *, remote: bool = False) -> ParquetReader:
    return ParquetReader(io.BytesIO(data), len(data), "x.parquet", remote=remote)


@pytest.mark.parametrize("remote", [False, True])
def test_a_table_is_read_as_it_was_written(remote: bool) -> None:
    data = encoded(TABLE, row_group_size=2)
    assert opened(data, remote=remote).read().equals(TABLE)
    assert opened(data, remote=remote).read(["row", "uri"]).equals(TABLE.select(["row", "uri"]))
    assert opened(data, remote=remote).read(["uri"], [1]).equals(TABLE.select(["uri"]).slice(2))


def test_a_row_group_that_is_not_there_is_damage() -> None:
    for group in (-1, 1, 2**31):
        with pytest.raises(DamagedError, match=f"it has 1 row groups, and so no number {group}"):
            opened(encoded(TABLE)).read(groups=[group])


# ---- what a file may take --------------------------------------------------------------------------------------------


def test_a_dictionary_counts_as_often_as_rows_name_it() -> None:
    # 4000 rows name one text of 60,000 bytes: 240 MB from a file of a few hundred bytes.
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), pa.array(["x" * 60_000]))
    data = encoded(pa.table({"uri": text}), store_schema=False)
    assert len(data) < 1000
    with pytest.raises(DamagedError, match=r"would take 24\d{7} bytes from a file of \d{3} bytes"):
        opened(data).read()


def test_a_dictionary_within_the_bounds_is_read_as_text() -> None:
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(["x" * 60_000]))
    table = opened(encoded(pa.table({"uri": text}), store_schema=False)).read()
    assert table.schema.field("uri").type == pa.string()
    assert table["uri"][999].as_py() == "x" * 60_000


def test_lists_of_text_count_in_the_same_way() -> None:
    lists = pa.ListArray.from_arrays([0, 4000], pa.array(["x" * 60_000] * 4000))
    with pytest.raises(DamagedError, match="would take"):
        opened(encoded(pa.table({"uris": lists}))).read()


def test_compressed_pages_count_by_what_they_inflate_to() -> None:
    texts = pa.array(["x" * 60_000] * (FLOOR // 60_000 + 600))
    with pytest.raises(DamagedError, match="would take"):
        opened(encoded(pa.table({"uri": texts}), use_dictionary=False)).read()


def test_runs_of_equal_numbers_count_by_their_rows() -> None:
    rows = pa.array([7], pa.int32()).take(pa.array([0] * 40_000_000))
    data = encoded(pa.table({"x0": rows}))
    assert len(data) < 200_000
    with pytest.raises(DamagedError, match=r"would take 1\d{8} bytes"):
        opened(data).read()


def test_one_value_has_a_limit() -> None:
    with pytest.raises(DamagedError, match="a value of 70000 bytes in the column 'uri'"):
        opened(encoded(pa.table({"uri": ["x" * 70_000]}))).read()


# ---- what a file may hold --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"uri": [1]}), "its column 'uri' has the type int64, not string"),
        (pa.table({"uri": pa.array(["a"], pa.large_string())}), "has the type large_string, not string"),
        (pa.table({"uri": pa.array([b"a"])}), "has the type binary, not string"),
        (pa.table({"uri": pa.array([["a"]])}), "has the type list<element: string>, not string"),
        (pa.table({"vector": pa.array([b"abc"], pa.binary(3))}), "its column 'vector' has the type"),
        (pa.table({"colour": [1]}), "it has a column 'colour', which no table of ours has"),
        (pa.table({"uri": pa.array([{"a": 1}])}), "has the type struct"),
        (pa.table([pa.array(["a"]), pa.array(["b"])], ["uri", "uri"]), "stands there twice"),
        (pa.table({"uri": pa.array(["a", None])}), "its column 'uri' has no value in some rows"),
        (pa.table({"uris": pa.array([["a"], None])}), "its column 'uris' has no value in some rows"),
        (pa.table({"uris": pa.array([["a", None]])}), "its column 'uris' has no value in some rows"),
        (pa.table({"row": pa.array([None], pa.uint16())}), "its column 'row' has no value in some rows"),
        (pa.table({"library": pa.array(["a", None]).dictionary_encode()}), "has no value in some rows"),
    ],
)
def test_what_no_table_holds_is_damage_in_one_sentence(table: pa.Table, message: str) -> None:
    with pytest.raises(DamagedError, match=message) as error:
        opened(encoded(table)).read()
    assert str(error.value).startswith("x.parquet ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"data_page_version": "2.0"}, {"column_encoding": {"uri": "DELTA_BYTE_ARRAY"}}])
def test_pages_that_are_never_written_here_are_damage(options: dict[str, Any]) -> None:
    with pytest.raises(DamagedError, match="which is never written here"):
        opened(encoded(TABLE.select(["uri"]), use_dictionary=False, **options)).read()


@pytest.mark.parametrize("codec", ["snappy", "gzip", "brotli", "lz4", "none"])
def test_any_compression_is_read(codec: str) -> None:
    assert opened(encoded(TABLE, compression=codec)).read().equals(TABLE)


@pytest.mark.parametrize("size", [0, 3, 8, 11])
def test_a_file_that_is_too_short_is_damage(size: int) -> None:
    with pytest.raises(DamagedError, match="is not readable as Parquet"):
        opened((b"PAR1" * 3)[:size])


# ---- page headers ----------------------------------------------------------------------------------------------------


def walk(data: bytes) -> Any:
    return read_pages(lambda start, length: data[start : start + length], 0, len(data))


# A data page in the compact protocol: kind 0, 4 bytes inflated and 4 stored; 1 value in encoding 0, levels in 3 and 3.
HEADER = bytes([0x15, 0, 0x15, 8, 0x15, 8, 0x2C, 0x15, 2, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0])


def test_the_values_and_the_bytes_of_pages_are_added_up() -> None:
    pages = walk((HEADER + b"abcd") * 3)
    assert (pages.values, pages.bytes, pages.referring, pages.dictionary) == (3, 12, 0, None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HEADER, "goes beyond its column"),
        (HEADER[:5], "is cut off"),
        (b"\xff" * 40, "a page header"),
        (bytes([0x1C] * 40), "nested too deeply"),
        (bytes([0x15, 0, 0x15, 7, 0x15, 8]) + HEADER[6:] + b"abcd", "lacks a valid field 2"),
        (bytes([0x15, 2]) + HEADER[2:] + b"abcd", "a page is of kind 1"),
        (HEADER[:9] + bytes([0x15, 14]) + HEADER[11:] + b"abcd", "has the encoding 7"),
        (bytes([0x15, 0, 0x05, 2, 2, 0]), "twice"),
    ],
)
def test_a_damaged_page_header_is_found(data: bytes, message: str) -> None:
    with pytest.raises(PageError, match=message):
        walk(data)


def test_the_longest_text_of_a_dictionary_is_found() -> None:
    page = b"\x01\0\0\0a\x03\0\0\0bbb\x02\0\0\0cc"
    assert longest_text(page, 3) == 3
    with pytest.raises(PageError, match="cut off"):
        longest_text(page, 4)


# ---- ranges ----------------------------------------------------------------------------------------------------------


def test_parts_are_fetched_once_and_all_else_comes_from_the_file() -> None:
    data = bytes(range(256)) * 1000
    reader = held_ranges(io.BytesIO(data), [(10, 20), (40, 10), (200_000, 5)])
    for start, length in ((10, 20), (45, 3), (200_000, 5), (0, 256), (100_000, 10), (199_990, 20)):
        reader.seek(start)
        assert reader.read(length) == data[start : start + length]
    assert reader.seek(0, io.SEEK_END) == len(data)
