"""Part files: deterministic, named by their hash, checked when read."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kt_batch.errors import DamagedError, MissingError, UsageError
from kt_batch.store import tables
from kt_batch.store.locations import LocalLocation, Location
from kt_batch.store.parquet import ParquetReader
from kt_batch.store.receipts import TableRef
from kt_batch.store.tables import commit_table, patch_slices, read_patches, read_table
from tests.support.s3_server import S3Server, moto_server  # noqa: F401  # the fixture

UNIT = "0123456789abcdef"


@pytest.fixture
def location(tmp_path: Path) -> LocalLocation:
    return LocalLocation(tmp_path / "lib")


def a_table(rows: int = 6) -> pa.Table:
    """Return rows with every column type of libraries and runs."""
    vectors = np.arange(rows * 8, dtype="<f2").reshape(rows, 8)
    return pa.table(
        {
            "patch_id": pa.array([row.to_bytes(12) for row in range(rows)], pa.binary(12)),
            "image_id": pa.array([(row // 3).to_bytes(8) for row in range(rows)], pa.binary(8)),
            "row": pa.array(range(rows), pa.uint16()),
            "ncc": pa.array(np.linspace(0, 1, rows, dtype=np.float16)),
            "uris": pa.array([[f"file:///{row}"] for row in range(rows)], pa.list_(pa.string())),
            "library": pa.array(["monet"] * rows, pa.string()).dictionary_encode(),
            "preview": pa.array([b"jpeg"] * rows, pa.binary()),
            "vector": pa.array([vector.tobytes() for vector in vectors], pa.binary(16)),
        }
    )


def test_a_table_round_trips(location: LocalLocation) -> None:
    table = a_table()
    ref = commit_table(location, "patches", UNIT, table, None)
    back = read_table(location, ref, verify=True)
    assert back.equals(table)
    assert back.schema.equals(table.schema)


def test_a_table_round_trips_through_a_bucket(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    place = moto_server.new_location(monkeypatch)
    ref = commit_table(place, "patches", UNIT, a_table(), [3, 3])
    assert place.list() == [ref.name]
    assert read_table(place, ref, verify=True).equals(a_table())
    assert read_table(place, ref, ["row"]).equals(a_table().select(["row"]))


def test_the_name_contains_the_unit_and_the_hash_of_the_file(location: LocalLocation) -> None:
    ref = commit_table(location, "patches", UNIT, a_table(), None)
    data = location.read_bytes(ref.name)
    assert ref.sha256 == hashlib.sha256(data).hexdigest()
    assert ref.name == f"patches/part-{UNIT}-{ref.sha256[:16]}.parquet"
    assert (ref.kind, ref.rows, ref.bytes) == ("patches", 6, len(data))


def test_equal_tables_have_equal_bytes_and_leave_one_file_and_no_scratch_file(location: LocalLocation) -> None:
    table = a_table()
    chunked = pa.concat_tables([table.slice(0, 2), table.slice(2)])
    assert commit_table(location, "patches", UNIT, table, [3, 3]) == commit_table(
        location, "patches", UNIT, chunked, [3, 3]
    )
    assert len([path for path in location.root.rglob("*") if path.is_file()]) == 1


def test_row_groups_are_kept_as_given_including_empty_ones(location: LocalLocation) -> None:
    ref = commit_table(location, "provenance", UNIT, a_table(), [2, 0, 4])
    metadata = pq.ParquetFile(location.root / ref.name).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [2, 0, 4]


@pytest.mark.parametrize("groups", [[5], [6, 1], [7, -1], []])
def test_row_groups_that_do_not_sum_to_the_rows_are_refused(location: LocalLocation, groups: list[int]) -> None:
    with pytest.raises(UsageError, match="do not add up to the table's 6"):
        commit_table(location, "patches", UNIT, a_table(), groups)
    assert location.list() == []


def test_a_table_without_rows_can_be_stored(location: LocalLocation) -> None:
    for groups in (None, [], [0]):
        ref = commit_table(location, "rejects", UNIT, a_table(0), groups)
        back = read_table(location, ref)
        assert back.num_rows == 0
        assert back.schema.equals(a_table(0).schema)


def test_vectors_are_stored_raw_and_everything_else_is_compressed(location: LocalLocation) -> None:
    ref = commit_table(location, "patches", UNIT, a_table(), None)
    group = pq.ParquetFile(location.root / ref.name).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    vector = columns.pop("vector")
    assert vector.compression == "UNCOMPRESSED"
    assert not vector.has_dictionary_page
    assert vector.statistics is None
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    with_statistics = {path for path, column in columns.items() if column.statistics is not None}
    assert with_statistics == set(columns) - {"preview"}
    with_dictionary = {path for path, column in columns.items() if column.has_dictionary_page}
    assert with_dictionary == set(columns) - {"preview", "patch_id"}


def test_vector_bytes_appear_unchanged_in_the_file(location: LocalLocation) -> None:
    table = a_table()
    ref = commit_table(location, "patches", UNIT, table, None)
    assert b"".join(table["vector"].to_pylist()) in location.read_bytes(ref.name)


def test_columns_are_read_in_the_requested_order(location: LocalLocation) -> None:
    ref = commit_table(location, "patches", UNIT, a_table(), None)
    assert read_table(location, ref, ["row", "patch_id"]).equals(a_table().select(["row", "patch_id"]))
    assert read_table(location, ref, ["uris"]).equals(a_table().select(["uris"]))


def test_the_error_for_a_missing_column_names_it(location: LocalLocation) -> None:
    ref = commit_table(location, "patches", UNIT, a_table(), None)
    with pytest.raises(DamagedError, match="has no column 'colour'; it has patch_id, image_id, row"):
        read_table(location, ref, ["row", "colour"])


def test_a_deleted_part_is_reported_missing(location: LocalLocation) -> None:
    ref = commit_table(location, "patches", UNIT, a_table(), None)
    location.delete(ref.name)
    with pytest.raises(MissingError):
        read_table(location, ref)


def test_a_part_of_another_size_is_damaged(location: LocalLocation) -> None:
    ref = commit_table(location, "patches", UNIT, a_table(), None)
    path = location.root / ref.name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DamagedError, match=f"has {ref.bytes - 10} bytes, but its receipt says {ref.bytes}"):
        read_table(location, ref)


def test_verification_finds_one_changed_bit(location: LocalLocation) -> None:
    table = a_table()
    ref = commit_table(location, "patches", UNIT, table, None)
    path = location.root / ref.name
    data = bytearray(path.read_bytes())
    data[data.index(table["vector"][3].as_py())] ^= 1
    path.write_bytes(data)
    assert not read_table(location, ref).equals(table)
    with pytest.raises(DamagedError, match="has the SHA-256"):
        read_table(location, ref, verify=True)


def test_a_part_that_is_not_parquet_is_damaged(location: LocalLocation) -> None:
    ref = commit_table(location, "patches", UNIT, a_table(), None)
    (location.root / ref.name).write_bytes(b"\0" * ref.bytes)
    with pytest.raises(DamagedError, match="is not readable as Parquet"):
        read_table(location, ref)


def test_a_part_with_other_rows_than_its_receipt_is_damaged(location: LocalLocation) -> None:
    ref = commit_table(location, "patches", UNIT, a_table(), None)
    with pytest.raises(DamagedError, match="has 6 rows, but its receipt says 5"):
        read_table(location, ref.model_copy(update={"rows": 5}))


def test_a_fault_without_a_message_is_one_sentence() -> None:
    class Silent(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise ValueError

    with pytest.raises(DamagedError, match=r"x\.parquet is not readable as Parquet: ValueError"):
        ParquetReader(Silent(bytes(100)), 100, "x.parquet")


def sliced(place: Location, ref: TableRef, rows: int) -> list[pa.Table]:
    return list(patch_slices(place, ref, 2, rows))


@pytest.mark.parametrize("groups", [[7], [3, 0, 4], [1] * 7])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_slices_of_patches_are_the_whole_part_for_any_row_groups(
    location: LocalLocation, groups: list[int], rows: int
) -> None:
    ref = commit_table(location, "patches", UNIT, a_table(7), groups)
    found = sliced(location, ref, rows)
    assert pa.concat_tables(found).combine_chunks().equals(read_patches(location, ref, 2).combine_chunks())
    assert max(table.num_rows for table in found) <= rows


def test_slices_come_from_a_bucket_in_few_requests(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    place = moto_server.new_location(monkeypatch)
    ref = commit_table(place, "patches", UNIT, a_table(7), [3, 4])
    requests: list[tuple[int, int]] = []
    read_range = type(place).read_range

    def counted(self: Location, name: str, start: int, length: int) -> bytes:
        requests.append((start, length))
        return read_range(self, name, start, length)

    monkeypatch.setattr(type(place), "read_range", counted)
    monkeypatch.setattr(type(place), "open", None)
    monkeypatch.setattr(tables, "COPIED_BYTES", 1000)
    assert pa.concat_tables(sliced(place, ref, 2)).num_rows == 7
    assert [start for start, _ in requests] == list(range(0, ref.bytes, 1000))
    assert not list(place.scratch_directory().glob(".tmp-*.part"))


def test_slices_of_a_part_that_differs_from_its_receipt_are_refused(location: LocalLocation) -> None:
    ref = commit_table(location, "patches", UNIT, a_table(7))
    with pytest.raises(DamagedError, match="has 7 rows, but its receipt says 8"):
        sliced(location, ref.model_copy(update={"rows": 8}), 3)
    with pytest.raises(DamagedError, match=r"has \d+ bytes, but its receipt says 5"):
        sliced(location, ref.model_copy(update={"bytes": 5}), 3)
    with pytest.raises(DamagedError, match="holds vectors of 2 channels, where 3 belong"):
        list(patch_slices(location, ref, 3))
