"""The working images that a library keeps, one at a time.

They are the pictures that were encoded, before padding, rounded to 8 bits a sample: within 1/510 of the pixels of which
the patches were cut. One image is one row group, so that one is read without its neighbours.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kt_batch.config import LARGEST_SIZE
from kt_batch.errors import DamagedError, MissingError, RejectError
from kt_batch.store import layout
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.library import Library
from kt_batch.store.parquet import ParquetReader
from kt_batch.store.receipts import TableRef
from kt_batch.store.schemas import WORKING
from kt_batch.store.tables import read_table

OPEN_PARTS = 64  # files that stay open with their footers


@dataclass(frozen=True)
class _Part:
    """An opened part. groups: image id -> number of its row group."""

    source: BinaryIO
    reader: ParquetReader
    groups: Mapping[str, int]


class WorkingImages(Mapping[str, NDArray[np.float32]]):
    """The working images of a library by image id, 16 hex digits: `(H, W, 3)` float32, sRGB in [0, 1].

    An image is read and decoded when it is asked for, in a child process as any foreign picture. Nothing is kept but
    opened parts. The object is for one thread.

    Raises, for an image that is asked for:
        KeyError: The library holds no such image.
        MissingError: Its part is gone.
        DamagedError: Its part is damaged, or holds something else than this image.
    """

    def __init__(self, library: Library, open_parts: int = OPEN_PARTS) -> None:
        """Raise MissingError when the library keeps no working images."""
        if not library.config.keep_images:
            raise MissingError(
                f"'{library.location.uri}' keeps no working images; make a library with extract --keep-images."
            )
        self._library, self._most = library, open_parts
        self._open: OrderedDict[str, _Part] = OrderedDict()
        weakref.finalize(self, _close, self._open)
        self._decoder = ImageReaderProcess()

    def __getitem__(self, image_id: str) -> NDArray[np.float32]:
        for unit in self._units.get(image_id, ()):
            part = self._opened(unit)
            if image_id in part.groups:
                return self._decoded(part.reader.read(WORKING.names, [part.groups[image_id]]), image_id, unit)
        raise KeyError(image_id)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and any(
            image_id in self._opened(unit).groups for unit in self._units.get(image_id, ())
        )

    def __iter__(self) -> Iterator[str]:
        for ref in self._parts.values():
            for raw in read_table(self._library.location, ref, ["image_id"])["image_id"].to_pylist():
                yield raw.hex()

    def __len__(self) -> int:
        return sum(ref.rows for ref in self._parts.values())

    def close(self) -> None:
        """Close the opened parts, and end the child process."""
        _close(self._open)
        self._decoder.close()

    @cached_property
    def _parts(self) -> dict[str, TableRef]:
        return self._library.committed.parts(layout.WORKING)

    @cached_property
    def _images(self) -> dict[str, list[str]]:
        """Return the images that each unit with a part names, ascending, as the rows of its part are."""
        units = self._library.committed.ledger.units()
        return {unit.id: sorted({item.image_id for item in unit.items}) for unit in units if unit.id in self._parts}

    @cached_property
    def _units(self) -> dict[str, list[str]]:
        """Return the units that name an image: one of them keeps it, if it is no reject."""
        found: dict[str, list[str]] = defaultdict(list)
        for unit, images in self._images.items():
            for image in images:
                found[image].append(unit)
        return dict(found)

    def _opened(self, unit: str) -> _Part:
        """Return an opened part; the one that was used longest ago is closed for it."""
        if unit in self._open:
            self._open.move_to_end(unit)
            return self._open[unit]
        while len(self._open) >= self._most:
            self._open.popitem(last=False)[1].source.close()
        part = self._open[unit] = self._open_part(unit)
        return part

    def _open_part(self, unit: str) -> _Part:
        location, ref, where = self._library.location, self._parts[unit], self._where(unit)
        size = location.size(ref.name)
        if size != ref.bytes:
            raise DamagedError(f"{where} has {size} bytes, but its receipt says {ref.bytes}")
        source = location.open(ref.name)
        try:
            reader = ParquetReader(source, size, where, remote=location.local_path(ref.name) is None)
            reader.checked_schema(WORKING.names)
            _check_groups(reader, ref.rows, where)
            images = self._images[unit]
            if ref.rows != len(images):  # some are rejects, or another unit keeps them
                images = [raw.hex() for raw in reader.read(["image_id"])["image_id"].to_pylist()]
        except BaseException:
            source.close()
            raise
        return _Part(source, reader, {image: number for number, image in enumerate(images)})

    def _decoded(self, row: pa.Table, image_id: str, unit: str) -> NDArray[np.float32]:
        """Return the picture of a row. Raises DamagedError unless it is one of this image, of the size that it says."""
        raw, width, height, data = (row[name][0].as_py() for name in WORKING.names)
        where = f"{self._where(unit)} holds for the image {image_id}"
        if raw.hex() != image_id:
            raise DamagedError(f"{where} the picture of another one, {raw.hex()}")
        if not (1 <= width <= LARGEST_SIZE and 1 <= height <= LARGEST_SIZE):
            raise DamagedError(f"{where} a size of {width} x {height}; allowed are 1 to {LARGEST_SIZE} pixels a side")
        try:
            found = self._decoder.decode(data, max(width, height))
        except RejectError as error:
            raise DamagedError(f"{where} no picture that can be used: {error.message}") from error
        if (found.original_width, found.original_height) != (width, height):
            size = f"{found.original_width} x {found.original_height}"
            raise DamagedError(f"{where} a picture of {size} pixels, and says {width} x {height}")
        return found.pixels

    def _where(self, unit: str) -> str:
        return f"{self._library.location.uri}/{self._parts[unit].name}"


def _close(parts: OrderedDict[str, _Part]) -> None:
    while parts:
        parts.popitem()[1].source.close()


def _check_groups(reader: ParquetReader, images: int, where: str) -> None:
    """Raise DamagedError unless a part has a row group for each image."""
    if reader.rows != [1] * images:
        raise DamagedError(f"{where} does not hold {images} images in a row group each")
