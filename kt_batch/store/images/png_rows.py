"""The rows of a PNG of 16 bits, decoded band by band as they are asked for."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from kt_batch.store.images.headers import PNG
from kt_batch.store.images.png import chunk, chunks_of

_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # of the colour types with 16 bits
_BAND_BYTES = 2**22  # unpacked at a time while rows are skipped


def rows_of(data: bytes) -> PngRows | NDArray[Any]:
    """Return the samples of a PNG of 16 bits: its rows, or all of them where rows do not follow one another."""
    names = {name for name, _, _ in chunks_of(data)}
    if data[28] == 0 and data[25] in _CHANNELS and b"tRNS" not in names:
        return PngRows(data)
    samples = imagecodecs.png_decode(data)
    return samples.reshape(*samples.shape[:2], -1)


class PngRows:
    """The samples of a PNG of 16 bits that is not interlaced, `(height, width, samples)` uint16.

    Rows are unpacked from the top. A band of them becomes a small PNG, whose first row is the one before the band: the
    filter of a row depends on that row alone. libpng decodes it, so the samples are those of the whole file.
    """

    dtype = np.dtype(np.uint16)

    def __init__(self, data: bytes) -> None:
        self._data = data
        width, height = struct.unpack_from(">II", data, 16)
        self.shape = (height, width, _CHANNELS[data[25]])
        self._whole: NDArray[Any] | None = None
        self._restart()

    def __getitem__(self, part: slice) -> NDArray[Any]:
        """Return the rows of a slice whose step is 1; faster when slices follow one another."""
        top, bottom, _ = part.indices(self.shape[0])
        if self._whole is None:
            try:
                return self._rows(top, bottom)
            except (zlib.error, ValueError, imagecodecs.PngError):  # libpng tells of the whole file what is wrong
                self._whole = imagecodecs.png_decode(self._data).reshape(self.shape)
        return self._whole[top:bottom]

    def _restart(self) -> None:
        self._next, self._before = 0, b""
        self._unpacker, self._packed = zlib.decompressobj(), self._pieces()

    def _pieces(self) -> Iterator[memoryview]:
        view = memoryview(self._data)
        return (view[at + 8 : min(end, len(view))] for name, at, end in chunks_of(self._data) if name == b"IDAT")

    def _rows(self, top: int, bottom: int) -> NDArray[Any]:
        if top < self._next:
            self._restart()
        step = max(1, _BAND_BYTES // self._row_bytes)
        while self._next < top:
            self._band(min(step, top - self._next))
        return self._band(max(0, bottom - top))

    @property
    def _row_bytes(self) -> int:
        return int(1 + self.shape[1] * self.shape[2] * 2)  # a filter's number comes first

    def _band(self, count: int) -> NDArray[Any]:
        if count == 0:
            return np.empty((0, *self.shape[1:]), self.dtype)
        before = b"\0" + self._before if self._before else b""  # without a filter
        filtered = before + self._unpacked(count * self._row_bytes)
        header = struct.pack(">II", self.shape[1], count + bool(before)) + self._data[24:29]
        pixels = chunk(b"IDAT", zlib.compress(filtered, 0))
        decoded = imagecodecs.png_decode(b"".join([PNG, chunk(b"IHDR", header), pixels, chunk(b"IEND", b"")]))
        rows = decoded.reshape(-1, *self.shape[1:])[-count:]
        self._next += count
        self._before = rows[-1].astype(">u2").tobytes()
        return rows

    def _unpacked(self, count: int) -> bytes:
        """Return the next bytes of the pixels. Raises ValueError when there are fewer."""
        found = bytearray()
        while len(found) < count:
            packed = self._unpacker.unconsumed_tail or next(self._packed, None)
            if packed is None or self._unpacker.eof:
                raise ValueError(f"{count - len(found)} bytes of pixels are missing")
            found += self._unpacker.decompress(packed, count - len(found))
        return bytes(found)
