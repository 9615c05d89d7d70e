"""Bounds of the rounding errors of scores and of bounds of scores."""

from __future__ import annotations

COORDINATES = 2.0**-11  # what float16 coordinates may take from the product of two vectors of length at most 1
DIRECTIONS = 2.0**-18  # what directions that are not quite orthonormal may take


def rounding_slack(dim: int) -> float:
    """Return the largest error of a float32 product of two unit vectors of `dim` values: dim * 2^-23."""
    return dim * 2.0**-23


def first_level_slack(dim: int) -> float:
    """Return the largest shortfall of a first-level bound of unit vectors of `dim` values.

    Three errors add up. Coordinates are float16: half an ulp of each is 2^-11 of the product of two vectors of length
    at most 1. Directions are orthonormal to about 2^-18. Two float32 products have at most `dim` terms each.
    """
    return COORDINATES + DIRECTIONS + 2 * rounding_slack(dim)


def refined_slack(dim: int) -> float:
    """Return the slack of a first-level bound with the `bound_correction` of kernels.principal added.

    Its further coordinates are float32 products of `dim` values.
    """
    return first_level_slack(dim) + 2 * rounding_slack(dim)
