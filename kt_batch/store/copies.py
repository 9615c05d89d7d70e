"""Take parts of one library over into another: copied byte for byte, or written again with some of their images.

A part is fetched once, in large pieces, and its SHA-256 is checked on the way. Its source is never written to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from kt_batch.errors import DamagedError
from kt_batch.store.layout import part_path
from kt_batch.store.locations import Location
from kt_batch.store.parquet import ParquetReader
from kt_batch.store.receipts import TableRef
from kt_batch.store.scratch import scratch_file
from kt_batch.store.tables import COPIED_BYTES, commit_row_groups


def take_part(
    source: Location, ref: TableRef, target: Location, unit: str, there: Collection[str], wanted: Collection[str]
) -> TableRef:
    """Store a part whose row groups hold one image each as a part of `unit` of another library.

    It is copied as it is where all of its images are wanted. Otherwise it is written without the others, as an extract
    of the wanted images alone would have written it.

    Args:
        source: Where the part is.
        ref: The part.
        target: Where it is to be.
        unit: The unit there.
        there: The images of the source's unit, 16 hex digits each.
        wanted: Those of them that are taken.

    Raises:
        MissingError: The part is gone.
        DamagedError: It differs from its receipt, is no table of ours, holds other images than those of its unit, or
            several in a row group.
    """
    where = f"{source.uri}/{ref.name}"
    with verified_copy(source, ref, target) as path:
        with path.open("rb") as file:
            reader = ParquetReader(file, ref.bytes, where)
            found = {raw.hex() for raw in reader.read(["image_id"])["image_id"].unique().to_pylist()}
            if strange := sorted(found - set(there)):
                raise DamagedError(f"{where} holds the image {strange[0]}, which is none of its unit")
            if not found <= set(wanted):
                return commit_row_groups(target, ref.kind, unit, reader.schema, _groups(reader, wanted, where))
        name = part_path(ref.kind, unit, ref.sha256)
        target.put_content(name, path)
    return ref.model_copy(update={"name": name})


def read_part(source: Location, ref: TableRef, target: Location) -> pa.Table:
    """Return a whole part whose SHA-256 was checked; raises as `take_part` does."""
    with verified_copy(source, ref, target) as path, path.open("rb") as file:
        return ParquetReader(file, ref.bytes, f"{source.uri}/{ref.name}").read()


@contextmanager
def verified_copy(source: Location, ref: TableRef, target: Location) -> Iterator[Path]:
    """Yield a scratch file of `target` with the bytes of a part of `source`.

    Raises:
        MissingError: The part is gone.
        DamagedError: It has not the size or the SHA-256 that its receipt says.
    """
    where = f"{source.uri}/{ref.name}"
    size = source.size(ref.name)
    if size != ref.bytes:
        raise DamagedError(f"{where} has {size} bytes, but its receipt says {ref.bytes}")
    with scratch_file(target, ".parquet") as path:
        sha256 = copy_to_file(source, ref.name, size, path)
        if sha256 != ref.sha256:
            raise DamagedError(f"{where} has the SHA-256 {sha256}, but its receipt says {ref.sha256}")
        yield path


def copy_to_file(source: Location, name: str, size: int, path: Path) -> str:
    """Copy a file of `size` bytes to a local one, in large pieces; return the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, COPIED_BYTES):
            piece = source.read_range(name, start, COPIED_BYTES)
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def _groups(reader: ParquetReader, wanted: Collection[str], where: str) -> Iterator[pa.Table]:
    """Yield the row groups of the wanted images, one at a time."""
    for number, rows in enumerate(reader.rows):
        images = reader.read(["image_id"], [number])["image_id"].unique().to_pylist() if rows else []
        if len(images) > 1:
            raise DamagedError(f"{where} holds {len(images)} images in its row group {number}; allowed is one")
        if images and images[0].hex() in wanted:
            yield reader.read(None, [number])
