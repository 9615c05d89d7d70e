"""The Arrow schemas of all tables, and zero-copy columns of fixed-size bytes.."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

IMAGE_ID = pa.binary(8)
PATCH_ID = pa.binary(12)

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

REJECTS = pa.schema([("uri", pa.string()), ("stage", pa.string()), ("reason", pa.string()), ("message", pa.string())])

MEMBERS = pa.schema([("patch_id", PATCH_ID), ("kept_patch_id", PATCH_ID)])

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


def patches_schema(channels: int) -> pa.Schema:
    """Return the schema of patches of C channels: its `vector` is the raw patch, read by `patch_vectors`."""
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
            ("vector", pa.binary(2 * 4 * channels)),
        ]
    )


def routed_schema(channels: int) -> pa.Schema:
    """Return the schema of patches on their way into an index: ordered by cluster, a row group per cluster.

    Its `vector` is a Haar packet, read by `routed_packets`.
    """
    return pa.schema([("cluster", pa.int32()), ("patch_id", PATCH_ID), ("vector", pa.binary(2 * 4 * channels))])


def fixed_binary(values: NDArray[Any]) -> pa.FixedSizeBinaryArray:
    """An array of n rows of contiguous bytes as an Arrow column, without a copy."""
    values = np.ascontiguousarray(values)
    width = values.nbytes // len(values) if len(values) else values.dtype.itemsize * int(np.prod(values.shape[1:]))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(values)])


def from_fixed_binary(column: pa.ChunkedArray | pa.Array, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """The bytes of a column as an array `(n, *shape)`; a view where the column is one chunk."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    width = array.type.byte_width
    start = array.offset * width
    data = memoryview(array.buffers()[1])[start : start + len(array) * width]
    return np.frombuffer(data, dtype=dtype).reshape(len(array), *shape)


def patch_vectors(table: pa.Table, channels: int) -> NDArray[np.float16]:
    """Return the raw patches `(n, 4, C)` little-endian float16 of a table of `patches_schema`: cells a, b, c, d."""
    return from_fixed_binary(table["vector"], "<f2", (4, channels))


def routed_packets(table: pa.Table, channels: int) -> NDArray[np.float16]:
    """Return the Haar packets `(n, 4, C)` little-endian float16 of a table of `routed_schema`: LL, LH, HL, HH."""
    return from_fixed_binary(table["vector"], "<f2", (4, channels))
