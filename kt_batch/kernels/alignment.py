"""Compare two pictures: are they one picture before and after an edit of its tones, not cropped, turned or shifted?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kt_batch.kernels.descriptors import LUMA

RADIUS = 6  # pixels; the neighbourhood in which contrast is made even
LEAST_CONTRAST = 0.02  # contrast below this counts as noise
BLOCKS = 3  # to a side
LEAST_DETAIL = 0.05  # mean square of the structure of a block that says something about a shift
LEAST_LIKENESS = 0.3  # of two blocks that show one thing
TOLERANCE = 2  # pixels of shift

Plane = NDArray[np.float64]


class Alignment(NamedTuple):
    """How two pictures of one size fit.

    likeness: Correlation of their structure where the shift of each block is undone, -1..1; 1 for pictures without
    structure. shifts: Shift of each block that shows one thing, in pixels, the larger of across and down. blocks: How
    many blocks have detail before or after.
    """

    likeness: float
    shifts: tuple[int, ...]
    blocks: int

    @property
    def one_picture(self) -> bool:
        """Tell whether both show one thing, wherever it lies."""
        return self.likeness >= LEAST_LIKENESS

    @property
    def aligned(self) -> bool:
        """Tell whether at most a third of the blocks is shifted by more than the tolerance."""
        return 3 * sum(shift > TOLERANCE for shift in self.shifts) <= len(self.shifts)


def align(before: NDArray[np.float32], after: NDArray[np.float32]) -> Alignment:
    """Compare two pictures `(H, W, 3)` of one size, sRGB in [0, 1], block by block.

    Structure is luminance with its local mean removed and its local contrast made even, so an edit of tones leaves it
    nearly as it is. The shift of a block is where the phase correlation of both has its maximum (Kuglin and Hines,
    1975).
    """
    first, second = structure(before), structure(after)
    height, width = first.shape
    likenesses: list[float] = []
    weights: list[float] = []
    shifts: list[int] = []
    for rows in np.array_split(np.arange(height), BLOCKS):
        for columns in np.array_split(np.arange(width), BLOCKS):
            if not len(rows) or not len(columns):
                continue
            part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            one, other = first[part], second[part]
            if max(np.mean(one * one), np.mean(other * other)) < LEAST_DETAIL:
                continue
            down, across = phase_shift(one, other)
            likeness = _correlation(one, other, down, across)
            likenesses.append(likeness)
            weights.append(float(max(np.mean(one * one), np.mean(other * other))))
            if likeness >= LEAST_LIKENESS:
                shifts.append(max(abs(down), abs(across)))
    whole = float(np.average(likenesses, weights=weights)) if likenesses else 1.0
    return Alignment(whole, tuple(shifts), len(likenesses))


def structure(pixels: NDArray[np.float32]) -> Plane:
    """Return the structure `(H, W)` of a picture `(H, W, 3)`: about -1..1, of unit variance where there is detail."""
    luminance = pixels.astype(np.float64) @ LUMA
    mean = _box_mean(luminance)
    spread = np.sqrt(np.maximum(_box_mean(luminance * luminance) - mean * mean, 0.0))
    found: Plane = (luminance - mean) / (spread + LEAST_CONTRAST)
    return found


def phase_shift(one: Plane, other: Plane) -> tuple[int, int]:
    """Return by how many pixels (down, across) the second plane is shifted against the first of the same shape."""
    window = np.outer(np.hanning(one.shape[0] + 2)[1:-1], np.hanning(one.shape[1] + 2)[1:-1])
    spectrum = np.fft.rfft2(other * window) * np.conj(np.fft.rfft2(one * window))
    peaks = np.fft.irfft2(spectrum / (np.abs(spectrum) + 1e-9), s=one.shape)
    down, across = np.unravel_index(int(np.argmax(peaks)), peaks.shape)
    return _signed(int(down), one.shape[0]), _signed(int(across), one.shape[1])


def _signed(place: int, length: int) -> int:
    return place - length if place > length // 2 else place


def _correlation(one: Plane, other: Plane, down: int, across: int) -> float:
    """Return the correlation of two planes where the second, shifted back, lies over the first."""
    height, width = one.shape
    here = one[max(0, -down) : height - max(0, down), max(0, -across) : width - max(0, across)]
    there = other[max(0, down) : height - max(0, -down), max(0, across) : width - max(0, -across)]
    scale = np.sqrt(np.sum(here * here) * np.sum(there * there))
    return float(np.sum(here * there) / scale) if scale > 0 else 0.0


def _box_mean(plane: Plane) -> Plane:
    """Return the mean over the neighbourhood of each pixel; at the border, over what of it lies in the picture."""
    for axis in (0, 1):
        length = plane.shape[axis]
        sums = np.concatenate([np.zeros_like(plane.take([0], axis)), np.cumsum(plane, axis)], axis)
        ends = np.minimum(np.arange(length) + RADIUS + 1, length)
        starts = np.maximum(np.arange(length) - RADIUS, 0)
        counts = (ends - starts).reshape((-1, 1) if axis == 0 else (1, -1))
        plane = (sums.take(ends, axis) - sums.take(starts, axis)) / counts
    return plane
