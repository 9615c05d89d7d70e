"""The columns identify the kind of provenance; both kinds are stored alike."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from kt_batch.errors import DamagedError
from kt_batch.store import layout
from kt_batch.store.locations import LocalLocation
from kt_batch.store.schemas import PROVENANCE, SHARES, provenance_kind
from kt_batch.store.tables import commit_table, read_schema, read_table


def shares(**columns: list[object]) -> pa.Table:
    return pa.table(columns).cast(SHARES)


def test_the_columns_determine_the_kind_of_provenance() -> None:
    assert provenance_kind(PROVENANCE) == provenance_kind(PROVENANCE.empty_table()) == "patches"
    assert provenance_kind(SHARES) == provenance_kind(SHARES.empty_table()) == "sources"
    with pytest.raises(DamagedError, match="it needs 'row' or 'share'"):
        provenance_kind(pa.schema([("output", pa.string())]))


def test_a_part_of_shares_round_trips(tmp_path: Path) -> None:
    table = shares(
        output=["images/a.jpg.png", "images/a.jpg.png", "images/b.jpg.png"],
        source_image_id=[b"aaaaaaaa", b"bbbbbbbb", b"aaaaaaaa"],
        source_uri=["/s/a.jpg", "/s/b.jpg", "/s/a.jpg"],
        share=[0.75, 0.25, 1.0],
    )
    location = LocalLocation(tmp_path)
    part = commit_table(location, layout.PROVENANCE, "0123456789abcdef", table, [2, 1])
    assert provenance_kind(read_schema(location, part)) == "sources"
    found = read_table(location, part, verify=True)
    assert found.schema.names == SHARES.names
    assert found.to_pylist() == table.to_pylist()


def test_reading_the_schema_of_a_damaged_part_is_an_error(tmp_path: Path) -> None:
    location = LocalLocation(tmp_path)
    part = commit_table(location, layout.PROVENANCE, "0123456789abcdef", SHARES.empty_table())
    (tmp_path / part.name).write_bytes(b"nothing")
    with pytest.raises(DamagedError, match="is not readable as Parquet"):
        read_schema(location, part)
