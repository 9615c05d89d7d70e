"""What rounding may take from a score or a bound of it."""

from __future__ import annotations


def rounding_slack(dim: int) -> float:
    """How far a float32 product of two unit vectors of `dim` values may lie from the true one: dim * 2^-23."""
    return dim * 2.0**-23


def first_level_slack(dim: int) -> float:
    """How far the bound that kernels.principal makes of two unit vectors of `dim` values may lie below the true score.

    Coordinates are stored as float16 (half an ulp of each: 2^-11 of the product of two vectors of length <= 1), the
    directions are orthonormal to about 2^-18, and two float32 products of at most `dim` values come on top.
    """
    return 2.0**-11 + 2.0**-18 + 2 * rounding_slack(dim)


def refined_slack(dim: int) -> float:
    """As `first_level_slack` for a bound with what lies `beyond` (kernels.principal), whose further coordinates are
    float32 products of `dim` values."""
    return first_level_slack(dim) + 2 * rounding_slack(dim)
