"""The statistics of a library on disk: of each image, by the part that holds its patches, and of the whole.

Everything lies under `statistics/` and follows from the patches. Statistics of a part are named by the part. Those of a
library that has grown are therefore computed for its new parts alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Final, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from kt_batch.config import LARGEST_SIZE, SMALLEST_SIZE, Layer, ScaleKey
from kt_batch.errors import DamagedError, MissingError
from kt_batch.kernels.moments import Moments
from kt_batch.store import layout
from kt_batch.store.derived import put_derived
from kt_batch.store.documents import read_document
from kt_batch.store.indexes import read_blob, read_build_receipts
from kt_batch.store.library import Library
from kt_batch.store.locations import Location, open_location
from kt_batch.store.names import in_command
from kt_batch.store.receipts import TableRef
from kt_batch.store.schemas import fixed_binary, from_fixed_binary, statistics_schema
from kt_batch.store.tables import read_table

STATISTICS_FORMAT: Final = "kt-batch-statistics/1"

Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StatisticsSummary(BaseModel):
    """The content of `statistics/<digest>.json`. count: Cells. units: Of whose images these are the statistics, in the
    order of the library's parts. moments_sha256: Names the file of mean and second moment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["kt-batch-statistics/1"] = STATISTICS_FORMAT
    digest: Hex16
    snapshot: Hex16
    layer: Layer
    scale: Annotated[int, Field(ge=SMALLEST_SIZE, le=LARGEST_SIZE)]
    channels: Annotated[int, Field(ge=1, lt=2**16)]
    images: Annotated[int, Field(ge=1, lt=2**31)]
    count: Annotated[int, Field(ge=1, lt=2**63)]
    units: tuple[Hex16, ...]
    moments_sha256: Sha256
    numerics: dict[str, str]

    @property
    def key(self) -> ScaleKey:
        """Return the key whose cells they are of."""
        return ScaleKey(self.layer, self.scale)


def statistics_location(library: Location) -> Location:
    """Return where the statistics of a library are, as a location of its own: they have receipts and parts."""
    return open_location(f"{library.uri.rstrip('/')}/{layout.STATISTICS}")


# ---- of images -------------------------------------------------------------------------------------------------------


def moments_table(moments: dict[bytes, Moments], channels: int) -> pa.Table:
    """Return the table of the moments of images, by image id."""
    images = sorted(moments)
    columns = [
        pa.array(images, pa.binary(8)),
        pa.array([moments[image].count for image in images], pa.int64()),
        *(
            fixed_binary(np.stack([getattr(moments[image], name) for image in images]).astype("<f8"))
            for name in ("mean", "second")
        ),
    ]
    return pa.Table.from_arrays(columns, schema=statistics_schema(channels))


