"""How unlike two photographs are, by their descriptors."""

from __future__ import annotations

import numpy as np

# Deviation of each descriptor over photographs of many kinds, taken at exposures from -1.5 to +1 stops.
DEVIATIONS = np.array(
    [
        *(0.08, 0.10, 0.12, 0.14, 0.17, 0.18, 0.18, 0.18, 0.16),  # percentiles of luminance
        *(0.14, 0.06, 0.39, 0.25, 0.32, 0.18, 0.30, 0.63, 0.16, 0.13),  # its mean, deviation, logarithms, shares
        *(0.08, 0.11, 0.22, 0.26, 0.14, 0.10, 0.19, 0.17, 0.26, 0.21, 0.08, 0.17),  # colours
        *(0.05, 0.20),  # places
    ]
)
TONES, COLOURS = slice(0, 19), slice(19, 31)
ALIKE = 0.45  # distance up to which photographs of one moment are alike (docs/decisions/0033)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return how far apart two photographs are in their tones or in their colours, whichever is more.

    Each is the root mean square of the differences of the descriptors, in their deviations. Places count for nothing:
    they change with the crop.

    Args:
        one: Descriptors `(33,)`.
        other: Descriptors `(33,)`.
    """
    return float(distances(one[None], other)[0])


def distances(several: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the `distance` `(n,)` of each of several photographs `(n, 33)` from another one `(33,)`."""
    squares = ((several - other) / DEVIATIONS) ** 2
    tones, colours = squares[:, TONES].mean(axis=1), squares[:, COLOURS].mean(axis=1)
    found: np.ndarray = np.sqrt(np.maximum(tones, colours))
    return found
