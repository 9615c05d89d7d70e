"""The Arrow schemas of all tables, and zero-copy columns of fixed-size bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kt_batch.errors import DamagedError

IMAGE_ID = pa.binary(8)
PATCH_ID = pa.binary(12)

# `unit` is the 8 bytes of the unit's id.
PLAN = pa.schema([("unit", pa.binary(8)), ("image_id", IMAGE_ID), ("uri", pa.string()), ("name", pa.string())])
PLAN_OUTPUT = pa.field("output", pa.string())  # where it is not the plain path; null elsewhere
PLAN_AFTER = pa.field("after", pa.string())  # where the edited picture of a pair was listed
PLAN_TAGS = pa.field("tags", pa.list_(pa.string()))  # of a manifest

IMAGES = pa.schema(
    [
        ("image_id", IMAGE_ID),
        ("uris", pa.list_(pa.string())),
        ("original_width", pa.uint32()),  # of the file, EXIF-oriented
        ("original_height", pa.uint32()),
        ("width", pa.uint32()),  # of the working image, without its padding
        ("height", pa.uint32()),
        ("tags", pa.list_(pa.string())),
        ("license", pa.string()),
        ("attribution", pa.string()),
        ("preview", pa.binary()),  # JPEG, long side <= 512
    ]
)

# One row, and one row group, for each source image.
WORKING = pa.schema(
    [
        ("image_id", IMAGE_ID),
        ("width", pa.uint32()),  # of the working image, without its padding
        ("height", pa.uint32()),
        ("pixels", pa.binary()),  # lossless WebP, 8-bit sRGB
    ]
)

# One row for each pair; `image_id` is that of the pair. Numbers are little-endian float64.
PAIRS = pa.schema(
    [
        ("image_id", IMAGE_ID),
        ("name", pa.string()),
        ("before", pa.string()),  # URIs
        ("after", pa.string()),
        ("original_width", pa.uint32()),  # of the file before, EXIF-oriented
        ("original_height", pa.uint32()),
        ("width", pa.uint32()),  # at which the pair was read
        ("height", pa.uint32()),
        ("tags", pa.list_(pa.string())),
        ("license", pa.string()),
        ("attribution", pa.string()),
        ("descriptors", pa.binary(8 * 33)),  # of the picture before
        ("gram", pa.binary(8 * 10 * 10)),  # mean of phi phi^T over all pixels
        ("cross", pa.binary(8 * 10 * 3)),  # mean of phi y^T
        ("power", pa.binary(8 * 3)),  # mean of y^2
        ("clipped", pa.binary(8)),  # share of pixels that became black or white
        ("preview_before", pa.binary()),  # JPEG, long side <= 144
        ("preview_after", pa.binary()),
    ]
)

# The edit of each output of a method that edits photographs.
EDITS = pa.schema(
    [
        ("output", pa.dictionary(pa.int32(), pa.string())),
        ("library", pa.dictionary(pa.int32(), pa.string())),
        ("map", pa.list_(pa.float64())),  # (10, 3): the colour map that was applied
        ("confidence", pa.float32()),  # 1: like the pairs; 0: unlike all of them
        ("guard", pa.float32()),  # 1: the predicted map; 0.5: the mean map in its place; 0: no edit
        ("strength", pa.float32()),
    ]
)

EDITS_SERIES = pa.field("series", pa.binary(8))  # in runs whose photographs share edits; null for an edit of its own

# What a series is made from: one row for each image of a unit. An image that cannot be used has reason and message.
DESCRIBED = pa.schema(
    [
        ("image_id", IMAGE_ID),
        ("descriptors", pa.binary(8 * 33)),  # of the working image, little-endian float64
        ("colours", pa.binary()),  # an even sample of its pixels, three bytes each
        ("taken", pa.string()),  # ISO 8601, by EXIF
        ("reason", pa.string()),
        ("message", pa.string()),
    ]
)

# Which photographs of a plan share an edit. Rows without a series hold photographs with edits of their own, or, with a
# reason and a message, one that cannot be used.
SERIES = pa.schema(
    [
        EDITS_SERIES,
        ("folder", pa.string()),
        ("members", pa.list_(IMAGE_ID)),
        ("times", pa.list_(pa.string())),  # when each member was taken; empty if unknown
        ("descriptors", pa.binary(8 * 33)),  # of the first photograph
        ("map", pa.list_(pa.float64())),  # (10, 3): the colour map at full strength
        ("confidence", pa.float32()),
        ("guard", pa.float32()),
        ("sources", pa.list_(IMAGE_ID)),  # pairs
        ("shares", pa.list_(pa.float64())),
        ("reason", pa.string()),
        ("message", pa.string()),
    ]
)

REJECTS = pa.schema([("uri", pa.string()), ("stage", pa.string()), ("reason", pa.string()), ("message", pa.string())])

MEMBERS = pa.schema([("patch_id", PATCH_ID), ("kept_patch_id", PATCH_ID)])

COVERED_PARTS = pa.schema([("part_sha256", pa.binary(32))])

PROVENANCE = pa.schema(
    [
        ("output", pa.dictionary(pa.int32(), pa.string())),
        ("row", pa.uint16()),  # top-left cell of the query patch
        ("col", pa.uint16()),
        ("rank", pa.uint8()),  # 0 = best
        ("weight", pa.float32()),
        ("library", pa.dictionary(pa.int32(), pa.string())),
        ("source_image_id", pa.dictionary(pa.int32(), IMAGE_ID)),
        ("source_row", pa.uint16()),
        ("source_col", pa.uint16()),
        ("ncc", pa.float16()),
        ("certified", pa.bool_()),
    ]
)

# Provenance of a method with levels: the matches of each level of an output, from coarse to fine.
LEVELS = PROVENANCE.insert(1, pa.field("level", pa.dictionary(pa.int32(), pa.string())))

# Provenance of a method that states only how much each source contributed to an output.
SHARES = pa.schema(
    [
        ("output", pa.dictionary(pa.int32(), pa.string())),
        ("source_image_id", pa.dictionary(pa.int32(), IMAGE_ID)),
        ("source_uri", pa.dictionary(pa.int32(), pa.string())),
        ("share", pa.float32()),  # the shares of one output sum to 1
    ]
)

# The schemas below depend on the encoder's channels C in the width of one column.
VECTOR = "vector"
VECTORS = frozenset({VECTOR, "mean", "second"})
PICTURE = "pixels"  # of WORKING


def _columns(*schemas: pa.Schema) -> dict[str, pa.DataType]:
    return {field.name: field.type for schema in schemas for field in schema}


ProvenanceKind = Literal["patches", "sources"]


def provenance_kind(provenance: pa.Table | pa.Schema) -> ProvenanceKind:
    """Tell from its columns whether provenance is per patch or per source.

    Raises:
        DamagedError: the columns are neither those of PROVENANCE or LEVELS nor those of SHARES.
    """
    names = (provenance if isinstance(provenance, pa.Schema) else provenance.schema).names
    if "row" in names:
        return "patches"
    if "share" in names:
        return "sources"
    raise DamagedError(f"A provenance table has the columns {', '.join(names)}; it needs 'row' or 'share'.")


def patches_schema(channels: int) -> pa.Schema:
    """Return the schema of the patches table for C channels.

    `vector` is the raw patch, `(4, C)` little-endian float16, cells a b c d in reading order; `patch_vectors` reads it.
    """
    return pa.schema(
        [
            ("patch_id", PATCH_ID),
            ("image_id", IMAGE_ID),
            ("row", pa.uint16()),
            ("col", pa.uint16()),
            ("x0", pa.int32()),  # box in the working image, half-open, clipped to it
            ("y0", pa.int32()),
            ("x1", pa.int32()),
            ("y1", pa.int32()),
            (VECTOR, pa.binary(2 * 4 * channels)),
        ]
    )


def statistics_schema(channels: int) -> pa.Schema:
    """Return the schema of the moments of the cells of each image, for C channels, little-endian float64.

    `second` is the upper triangle of the mean of x x^T, row by row.
    """
    second = channels * (channels + 1) // 2
    columns = [("mean", pa.binary(8 * channels)), ("second", pa.binary(8 * second))]
    return pa.schema([("image_id", IMAGE_ID), ("count", pa.int64()), *columns])


def missing_columns(kind: str, names: Sequence[str]) -> list[str]:
    """Return the columns that a part of a library or a run lacks; none for a kind that has no schema here.

    kind: its table kind. names: the columns that it has.
    """
    matches = LEVELS if "level" in names else PROVENANCE
    provenance = matches if "row" in names else SHARES
    schemas = {
        "images": IMAGES, "patches": patches_schema(1), "working": WORKING, "pairs": PAIRS, "rejects": REJECTS,
        "provenance": provenance, "edits": EDITS, "described": DESCRIBED,
    }  # fmt: skip
    table = kind.partition("/")[0]  # patches of any layer@scale have the same columns
    return [name for name in schemas[table].names if name not in names] if table in schemas else []


# The type of every column of every table: a name has one type wherever it stands. VECTORS have other widths too.
COLUMN_TYPES = _columns(
    PLAN, IMAGES, WORKING, PAIRS, EDITS, DESCRIBED, SERIES, REJECTS, MEMBERS, COVERED_PARTS, LEVELS, SHARES,
    patches_schema(1), statistics_schema(1),
)  # fmt: skip

# The columns that may lack values, by table kind.
NULLABLE: dict[str, tuple[str, ...]] = {
    "edits": (EDITS_SERIES.name,),
    "described": ("descriptors", "colours", "taken", "reason", "message"),
}


def fixed_binary(values: NDArray[Any]) -> pa.FixedSizeBinaryArray:
    """Return an array as an Arrow column, without a copy.

    Args:
        values: `(n, ...)`, any dtype; each row becomes one value.
    """
    values = np.ascontiguousarray(values)
    width = values.nbytes // len(values) if len(values) else values.dtype.itemsize * int(np.prod(values.shape[1:]))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(values)])


def from_fixed_binary(column: pa.ChunkedArray | pa.Array, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the bytes of a column as an array `(n, *shape)` of `dtype`.

    The array is a view where the column is one chunk.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    width = array.type.byte_width
    wanted = np.dtype(dtype).itemsize * int(np.prod(shape))
    if wanted > 0 and width != wanted:  # -1 stands for what is left
        raise DamagedError(f"A table holds values of {width} bytes where {wanted} belong.")
    start = array.offset * width
    data = memoryview(array.buffers()[1])[start : start + len(array) * width]
    return np.frombuffer(data, dtype=dtype).reshape(len(array), *shape)


def patch_vectors(table: pa.Table, channels: int) -> NDArray[np.float16]:
    """Return the raw patches `(n, 4, C)` little-endian float16 of a table of `patches_schema`: cells a, b, c, d."""
    return from_fixed_binary(table["vector"], "<f2", (4, channels))
