"""What an edit turns black or white, by hand."""

from __future__ import annotations

import numpy as np

from kt_batch.kernels.clipping import newly_clipped


def greys(*values: float) -> np.ndarray:
    return np.repeat(np.array(values, np.float32)[None, :, None], 3, axis=2)


def test_the_larger_of_both_shares_counts() -> None:
    before = greys(0.1, 0.2, 0.5, 0.9)
    assert newly_clipped(before, greys(0.0, 0.0, 0.5, 1.0)) == 0.5
    assert newly_clipped(before, greys(0.1, 0.2, 0.5, 1.2)) == 0.25


def test_what_was_black_or_white_before_does_not_count() -> None:
    before = greys(0.0, 0.05, 0.95, 1.0)
    assert newly_clipped(before, greys(0.0, 0.0, 1.0, 1.0)) == 0.0


def test_an_unchanged_picture_clips_nothing() -> None:
    assert newly_clipped(greys(0.3, 0.6), greys(0.3, 0.6)) == 0.0
