"""Mean and second moment of the cells of feature maps, and those of many images together in any order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats64 = NDArray[np.float64]

STEP = 2.0**20  # sums of an image are kept as multiples of 1 / STEP, in two integers of 64 bits
MOST_IMAGES = 2**22  # whose low parts add up without overflow


@dataclass(frozen=True)
class Moments:
    """count: Cells. mean: (C,) of the cells. second: (C (C + 1) / 2,), the upper triangle of the mean of x x^T."""

    count: int
    mean: Floats64
    second: Floats64

    @property
    def channels(self) -> int:
        """Return C."""
        return len(self.mean)

    def matrix(self) -> Floats64:
        """Return the second moment as a symmetric matrix (C, C)."""
        matrix = np.empty((self.channels, self.channels))
        upper = np.triu_indices(self.channels)
        matrix[upper] = self.second
        matrix.T[upper] = self.second
        return matrix

    def deviation(self) -> Floats64:
        """Return the sample deviation of each channel, (C,): with count - 1, and 0 for a single cell."""
        variance = np.clip(np.diagonal(self.matrix()) - self.mean**2, 0.0, None)
        return np.sqrt(variance * (self.count / max(1, self.count - 1)))


class MomentSums:
    """The moments of many images together. Their order has no effect: sums are exact integers.

    An image's sum over its cells is rounded to 1 / STEP, so a moment is off by less than 1e-6 for any image.
    """

    def __init__(self, channels: int) -> None:
        size = channels + channels * (channels + 1) // 2
        self.channels, self.images, self.count = channels, 0, 0
        self._high, self._low = np.zeros(size, np.int64), np.zeros(size, np.int64)

    def add(self, image: Moments) -> None:
        """Add the cells of one image. Raises ValueError for one image too many."""
        if self.images == MOST_IMAGES:
            raise ValueError(f"the sums hold {MOST_IMAGES} images already; no more are allowed")
        sums = np.concatenate([image.mean, image.second]) * image.count
        high = np.floor(sums / STEP)
        self._high += high.astype(np.int64)
        self._low += np.rint((sums - high * STEP) * STEP).astype(np.int64)
        self.images += 1
        self.count += image.count

    def total(self) -> Moments:
        """Return the moments of all cells. Raises ValueError before the first image."""
        if not self.count:
            raise ValueError("there is no cell yet; add an image first")
        sums = (self._high * STEP + self._low / STEP) / self.count
        return Moments(self.count, sums[: self.channels], sums[self.channels :])
