"""The series of a run on disk: what is known of its photographs, and which of them share an edit.

`series/<nnnnnn>.parquet` is put if absent once for each plan file. It never changes, so neither does an edit in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kt_batch.errors import DamagedError, Reason, RejectError
from kt_batch.kernels.quadratic import SIZE
from kt_batch.store import layout
from kt_batch.store.documents import MOST_BYTES
from kt_batch.store.locations import Location, open_location, read_bounded
from kt_batch.store.members import is_member, parse_member
from kt_batch.store.parquet import ParquetReader
from kt_batch.store.receipts import Receipt, TableRef, parse_receipt
from kt_batch.store.schemas import SERIES
from kt_batch.store.scratch import scratch_file
from kt_batch.store.tables import open_table, read_table
from kt_batch.store.units import READERS

SERIES_FORMAT: Final = "kt-batch-series/1"
ROWS = 256  # of a row group: a worker reads the groups that its unit needs
LARGEST = 1e6  # coefficient, and share
_TEXTS = ("reason", "message")
_NULLABLE = ("series", "descriptors", *_TEXTS)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?([+-][01]\d:[0-5]\d)?|")

T = TypeVar("T")


class Key(NamedTuple):
    """A photograph in a folder: copies in two folders may belong to two series."""

    image_id: str
    folder: str


@dataclass(frozen=True)
class SeriesRow:
    """One row of a series file.

    series: Name of the series, 16 hex digits; empty for photographs with edits of their own. members: Image ids.
    times: When they were taken; empty if unknown. descriptors: Of the first photograph of the series, `(33,)`.
    coefficients: `(10, 3)`. shares: Pair id -> share. reject: Why a photograph cannot be used.
    """

    series: str
    folder: str
    members: tuple[str, ...]
    times: tuple[str, ...]
    descriptors: NDArray[np.float64] | None = None
    coefficients: NDArray[np.float64] | None = None
    confidence: float = 0.0
    guard: float = 0.0
    shares: Mapping[str, float] | None = None
    reject: RejectError | None = None


@dataclass(frozen=True)
class Described:
    """The facts of one image. taken: In ISO 8601; empty if unknown. reject: Why it cannot be used."""

    descriptors: NDArray[np.float64] | None
    taken: str
    reject: RejectError | None


def folder_of(uri: str) -> str:
    """Return the folder of an input: what a path, a URI or the path of a member of an archive begins with."""
    if is_member(uri):
        member = parse_member(uri)
        return f"{member.form}+{member.archive}#{member.path.rpartition('/')[0]}"
    return uri.rpartition("/")[0]


# ---- photographs that are described ----------------------------------------------------------------------------------


def described_location(run: Location) -> Location:
    """Return where photographs of a run are described."""
    return open_location(f"{run.uri}/{layout.series_build_folder()}")


def read_described_receipts(run: Location) -> dict[str, Receipt]:
    """Return the receipts of the units whose photographs are described, by unit id."""
    place = described_location(run)
    names = [name for name in place.list(layout.RECEIPTS) if layout.parse_receipt_path(name)]

    def read(name: str) -> Receipt:
        return parse_receipt(read_bounded(place, name, MOST_BYTES), f"{place.uri}/{name}")

    with ThreadPoolExecutor(READERS) as pool:
        return {receipt.unit: receipt for receipt in pool.map(read, names)}


def read_described(run: Location, receipts: Sequence[Receipt]) -> dict[str, Described]:
    """Return what is known of the images of some units, by image id. Raises DamagedError."""
    place = described_location(run)

    def read(ref: TableRef) -> list[tuple[str, Described]]:
        rows = read_table(place, ref, ["image_id", "descriptors", "taken", *_TEXTS]).to_pylist()
        return [(row["image_id"].hex(), _described(row, f"{place.uri}/{ref.name}")) for row in rows]

    return dict(_of_tables(receipts, read))


def read_colours(run: Location, receipts: Sequence[Receipt], step: int = 1) -> dict[str, NDArray[np.uint8]]:
    """Return samples of colours `(n, 3)` of the images of some units, by image id: every `step`-th colour of each.

    Raises:
        DamagedError: A table is damaged.
    """
    place = described_location(run)

    def read(ref: TableRef) -> list[tuple[str, NDArray[np.uint8]]]:
        rows = read_table(place, ref, ["image_id", "colours"]).to_pylist()
        if any(len(row["colours"] or b"") % 3 for row in rows):
            raise DamagedError(f"{place.uri}/{ref.name} holds colours that are not three bytes each")
        return [
            (row["image_id"].hex(), np.frombuffer(row["colours"] or b"", np.uint8).reshape(-1, 3)[::step].copy())
            for row in rows
        ]

    return dict(_of_tables(receipts, read))


def _of_tables(receipts: Sequence[Receipt], read: Callable[[TableRef], list[T]]) -> Iterator[T]:
    """Yield what is read of the tables of units, in their order; tables may be far away."""
    tables = [table for receipt in receipts for table in receipt.tables]
    with ThreadPoolExecutor(READERS) as pool:
        for rows in pool.map(read, tables):
            yield from rows


def _described(row: Mapping[str, Any], where: str) -> Described:
    reject, taken = _reject(row, where), row["taken"] or ""
    descriptors = _descriptors(row, where)
    if (descriptors is None) != (reject is not None) or not _is_time(taken):
        raise DamagedError(f"{where} holds an image that is neither described nor rejected, or was taken at no time")
    return Described(descriptors, taken, reject)


def _is_time(text: str) -> bool:
    """Tell whether a text is a time in ISO 8601, or empty."""
    if not _TIME.fullmatch(text):
        return False
    with suppress(ValueError):
        return not text or datetime.fromisoformat(text) is not None
    return False


def _descriptors(row: Mapping[str, Any], where: str) -> NDArray[np.float64] | None:
    if row["descriptors"] is None:
        return None
    values = np.frombuffer(row["descriptors"], "<f8").astype(np.float64)
    if not np.isfinite(values).all():
        raise DamagedError(f"{where} holds descriptors that are not finite")
    return values


def _reject(row: Mapping[str, Any], where: str) -> RejectError | None:
    if row["reason"] is None:
        return None
    if row["reason"] not in set(Reason) or row["message"] is None:
        raise DamagedError(
            f"{where} rejects an image for the reason {row['reason'][:64]!r}; there is none of that name"
        )
    return RejectError(Reason(row["reason"]), row["message"])


# ---- series files ----------------------------------------------------------------------------------------------------


def put_series(run: Location, number: int, rows: Sequence[SeriesRow], config_digest: str) -> None:
    """Put the series of a plan file if absent: another driver may have been first, and then its file counts."""
    table = pa.Table.from_pylist([_cells(row) for row in rows], schema=SERIES)
    with scratch_file(run, ".parquet") as path:
        options: dict[str, Any] = {"compression": "zstd", "write_statistics": False, "store_schema": False}
        with pq.ParquetWriter(path, SERIES, **options) as writer:
            writer.write_table(table, row_group_size=ROWS)
            writer.add_key_value_metadata({"format": SERIES_FORMAT, "config_digest": config_digest})
        with path.open("rb") as file:
            run.put_file_if_absent(layout.series_path(number), file)


def _cells(row: SeriesRow) -> dict[str, Any]:
    shares = row.shares or {}
    return {
        "series": bytes.fromhex(row.series) if row.series else None,
        "folder": row.folder,
        "members": [bytes.fromhex(member) for member in row.members],
        "times": list(row.times),
        "descriptors": None if row.descriptors is None else np.ascontiguousarray(row.descriptors, "<f8").tobytes(),
        "map": [] if row.coefficients is None else row.coefficients.ravel().tolist(),
        "confidence": row.confidence,
        "guard": row.guard,
        "sources": [bytes.fromhex(pair) for pair in shares],
        "shares": list(shares.values()),
        "reason": str(row.reject.reason) if row.reject else None,
        "message": row.reject.message if row.reject else None,
    }


def series_numbers(run: Location) -> list[int]:
    """Return the numbers of the plan files whose series are made, ascending."""
    found = (layout.parse_series_path(name) for name in run.list(layout.SERIES))
    return sorted(number for number in found if number is not None)


def read_series(run: Location, number: int) -> list[SeriesRow]:
    """Read the series of a plan file.

    Raises:
        MissingError: They are not made yet.
        DamagedError: The file is damaged, or holds what no edit has.
    """
    name = layout.series_path(number)
    with open_table(run, name) as file:
        return _rows(file, f"{run.uri}/{name}", None)


class FrozenSeries:
    """The series of a run, for looking up photographs; edits are read when they are asked for.

    Of a photograph in several plan files, the first that could use it counts, or else the last.
    """

    def __init__(self, run: Location) -> None:
        """Read which photographs there are. Raises DamagedError."""
        self._run = run
        self._places: dict[Key, tuple[int, int, int]] = {}  # number of the file, row group, row in it
        rejected: set[Key] = set()
        for number in series_numbers(run):
            with open_table(run, layout.series_path(number)) as file:
                for group, key, row, is_reject in _members(file):
                    if key not in self._places or key in rejected:
                        self._places[key] = (number, group, row)
                        (rejected.add if is_reject else rejected.discard)(key)

    def find(self, keys: Collection[Key]) -> dict[Key, SeriesRow]:
        """Return the rows of photographs.

        Raises:
            DamagedError: One is in no series file, or a file is damaged.
        """
        if missing := [key for key in keys if key not in self._places]:
            raise DamagedError(
                f"{self._run.uri}/{layout.SERIES} does not hold the image {missing[0].image_id}, which the run plans"
            )
        places = {key: self._places[key] for key in keys}
        groups = {
            place: self._read(*place) for place in sorted({(number, group) for number, group, _ in places.values()})
        }
        return {key: groups[number, group][row] for key, (number, group, row) in places.items()}

    def _read(self, number: int, group: int) -> list[SeriesRow]:
        name = layout.series_path(number)
        with open_table(self._run, name) as file:
            return _rows(file, f"{self._run.uri}/{name}", [group])


def _members(file: ParquetReader) -> Iterator[tuple[int, Key, int, bool]]:
    """Yield row group, key, row in the group, and whether it cannot be used, for every photograph of a file."""
    for group in range(len(file.rows)):
        table = file.read(["folder", "members", "reason"], [group], nullable=_NULLABLE)
        for row, cells in enumerate(table.to_pylist()):
            for member in cells["members"]:
                yield group, Key(member.hex(), cells["folder"]), row, cells["reason"] is not None


def _rows(file: ParquetReader, where: str, groups: Sequence[int] | None) -> list[SeriesRow]:
    if file.metadata.get("format") != SERIES_FORMAT:
        raise DamagedError(f"{where} is not of the format {SERIES_FORMAT}")
    table = file.read(SERIES.names, groups, nullable=_NULLABLE)
    return [_row(cells, where) for cells in table.to_pylist()]


def _row(cells: Mapping[str, Any], where: str) -> SeriesRow:
    edited = cells["series"] is not None
    numbers = np.array([*cells["map"], *cells["shares"], cells["confidence"], cells["guard"]])
    sound = (
        len(cells["map"]) == (SIZE * 3 if edited else 0)
        and len(cells["times"]) == len(cells["members"])
        and len(cells["sources"]) == len(cells["shares"])
        and bool((np.abs(numbers) < LARGEST).all())  # NaN is not
        and all(0 <= cells[name] <= 1 for name in ("confidence", "guard"))
        and all(map(_is_time, cells["times"]))
        and edited == (cells["descriptors"] is not None)
        and not (edited and cells["reason"] is not None)
    )
    if not sound:
        raise DamagedError(f"{where} holds a series that no photographs have")
    return SeriesRow(
        series=cells["series"].hex() if edited else "",
        folder=cells["folder"],
        members=tuple(member.hex() for member in cells["members"]),
        times=tuple(cells["times"]),
        descriptors=_descriptors(cells, where),
        coefficients=np.reshape(cells["map"], (SIZE, 3)) if edited else None,
        confidence=cells["confidence"],
        guard=cells["guard"],
        shares={source.hex(): share for source, share in zip(cells["sources"], cells["shares"], strict=True)},
        reject=_reject(cells, where),
    )
