"""A paired library on disk: its table of pairs, its summary, and the fits made from it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Annotated, Any, Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from kt_batch.config import PairsConfig
from kt_batch.errors import DamagedError, MismatchError, MissingError
from kt_batch.store import layout
from kt_batch.store.attempts import find_rejects
from kt_batch.store.committed import Committed
from kt_batch.store.derived import put_derived, write_summary
from kt_batch.store.documents import read_document
from kt_batch.store.indexes import read_blob
from kt_batch.store.locations import Location
from kt_batch.store.names import in_command
from kt_batch.store.schemas import from_fixed_binary
from kt_batch.store.tables import read_table
from kt_batch.store.units import Ledger

PAIRED_FORMAT = "kt-batch-pairs/1"
FIT_FORMAT: Final = "kt-batch-fit/1"
MOST_FIT_SUMMARY = 1 << 20  # bytes

# The columns that hold numbers, with the shape of one value.
NUMBERS: dict[str, tuple[int, ...]] = {
    "descriptors": (33,), "gram": (10, 10), "cross": (10, 3), "power": (3,), "clipped": (),
}  # fmt: skip

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class FitSummary(BaseModel):
    """The content of `fits/<digest>.json`. arrays_sha256: names the file of the fit's numbers. made: Unix seconds.
    Of several fits of one snapshot, the latest is used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["kt-batch-fit/1"] = FIT_FORMAT
    digest: Hex16
    config: dict[str, Any]
    snapshot: Hex16
    pairs: Annotated[int, Field(ge=1, lt=2**31)]
    arrays_sha256: Sha256
    arrays_bytes: Annotated[int, Field(ge=1, lt=2**40)]
    numerics: dict[str, str]
    made: Annotated[float, Field(ge=0, lt=2**35)]


def is_paired(config: Mapping[str, Any]) -> bool:
    """Tell a paired library from other places by the planned configuration."""
    return config.get("kind") == "pairs"


