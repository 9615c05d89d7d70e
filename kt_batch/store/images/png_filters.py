"""The filters of PNG, chosen row by row. Source: PNG specification, third edition, section 9 and 12.7."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def filtered(rows: Bytes, before: Bytes | None, pixel: int) -> bytes:
    """Return rows of bytes with the number of a filter in front of each, as they are packed.

    Of the filters None, Sub, Up and Paeth, each row gets the one whose differences have the smallest sum of absolute
    values, the first one of equals.

    Args:
        rows: (rows, bytes), at least one row.
        before: The row above them; None for the first rows of an image.
        pixel: Bytes of a pixel.
    """
    above = np.empty_like(rows)
    above[0] = 0 if before is None else before
    above[1:] = rows[:-1]
    left, corner = _shifted(rows, pixel), _shifted(above, pixel)
    candidates = np.stack([rows, rows - left, rows - above, rows - _paeth(left, above, corner)])
    sums = np.abs(candidates.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
    best = sums.argmin(axis=0)
    numbers = np.array([0, 1, 2, 4], np.uint8)[best]
    chosen = candidates[best, np.arange(len(rows))]
    return np.concatenate([numbers[:, None], chosen], axis=1).tobytes()


def _shifted(rows: Bytes, pixel: int) -> Bytes:
    """Return the bytes of the pixels to the left; 0 at the edge."""
    shifted = np.zeros_like(rows)
    shifted[:, pixel:] = rows[:, :-pixel]
    return shifted


def _paeth(left: Bytes, above: Bytes, corner: Bytes) -> Bytes:
    """Return of left, above and corner the nearest to left + above - corner, in this order of preference."""
    a, b, c = (side.astype(np.int16) for side in (left, above, corner))
    from_left, from_above, from_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    near_above = np.where(from_above <= from_corner, above, corner)
    return np.where((from_left <= from_above) & (from_left <= from_corner), left, near_above)
