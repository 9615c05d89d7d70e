"""Pairs that show one photograph: several edits of it, copies of its file, or one edit of several files."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# Copies of 80 photographs, as JPEG of quality 75 or at 0.9 of their size, differ by at most 0.0075; the nearest of
# 400 different photographs by 0.029.
SAME_BEFORE = 0.01  # root mean square difference of descriptors
SAME_AFTER = 1e-4  # root mean square difference of the means and mean squares of the channels
FEWEST = 3  # photographs below which a fit learns little more than one map for all


def find_photographs(descriptors: np.ndarray, cross: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Return the photograph that each pair shows, `(N,)` int64: the position of the first pair that shows it.

    Two pairs show one photograph where their pictures before are nearly equal in their descriptors, or their pictures
    after in the moments of their colours. Pairs that show one photograph with a third pair belong together, too.

    Args:
        descriptors: Of the pictures before, `(N, 33)`.
        cross: As in `Moments`, `(N, 10, 3)`; its first row is the mean of the picture after.
        power: As in `Moments`, `(N, 3)`.
    """
    first = list(range(len(descriptors)))

    def root(position: int) -> int:
        while first[position] != position:
            position = first[position]
        return position

    for values, most in ((descriptors, SAME_BEFORE), (np.concatenate([cross[:, 0], power], axis=1), SAME_AFTER)):
        for one, other in near_rows(values, most * values.shape[1] ** 0.5):
            low, high = sorted((root(one), root(other)))
            first[high] = low
    return np.array([root(position) for position in range(len(first))], dtype=np.int64)


def near_rows(values: np.ndarray, reach: float) -> Iterator[tuple[int, int]]:
    """Yield positions of two rows `(N, d)` whose distance is at most `reach`; of equal rows, each with the first.

    Rows are compared where they are near in the two widest columns, which takes seconds for 100,000 of them.
    """
    rows, firsts, places = np.unique(values, axis=0, return_index=True, return_inverse=True)
    for position, place in enumerate(places.ravel().tolist()):
        if firsts[place] != position:
            yield int(firsts[place]), position
    widest = np.argsort(-rows.std(0), kind="stable")[:2]
    order = np.argsort(rows[:, widest[0]], kind="stable")
    rows, firsts = rows[order], firsts[order]
    column, second = rows[:, widest[0]].copy(), rows[:, widest[1]].copy()
    ends = np.searchsorted(column, column + reach, side="right")
    for place, end in enumerate(ends.tolist()):
        near = place + 1 + np.flatnonzero(np.abs(second[place + 1 : end] - second[place]) <= reach)
        near = near[((rows[near] - rows[place]) ** 2).sum(1) <= reach**2]
        yield from ((int(firsts[place]), int(firsts[other])) for other in near)


def few_photographs(count: int) -> str | None:
    """Return a warning for pairs of so many photographs; None where they are enough to learn from."""
    if count >= FEWEST:
        return None
    shown = "1 photograph is" if count == 1 else f"{count} photographs are"
    return (
        f"{shown} too few to learn from: every other photograph gets nearly the same edit; add pairs, "
        "20 or more of different scenes."
    )
