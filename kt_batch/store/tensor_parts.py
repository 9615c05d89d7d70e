"""Some tensors of a safetensors file, without reading the others."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from kt_batch.errors import DamagedError
from kt_batch.store.locations import Location

LONGEST_HEADER = 1 << 16  # bytes; a shard's has about a thousand


def read_tensors(location: Location, name: str, size: int, wanted: Collection[str]) -> bytes:
    """Return a safetensors file of some tensors of another one.

    Its beginning is read, and the range from the first of these tensors to the last.

    Args:
        location: Where the file is.
        name: Its name.
        size: Its bytes.
        wanted: Names of tensors; those that it has not are left out.

    Raises:
        DamagedError: It has no header of a safetensors file, or a tensor beyond its end.
    """
    beginning = location.read_range(name, 0, min(size, LONGEST_HEADER))
    data = 8 + int.from_bytes(beginning[:8], "little")
    try:
        header: dict[str, Any] = dict(json.loads(beginning[8:data]).items())
        tensors = {key: header[key] for key in wanted if key in header}
        places = {key: _place(tensor["data_offsets"], size - data) for key, tensor in tensors.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"'{name}' at '{location.uri}' cannot be read: it is no safetensors file.") from error
    first = min((start for start, _ in places.values()), default=0)
    last = max((stop for _, stop in places.values()), default=0)
    read = location.read_range(name, data + first, last - first)
    pieces, end = [], 0
    for key, (start, stop) in sorted(places.items(), key=lambda item: item[1]):
        pieces.append(read[start - first : stop - first])
        tensors[key] = {**tensors[key], "data_offsets": [end, end := end + stop - start]}
    text = json.dumps(tensors).encode()
    return b"".join([len(text).to_bytes(8, "little"), text, *pieces])


def _place(offsets: Any, most: int) -> tuple[int, int]:
    start, stop = offsets
    if not 0 <= start <= stop <= most:
        raise ValueError("beyond the end of the file")
    return start, stop
