"""The sliced Wasserstein distance between two sets of vectors, in units of the spread of the second set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DIRECTIONS = 256  # random unit vectors that a set is projected on
QUANTILES = 512  # equidistant, from LOWEST to 1 - LOWEST
LOWEST = 0.002
MOST_VECTORS = 16_000  # of a set; a larger one is sampled without return
DIRECTION_SEED, SAMPLE_SEED = 0, 1

Curves: TypeAlias = Tensor  # (QUANTILES, DIRECTIONS), the quantiles of a set's projections


def directions(widths: Sequence[int]) -> list[Tensor]:
    """Return DIRECTIONS unit vectors for each width, `(DIRECTIONS, width)`, drawn one width after the other."""
    generator = torch.Generator().manual_seed(DIRECTION_SEED)
    return [F.normalize(torch.randn(DIRECTIONS, width, generator=generator), dim=1) for width in widths]


def sample(count: int) -> Tensor:
    """Return which of `count` vectors are compared: the first MOST_VECTORS of a seeded permutation, int64."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(SAMPLE_SEED))[:MOST_VECTORS]


def quantile_curves(vectors: Tensor, axes: Tensor) -> Curves:
    """Return the quantiles of the projections of vectors `(D, n)` on unit vectors `(DIRECTIONS, D)`.

    Between two projections a quantile is interpolated linearly, as `torch.quantile` does; numpy sorts faster.
    """
    ordered = torch.from_numpy(np.sort((axes @ vectors).numpy(), axis=1))
    ranks = torch.linspace(LOWEST, 1 - LOWEST, QUANTILES) * (ordered.shape[1] - 1)
    below = ranks.floor().long()
    above = (below + 1).clamp(max=ordered.shape[1] - 1)
    return torch.lerp(ordered[:, below], ordered[:, above], ranks - below).T


def distance(curves: Curves, reference: Curves) -> float:
    """Return the mean distance of two sets' quantiles over that of the reference's quantiles from their mean.

    0 for equal sets. 1 is the distance of the reference from a set that has its mean alone. A reference without any
    spread is at distance 0 from its equal and at infinity from others.
    """
    difference = (curves - reference).abs().mean()
    spread = (reference - reference.mean(0)).abs().mean()
    return float(difference / spread) if difference > 0 else 0.0
