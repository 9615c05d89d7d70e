"""The rows of a TIFF, decoded strip by strip or tile by tile as they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import COMPRESSION

from kt_batch.store.images.file_bytes import Data, opened
from kt_batch.store.images.headers import bytes_of_segment, check_bytes

_STRIP_OFFSETS = 273
_JPEG = frozenset({COMPRESSION.OJPEG, COMPRESSION.JPEG, COMPRESSION.JPEG_LOSSY, COMPRESSION.ALT_JPEG})
_WITH_OWN_HEADERS = tifffile.TIFF.IMAGE_COMPRESSIONS | {COMPRESSION.LERC, COMPRESSION.WEBP_DEPRECATED}


class TiffRows:
    """The samples of a page, `(height, width, samples)` in the page's dtype; a slice of rows is an array.

    Only the strips or tiles of the last rows are kept. Those that the file lacks are zero, or its stated value for no
    data.
    """

    def __init__(self, page: tifffile.TiffPage, data: Data) -> None:
        self._file = tifffile.TiffFile(opened(data), is_lsm=False)  # its own: the caller closes the other
        self._page = self._file.pages.first
        self._data = data
        self.dtype = np.dtype(page.dtype)
        self.shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
        self._planes = page.samplesperpixel if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE else 1
        self._segment_rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
        self._across = -(-page.imagewidth // page.tilewidth) if page.is_tiled else 1
        self._down = -(-page.imagelength // self._segment_rows)
        self._whole: NDArray[Any] | None = None
        self._kept: dict[int, tuple[NDArray[Any], int, int]] = {}

    def __getitem__(self, part: slice) -> NDArray[Any]:
        """Return the rows of a slice whose step is 1."""
        top, bottom, _ = part.indices(self.shape[0])
        if top >= bottom:
            return np.empty((0, *self.shape[1:]), self.dtype)
        if self._is_plain():
            return self._plain(top, bottom)
        if self._is_read_whole():
            if self._whole is None:
                self._whole = _with_samples_last(self._page.asarray(maxworkers=1), self.shape)
            return self._whole[top:bottom]
        rows = np.full((bottom - top, *self.shape[1:]), self._page.nodata, self.dtype)
        last = (bottom - 1) // self._segment_rows
        for row in range(top // self._segment_rows, last + 1):
            self._copy(row, top, rows)
        self._kept = {number: kept for number, kept in self._kept.items() if self._row_of(number) == last}
        return rows

    def _is_plain(self) -> bool:
        """Tell whether the samples lie in the file one after the other, as in an array, to the last one."""
        page = self._page
        return bool(page.is_final and page.dataoffsets[0] + page.nbytes <= len(self._data))

    def _is_read_whole(self) -> bool:
        """Tell whether tifffile reads a page as one block: plain samples with a predictor, or one JPEG called tiles."""
        page = self._page
        one_jpeg = page.is_tiled and page.jpegheader is not None and _STRIP_OFFSETS in page.tags
        return bool(page.is_contiguous or one_jpeg)

    def _plain(self, top: int, bottom: int) -> NDArray[Any]:
        dtype = self.dtype.newbyteorder(self._file.byteorder)
        size = self.shape[1] * (self.shape[2] // self._planes) * dtype.itemsize  # of a row of a plane
        planes = []
        for plane in range(self._planes):
            start = self._page.dataoffsets[0] + (plane * self.shape[0] + top) * size
            flat = np.frombuffer(self._data[start : start + (bottom - top) * size], dtype)
            planes.append(flat.reshape((bottom - top), self.shape[1], -1))
        rows = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        return rows.astype(self.dtype, copy=False)

    def _row_of(self, number: int) -> int:
        return number % (self._across * self._down) // self._across

    def _copy(self, row: int, top: int, rows: NDArray[Any]) -> None:
        """Copy the segments of a row of tiles, or a strip, to where they belong in the rows from `top`."""
        channels = self.shape[2] // self._planes
        for plane in range(self._planes):
            for column in range(self._across):
                number = (plane * self._down + row) * self._across + column
                found = self._segment(number)
                if found is None:
                    continue
                segment, start, left = found
                begin, end = max(start, top), min(start + len(segment), top + len(rows))
                target = rows[begin - top : end - top, left : left + segment.shape[1]]
                target[..., plane * channels : (plane + 1) * channels] = segment[begin - start : end - start]

    def _segment(self, number: int) -> tuple[NDArray[Any], int, int] | None:
        """Return the samples of a strip or tile, cut at the image's edges, its first row and its first column."""
        if number in self._kept:
            return self._kept[number]
        page = self._page
        if number >= len(page.dataoffsets) or not page.databytecounts[number]:
            return None
        start, count = page.dataoffsets[number], page.databytecounts[number]
        packed = self._data[start : start + count]
        if page.compression in _WITH_OWN_HEADERS:
            check_bytes(bytes_of_segment(packed), count)
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in _JPEG else {}
        decoded, place, shape = page.decode(packed, number, _fullsize=False, **tables)
        if decoded is None:
            return None
        _, _, first, left, _ = place
        height, width = min(shape[1], self.shape[0] - first), min(shape[2], self.shape[1] - left)
        found = decoded[0, :height, :width], first, left
        self._kept[number] = found
        return found


def _with_samples_last(samples: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
    if samples.ndim == 3 and samples.shape != shape:  # separate planes
        samples = np.moveaxis(samples, 0, -1)
    return samples.reshape(shape)
