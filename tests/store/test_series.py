"""Series files are what a run trusts, so they are checked; folders are what URIs begin with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from kt_batch.errors import DamagedError, MissingError, Reason, RejectError
from kt_batch.kernels.quadratic import IDENTITY
from kt_batch.store.locations import open_location
from kt_batch.store.series import FrozenSeries, Key, SeriesRow, folder_of, put_series, read_series, series_numbers

ONE, TWO, THREE = (f"{number:016x}" for number in (1, 2, 3))
SERIES = SeriesRow(
    "ab" * 8, "day", (ONE, TWO), ("2026-06-01T10:00:00.5+02:00", "2026-06-01T10:00:01"), np.arange(33.0), IDENTITY,
    0.5, 1.0, {THREE: 1.25, ONE: -0.25},
)  # fmt: skip
ALONE = SeriesRow("", "day", (THREE,), ("",))
REJECTED = SeriesRow("", "day", (THREE,), ("",), reject=RejectError(Reason.TRUNCATED, "It ends."))


def put(place: Path, number: int, *rows: SeriesRow) -> None:
    put_series(open_location(str(place)), number, rows, "00" * 8)


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("/photos/day/a.jpg", "/photos/day"),
        ("s3://bucket/day/a.jpg", "s3://bucket/day"),
        ("file:///photos/%FF/a.jpg", "file:///photos/%FF"),
        ("tar+file:///x/000.tar#at=512&bytes=9&member=park/day/a.jpg", "tar+/x/000.tar#park/day"),
        ("zip+s3://bucket/p.zip#at=58&bytes=9&member=a.png", "zip+s3://bucket/p.zip#"),
        ("tar+file:///x/000.tar#at=512&fault=truncated", "tar+/x/000.tar#"),
    ],
)
def test_the_folder_of_an_input_is_what_its_uri_begins_with(uri: str, folder: str) -> None:
    assert folder_of(uri) == folder


def test_what_is_put_is_read_and_a_second_file_of_the_number_counts_for_nothing(tmp_path: Path) -> None:
    put(tmp_path, 0, SERIES, ALONE)
    put(tmp_path, 0, replace(SERIES, guard=0.0))
    run = open_location(str(tmp_path))
    first, second = read_series(run, 0)
    assert series_numbers(run) == [0]
    assert (first.series, first.members, first.times, first.shares) == (
        SERIES.series, SERIES.members, SERIES.times, SERIES.shares,
    )  # fmt: skip
    assert (first.confidence, first.guard, first.reject) == (0.5, 1.0, None)
    assert first.coefficients is not None
    assert np.array_equal(first.coefficients, IDENTITY)
    assert (second.series, second.members, second.coefficients) == ("", (THREE,), None)
    with pytest.raises(MissingError):
        read_series(run, 1)


def test_a_photograph_is_found_by_its_id_and_folder(tmp_path: Path) -> None:
    put(tmp_path, 0, SERIES, REJECTED)
    frozen = FrozenSeries(open_location(str(tmp_path)))
    assert frozen.find([Key(TWO, "day")])[Key(TWO, "day")].series == SERIES.series
    with pytest.raises(DamagedError, match=f"does not hold the image {TWO}"):
        frozen.find([Key(TWO, "night")])


def test_the_first_file_that_can_use_a_photograph_counts(tmp_path: Path) -> None:
    put(tmp_path, 0, REJECTED)
    put(tmp_path, 1, replace(SERIES, members=(THREE,), times=("",)))
    put(tmp_path, 2, REJECTED)
    (row,) = FrozenSeries(open_location(str(tmp_path))).find([Key(THREE, "day")]).values()
    assert row.series == SERIES.series


@pytest.mark.parametrize(
    "row",
    [
        replace(SERIES, coefficients=np.full((10, 3), np.nan)),
        replace(SERIES, coefficients=np.full((10, 3), 1e6)),
        replace(SERIES, coefficients=np.zeros((9, 3))),
        replace(SERIES, confidence=1.5),
        replace(SERIES, guard=float("nan")),
        replace(SERIES, shares={ONE: float("inf")}),
        replace(SERIES, times=("2026-06-01T10:00:00",)),
        replace(SERIES, times=("yesterday", "")),
        replace(SERIES, times=("2026-13-45T99:99:99", "")),
        replace(SERIES, descriptors=None),
        replace(SERIES, descriptors=np.full(33, np.inf)),
        replace(SERIES, reject=REJECTED.reject),
        replace(ALONE, coefficients=IDENTITY),
    ],
)
def test_what_no_photographs_have_is_damage(tmp_path: Path, row: SeriesRow) -> None:
    put(tmp_path, 0, row)
    with pytest.raises(DamagedError, match=r"series/000000\.parquet"):
        read_series(open_location(str(tmp_path)), 0)


def test_a_table_of_another_format_is_damage(tmp_path: Path) -> None:
    put(tmp_path, 0, SERIES)
    path = tmp_path / "series/000000.parquet"
    table = pq.read_table(path).replace_schema_metadata({"format": "kt-batch-series/9"})
    path.unlink()
    pq.write_table(table, path, store_schema=False)
    with pytest.raises(DamagedError, match="kt-batch-series/1"):
        read_series(open_location(str(tmp_path)), 0)
