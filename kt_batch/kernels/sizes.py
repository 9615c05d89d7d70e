"""The size of a working image, and of its padding."""

from __future__ import annotations


def fit(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Return (width, height) with the longer side reduced to `long_side`.

    Halves round up, no side is below 1, and nothing is enlarged.
    """
    longer = max(width, height)
    if longer <= long_side:
        return width, height
    shorter = max(1, (2 * min(width, height) * long_side + longer) // (2 * longer))
    return (long_side, shorter) if width >= height else (shorter, long_side)


def padded(side: int, stride: int) -> int:
    """Return a side of a working image with its padding: a multiple of `stride`, and at least 2 * stride."""
    return max(2 * stride, -(-side // stride) * stride)
