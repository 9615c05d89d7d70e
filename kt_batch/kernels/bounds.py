"""Upper bounds of a score, each with the rounding it must allow for."""

from __future__ import annotations

import torch
from torch import Tensor

FORMULA_SLACK = 2.0**-20  # for the few float32 operations of a formula, and for unit vectors that are not quite


def rounding_slack(dim: int) -> float:
    """How far a float32 product of two unit vectors of `dim` values may lie from the true one: dim * 2^-23."""
    return dim * 2.0**-23


def radius_bound(centre_cosine: Tensor, radius_cosine: Tensor, slack: float) -> Tensor:
    """The largest cosine a query can have with any member of a leaf: cos(max(0, angle(q, centre) - radius)).

    centre_cosine `(n, leaves)`, each within `slack` of the true one; radius_cosine `(leaves,)` = cosine of the angle of
    the farthest member, not rounded up. Returns `(n, leaves)`.

    The slack goes in before the formula: near -1 a cosine's rounding error would come out as its square root. By the
    subtraction formula, without an arc cosine; (1 - c)(1 + c) does not cancel where 1 - c^2 would.
    """
    cosine = (centre_cosine + slack).clamp(-1, 1)
    radius = radius_cosine.clamp(-1, 1)
    outside = cosine * radius + ((1 - cosine) * (1 + cosine)).sqrt() * ((1 - radius) * (1 + radius)).sqrt()
    return torch.where(cosine >= radius, torch.ones_like(cosine), outside) + FORMULA_SLACK


def first_level_slack(dim: int) -> float:
    """How far the bound that kernels.principal makes of two unit vectors of `dim` values may lie below the true score.

    Coordinates are stored as float16 (half an ulp of each: 2^-11 of the product of two vectors of length <= 1), the
    directions are orthonormal to about 2^-18, and two float32 products of at most `dim` values come on top.
    """
    return 2.0**-11 + 2.0**-18 + 2 * rounding_slack(dim)