class PairedLibrary:
    """An opened paired library. `store/opening.py` opens one."""

    def __init__(self, committed: Committed) -> None:
        """Raise MismatchError when the planned configuration is not that of a paired library."""
        self.committed = committed
        try:
            self.config = PairsConfig.model_validate(committed.config)
        except ValidationError as error:
            raise MismatchError(f"'{committed.location.uri}' is not a paired library of this version.") from error

    @property
    def location(self) -> Location:
        """Return the library's location."""
        return self.committed.location

    @cached_property
    def pairs(self) -> int:
        """Return the number of pairs, each once."""
        return len(self.table(["image_id"]))

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Return some columns of all pairs by ascending id; a pair that two units hold counts once.

        Raises:
            MissingError: the library holds no pairs.
            DamagedError: a part differs from its receipt.
        """
        wanted = list(dict.fromkeys(["image_id", *columns]))
        parts = [read_table(self.location, part, wanted) for part in self.committed.parts(layout.PAIRS).values()]
        if not parts:
            raise MissingError(f"'{self.location.uri}' holds no pairs.")
        table = pa.concat_tables(parts)
        ids = [value.as_py() for value in table["image_id"]]
        first = {value: row for row, value in reversed(list(enumerate(ids)))}
        return table.take(pa.array([first[value] for value in sorted(first)], pa.int64()))


def numbers(table: pa.Table, column: str) -> NDArray[np.float64]:
    """Return a column of NUMBERS as `(n, *shape)` float64.

    Raises:
        DamagedError: a value has another size, or is not finite.
    """
    values = from_fixed_binary(table[column], "<f8", NUMBERS[column]).astype(np.float64)
    if not np.isfinite(values).all():
        raise DamagedError(f"The column '{column}' of a table of pairs holds numbers that are not finite.")
    return values


def pair_id(before: str, after: str) -> str:
    """Return the id of a pair, 16 hex digits: it follows from the image ids of its two files."""
    return hashlib.sha256(bytes.fromhex(before) + bytes.fromhex(after)).hexdigest()[:16]


def synthetic_id(image: str, number: int) -> str:
    """Return the id of a synthetic pair, 16 hex digits: it follows from an image id and the number of a variation."""
    return hashlib.sha256(b"synthetic:" + bytes.fromhex(image) + bytes([number])).hexdigest()[:16]


def write_paired_summary(location: Location, ledger: Ledger, config: PairsConfig) -> tuple[int, int]:
    """Write `library.json` from plan, receipts and tables, and return the numbers of pairs, each once, and rejects."""
    receipts = ledger.receipts()
    rejects = find_rejects(ledger).count
    library = PairedLibrary(Committed(ledger, config.model_dump(mode="json")))
    pairs = library.pairs if library.committed.parts(layout.PAIRS) else 0
    write_summary(
        location,
        layout.LIBRARY_SUMMARY,
        {
            "format": PAIRED_FORMAT,
            "config": config.model_dump(mode="json"),
            "config_digest": config.digest(),
            "snapshot": ledger.snapshot(),
            "units": len(receipts),
            "pairs": pairs,
            "rejects": rejects,
            "bytes": sum(table.bytes for receipt in receipts.values() for table in receipt.tables),
        },
    )
    return pairs, rejects


# ---- fits ------------------------------------------------------------------------------------------------------------


def write_fit(
    location: Location,
    arrays: Mapping[str, NDArray[Any]],
    config: Mapping[str, Any],
    snapshot: str,
    pairs: int,
    numerics: dict[str, str],
) -> FitSummary:
    """Store the numbers of a fit under their own hash, then its summary, which commits it.

    The digest follows from configuration, snapshot and numbers, so that a run which names a fit never gets another one.
    A file of these names with other content is replaced.
    """
    # `save` writes the memory of an array, whatever its strides.
    data = save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})
    sha256 = hashlib.sha256(data).hexdigest()
    content = json.dumps([FIT_FORMAT, dict(config), snapshot, sha256], sort_keys=True, separators=(",", ":"))
    summary = FitSummary(
        digest=hashlib.sha256(content.encode()).hexdigest()[:16], config=dict(config), snapshot=snapshot, pairs=pairs,
        arrays_sha256=sha256, arrays_bytes=len(data), numerics=numerics, made=time.time(),
    )  # fmt: skip
    put_derived(location, layout.blob_path(layout.FITS, sha256), data)
    put_derived(location, layout.fit_path(summary.digest), summary.model_dump_json(indent=1).encode() + b"\n")
    return summary


def fit_digests(location: Location) -> list[str]:
    """Return the digests of all fits that have a summary."""
    return sorted(filter(None, map(layout.parse_fit_path, location.list(layout.FITS))))


def read_fit_summaries(location: Location) -> list[FitSummary]:
    """Return the summaries of all fits, by digest; those that are not readable are left out."""
    found = []
    for digest in fit_digests(location):
        with suppress(DamagedError):
            found.append(read_fit_summary(location, digest))
    return found


def read_fit_summary(location: Location, digest: str) -> FitSummary:
    """Read the summary of a fit.

    Raises:
        MissingError: there is no such fit.
        DamagedError: it is not a summary, or that of another fit.
    """
    name = layout.fit_path(digest)
    try:
        summary = FitSummary.model_validate(read_document(location, name, MOST_FIT_SUMMARY))
    except ValidationError as error:
        raise DamagedError(f"'{name}' at '{location.uri}' is not the summary of a fit.") from error
    if summary.digest != digest:
        raise DamagedError(f"'{name}' at '{location.uri}' is the summary of another fit, {summary.digest}.")
    return summary


def read_fit_arrays(location: Location, summary: FitSummary) -> dict[str, NDArray[Any]]:
    """Read the numbers of a fit. Raises DamagedError when the file is not what the summary names."""
    data = read_blob(location, layout.FITS, summary.arrays_sha256)
    try:
        return dict(load(data))
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedError(f"The fit {summary.digest} at '{location.uri}' cannot be read: {error}.") from error


def find_fit(library: PairedLibrary, config: Mapping[str, Any]) -> FitSummary:
    """Return the latest fit of what the library holds now.

    Raises:
        MissingError: it has none, or those that it has are of fewer or other pairs.
    """
    summaries = read_fit_summaries(library.location)
    fits = [fit for fit in summaries if fit.snapshot == library.committed.snapshot and fit.config == dict(config)]
    if not fits:
        place = library.location.uri
        raise MissingError(
            f"'{place}' has no fit of the pairs that it holds now; run: kt-batch fit {in_command(place)}"
        )
    return max(fits, key=lambda fit: (fit.made, fit.digest))
