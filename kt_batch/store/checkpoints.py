"""Checkpoints within an image: files of a run that are named by their own hash, and that no receipt names.

A file is in safetensors form. Its metadata holds one JSON document: what the state belongs to, and its numbers. What
is not exactly what was stored is passed over, since work can always begin again.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from kt_batch.errors import DamagedError, MissingError
from kt_batch.store import layout
from kt_batch.store.documents import parse_document
from kt_batch.store.locations import Location
from kt_batch.store.scratch import scratch_file

KEY = "kt_batch_checkpoint"  # of the metadata
BUFFER = 1 << 20  # bytes read at a time, since many arrays are single numbers
LONGEST_HEADER = 1 << 20  # bytes; an optimiser of 20 pairs has about 6,000
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8")}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_NAME = re.compile(rf"{layout.CHECKPOINTS}/([0-9a-f]{{16}})/([0-9a-f]{{16}})-(\d{{6}})-([0-9a-f]{{16}})\.safetensors")


class CheckpointName(NamedTuple):
    """The unit, the picture, the step and the hash in the name of a checkpoint."""

    unit: str
    picture: str
    step: int
    sha: str


def parse_checkpoint_name(name: str) -> CheckpointName | None:
    """Return what the name of a checkpoint holds; None for any other name."""
    match = _NAME.fullmatch(name)
    return CheckpointName(match[1], match[2], int(match[3]), match[4]) if match else None


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint. document: JSON-able. arrays: By name; float32, float64 or int64."""

    document: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


def put_checkpoint(location: Location, unit: str, picture: str, step: int, content: Checkpoint) -> str:
    """Store a checkpoint as a whole and return its name.

    Args:
        location: The run.
        unit: Id of the unit.
        picture: 16 hex digits for the picture of the unit.
        step: How far the work is.
        content: What to store.

    Raises:
        StorageError: It cannot be written.
        DamagedError: Other content lies under its name.
    """
    with scratch_file(location, ".safetensors") as path:
        sha256 = _write(path, content)
        name = f"{layout.CHECKPOINTS}/{unit}/{picture}-{step:06d}-{sha256[:16]}.safetensors"
        location.put_content(name, path)
    return name


def _write(path: Path, content: Checkpoint) -> str:
    """Write a file array by array, and return its SHA-256."""
    header: dict[str, Any] = {"__metadata__": {KEY: json.dumps(content.document, sort_keys=True, allow_nan=False)}}
    end = 0
    for name, array in content.arrays.items():
        offsets = [end, end := end + array.nbytes]
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for piece in (len(text).to_bytes(8, "little"), text, *content.arrays.values()):
            data = piece if isinstance(piece, bytes) else np.ascontiguousarray(piece).data.cast("B")
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def read_checkpoint(location: Location, name: str) -> Checkpoint:
    """Read a checkpoint.

    Args:
        location: The run.
        name: As `find_checkpoints` returned it.

    Raises:
        MissingError: It is gone.
        DamagedError: It is not what was stored under that name.
        StorageError: It cannot be read.
    """
    try:
        with io.BufferedReader(_raw(location.open(name)), BUFFER) as file:
            return _parsed(_Hashed(file), location.size(name), name, f"{location.uri}/{name}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{location.uri}/{name} is not what was stored: {error}") from error


class _Hashed:
    """Reads a file from its beginning, and hashes what was read."""

    def __init__(self, file: io.BufferedReader[Any]) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def read(self, length: int) -> bytes:
        data = self.file.read(length)
        if len(data) != length:
            raise ValueError("it is too short")
        self.digest.update(data)
        return data


def _raw(file: BinaryIO) -> io.RawIOBase:
    return cast("io.RawIOBase", file.detach() if isinstance(file, io.BufferedReader) else file)


def _parsed(file: _Hashed, size: int, name: str, where: str) -> Checkpoint:
    length = int.from_bytes(file.read(8), "little")
    if length > LONGEST_HEADER:
        raise ValueError(f"its header would have {length} bytes")
    header = parse_document(file.read(length), where)
    document = parse_document(header.pop("__metadata__")[KEY], where)
    arrays = {key: _array(file, entry, size) for key, entry in header.items()}
    named = parse_checkpoint_name(name)
    if file.file.read(1) or named is None or named.sha != file.digest.hexdigest()[:16]:
        raise ValueError("its hash is not that of its name")
    return Checkpoint(document, arrays)


def _array(file: _Hashed, entry: Mapping[str, Any], most: int) -> NDArray[Any]:
    start, stop = (int(offset) for offset in entry["data_offsets"])
    if not 0 <= start <= stop <= most:
        raise ValueError("an array ends beyond the file")
    found: NDArray[Any] = np.frombuffer(bytearray(file.read(stop - start)), _TYPES[str(entry["dtype"])])
    return found.reshape([int(side) for side in entry["shape"]])


def find_checkpoints(location: Location, unit: str) -> list[str]:
    """Return the names of the checkpoints of a unit, of any picture."""
    return [name for name in location.list(f"{layout.CHECKPOINTS}/{unit}") if parse_checkpoint_name(name)]


def remove_checkpoints(location: Location, names: list[str]) -> None:
    """Remove some checkpoints. Raises StorageError."""
    for name in names:
        try:
            location.delete(name)
        except MissingError:
            continue
