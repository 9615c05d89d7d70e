"""Upper bounds of a score, each with the rounding it must allow for."""

from __future__ import annotations

import torch
from torch import Tensor


def rounding_slack(dim: int) -> float:
    """How far a float32 product of two unit vectors of `dim` values may lie from the true one: dim * 2^-23."""
    return dim * 2.0**-23


def radius_bound(centre_cosine: Tensor, radius_cosine: Tensor, slack: float) -> Tensor:
    """The largest cosine a query can have with any member of a leaf: cos(max(0, angle(q, centre) - radius)).

    centre_cosine `(n, leaves)`, radius_cosine `(leaves,)` = cosine of the angle of the farthest member. By the
    subtraction formula, without an arc cosine. Returns `(n, leaves)`.
    """
    cosine = centre_cosine.clamp(-1, 1)
    radius = radius_cosine.clamp(-1, 1)
    outside = cosine * radius + (1 - cosine.square()).sqrt() * (1 - radius.square()).sqrt()
    return torch.where(cosine >= radius, torch.ones_like(cosine), outside) + slack
