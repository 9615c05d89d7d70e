"""Vectors in fixed point, whose float32 products are exact: no order of the sum changes them.

A value is rounded to a multiple of STEP. Every partial sum of a product is then a multiple of STEP^2 = 2^-24. Where it
is below 1, float32 holds it exactly, so that a product depends on its two vectors alone: not on the shape of the
matrices that it is computed in, the library that multiplies, the threads or the processor.

By the inequality of Cauchy and Schwarz a partial sum is at most the product of the lengths of two vectors. A stored
first level is at most 1.001 long, for its rest is rounded up. Rounding adds sqrt(128) STEP / 2 = .0014 to each length.
Queries are therefore made shorter by SHRINK before they are rounded.
"""

from __future__ import annotations

from torch import Tensor

STEP = 2.0**-12
SHRINK = 1 - 2.0**-7  # (SHRINK + .0014) * (1.001 + .0014) is below 1
_TO_STEPS = 1.5 * 2.0**11  # float32 numbers near it are STEP apart


def round_(x: Tensor) -> Tensor:
    """Round float32 values, below 1000 in magnitude, to the nearest multiples of STEP in place, and return them."""
    return x.add_(_TO_STEPS).sub_(_TO_STEPS)


def rounded_queries(x: Tensor) -> Tensor:
    """Return queries `(n, e)` float32, of length at most 1, in fixed point; products with them are SHRINK too small."""
    return round_(x * SHRINK)
