"""How much of a picture an edit turns black or white."""

from __future__ import annotations

import numpy as np

from kt_batch.kernels.descriptors import LUMA

EDGE = 1 / 255  # distance from black and white below which nothing is left
SEEN = 0.06  # distance from black and white above which something was seen


def newly_clipped(before: np.ndarray, after: np.ndarray) -> float:
    """Return the share of pixels that were visibly not black and are now, or the same of white: the larger one.

    Args:
        before: Pixels `(..., 3)` sRGB of a picture.
        after: The same pixels after the edit; values outside [0, 1] are clipped, as a file clips them.
    """
    # Not a matrix product: its bytes may depend on the number of threads.
    first, second = (
        np.einsum("nc,c->n", np.clip(pixels, 0, 1).reshape(-1, 3).astype(np.float64), LUMA)
        for pixels in (before, after)
    )
    black = (first > SEEN) & (second < EDGE)
    white = (first < 1 - SEEN) & (second > 1 - EDGE)
    return float(max(black.mean(), white.mean())) if len(first) else 0.0
