"""The cells that patches cover, and their moments."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from kt_batch.kernels.moments import Floats64, Moments


def distinct_cells(rows: NDArray[np.int64], cols: NDArray[np.int64], patches: NDArray[np.float16]) -> Floats64:
    """Return the cells of patches, each once, by row and column: (m, C).

    Args:
        rows: (n,) of the top-left cells. cols: (n,).
        cols: (n,) likewise.
        patches: (n, 4, C), cells a b c d in reading order.
    """
    width = int(cols.max()) + 2
    places = (rows[:, None] + [0, 0, 1, 1]) * width + cols[:, None] + [0, 1, 0, 1]
    _, first = np.unique(places, return_index=True)
    return patches.reshape(-1, patches.shape[2])[first].astype(np.float64)


def moments_of(cells: Floats64) -> Moments:
    """Return the moments of cells (n, C), n > 0. torch multiplies, since its threads are part of the numerics class."""
    rows = torch.from_numpy(cells)
    second = (rows.T @ rows).numpy() / len(cells)
    return Moments(len(cells), cells.mean(axis=0), second[np.triu_indices(cells.shape[1])])