def read_moments(location: Location, part: TableRef, channels: int) -> Iterator[tuple[bytes, Moments]]:
    """Yield image id and moments of the images of a part under `statistics/`.

    Raises:
        MissingError: it is gone.
        DamagedError: it is not what its receipt says, or holds what no moments are.
    """
    table = read_table(location, part, ["image_id", "count", "mean", "second"])
    mean = from_fixed_binary(table["mean"], "<f8", (channels,))
    second = from_fixed_binary(table["second"], "<f8", (channels * (channels + 1) // 2,))
    counts = table["count"].to_numpy()
    if not (np.isfinite(mean).all() and np.isfinite(second).all() and (counts > 0).all()):
        raise DamagedError(f"{location.uri}/{part.name} holds moments that are not finite, or of no cell")
    for row, image in enumerate(table["image_id"].to_pylist()):
        yield image, Moments(int(counts[row]), mean[row].astype(np.float64), second[row].astype(np.float64))


def image_moments(library: Location, summary: StatisticsSummary) -> Iterator[tuple[str, Moments]]:
    """Yield image id (16 hex digits) and moments of each image that statistics cover, each once.

    Raises as `read_moments` does; MissingError also where a receipt is gone.
    """
    location, seen = statistics_location(library), set()
    for part in _parts(location, summary):
        for image, moments in read_moments(location, part, summary.channels):
            if image not in seen:
                seen.add(image)
                yield image.hex(), moments


def image_counts(library: Location, summary: StatisticsSummary) -> dict[str, int]:
    """Return image id (16 hex digits) -> cells of each image that statistics cover. Raises as `image_moments` does."""
    location = statistics_location(library)
    counts: dict[str, int] = {}
    for part in _parts(location, summary):
        table = read_table(location, part, ["image_id", "count"])
        rows = zip(table["image_id"].to_pylist(), table["count"].to_pylist(), strict=True)
        counts.update((image.hex(), count) for image, count in rows)
    if min(counts.values(), default=0) < 1 or sum(counts.values()) != summary.count:
        raise DamagedError(
            f"The statistics {summary.digest} at '{library.uri}' do not add up to {summary.count} cells."
        )
    return dict(sorted(counts.items()))


def _parts(location: Location, summary: StatisticsSummary) -> Iterator[TableRef]:
    """Yield the parts of the units of a summary."""
    receipts = read_build_receipts(location)
    for unit in summary.units:
        if unit not in receipts:
            raise MissingError(
                f"'{location.uri}' lacks the statistics of the unit {unit}; run kt-batch statistics again."
            )
        yield from receipts[unit].tables


# ---- of a library ----------------------------------------------------------------------------------------------------


def write_statistics(
    library: Library, key: ScaleKey, total: Moments, images: int, units: tuple[str, ...], numerics: dict[str, str]
) -> StatisticsSummary:
    """Store the moments of a library under their own hash, then their summary, which commits them.

    The digest follows from snapshot, key and numbers, so that a run which names statistics never gets others.
    """
    data = save({"mean": total.mean, "second": total.second})
    sha256 = hashlib.sha256(data).hexdigest()
    snapshot = library.committed.snapshot
    name = json.dumps([STATISTICS_FORMAT, snapshot, str(key), sha256], separators=(",", ":"))
    summary = StatisticsSummary(
        digest=hashlib.sha256(name.encode()).hexdigest()[:16], snapshot=snapshot, layer=key.layer, scale=key.scale,
        channels=total.channels, images=images, count=total.count, units=units, moments_sha256=sha256,
        numerics=numerics,
    )  # fmt: skip
    put_derived(library.location, layout.blob_path(layout.STATISTICS, sha256), data)
    content = (json.dumps(summary.model_dump(mode="json"), indent=1, sort_keys=True) + "\n").encode()
    put_derived(library.location, layout.statistics_path(summary.digest), content)
    return summary


def statistics_digests(location: Location) -> list[str]:
    """Return the digests of all statistics of a library that have a summary."""
    return sorted(filter(None, map(layout.parse_statistics_path, location.list(layout.STATISTICS))))


def read_statistics_summary(location: Location, digest: str) -> StatisticsSummary:
    """Read the summary of statistics.

    Raises:
        MissingError: there are none of this digest.
        DamagedError: it is not a summary, or that of others.
    """
    name = layout.statistics_path(digest)
    try:
        summary = StatisticsSummary.model_validate(read_document(location, name))
    except ValidationError as error:
        raise DamagedError(f"'{name}' at '{location.uri}' is not the summary of statistics.") from error
    if summary.digest != digest:
        raise DamagedError(f"'{name}' at '{location.uri}' is the summary of other statistics, {summary.digest}.")
    return summary


def read_statistics_summaries(location: Location) -> list[StatisticsSummary]:
    """Return the summaries of all statistics, by digest; those that are not readable are left out."""
    found = []
    for digest in statistics_digests(location):
        with suppress(DamagedError):
            found.append(read_statistics_summary(location, digest))
    return found


def find_statistics(library: Library, key: ScaleKey | None = None) -> StatisticsSummary:
    """Return the statistics of what the library holds now at a key; None takes its base key.

    Raises:
        MissingError: there are none.
    """
    key = key or library.config.base
    for summary in read_statistics_summaries(library.location):
        if (summary.snapshot, summary.key) == (library.committed.snapshot, key):
            return summary
    place = library.location.uri
    at, typed = "" if key == library.config.base else f" --at {key}", in_command(place)
    raise MissingError(f"'{place}' has no statistics of what it holds now; run: kt-batch statistics {typed}{at}")


def read_statistics(location: Location, summary: StatisticsSummary) -> Moments:
    """Read the moments of a library. Raises DamagedError when the file is not what the summary names."""
    data = read_blob(location, layout.STATISTICS, summary.moments_sha256)
    where = f"The statistics {summary.digest} at '{location.uri}'"
    try:
        arrays = load(data)
        mean, second = (arrays[name].astype(np.float64) for name in ("mean", "second"))
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedError(f"{where} cannot be read: {error}.") from error
    shapes = (mean.shape, second.shape)
    wanted = ((summary.channels,), (summary.channels * (summary.channels + 1) // 2,))
    if shapes != wanted or not (np.isfinite(mean).all() and np.isfinite(second).all()):
        raise DamagedError(f"{where} are not finite numbers of {summary.channels} channels: their shapes are {shapes}.")
    return Moments(summary.count, mean, second)


def named_files(location: Location) -> dict[str, str]:
    """Return name -> SHA-256 of every file that summaries and receipts under `statistics/` name.

    Raises:
        DamagedError: a receipt is no receipt.
    """
    found = {
        layout.blob_path(layout.STATISTICS, summary.moments_sha256): summary.moments_sha256
        for summary in read_statistics_summaries(location)
    }
    for receipt in read_build_receipts(statistics_location(location)).values():
        found |= {f"{layout.STATISTICS}/{table.name}": table.sha256 for table in receipt.tables}
    return found
