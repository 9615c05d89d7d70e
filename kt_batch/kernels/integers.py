"""Vectors in 8-bit integers, whose products bound the products of the vectors at little cost.

A vector is s i + e: a step s, integers i from -127 to 127, and the rounding error e. For a query q and a patch x

    <q, x> = s_q s_x <i_q, i_x> + <s_q i_q, e_x> + <e_q, x>  <=  s_q s_x <i_q, i_x> + |s_q i_q| |e_x| + |e_q| |x|

and the product of the integers is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 127  # and -127 is the smallest
INT32 = 2**31 - 1
PART = 16384  # vectors converted to float64 at a time


@dataclass(frozen=True)
class Queries:
    """n queries, each with its own step.

    values: `(n, e)` int8.
    steps: `(n,)` float64.
    lengths: lengths of the vectors that the integers stand for, `(n,)` float64.
    errors: lengths of the rounding errors, `(n,)` float64.
    """

    values: Tensor
    steps: Tensor
    lengths: Tensor
    errors: Tensor


@dataclass(frozen=True)
class Patches:
    """c patches with one step: `values` `(c, e)` int8, the largest length, and the largest rounding error's length."""

    values: Tensor
    step: float
    length: float
    error: float


def round_queries(x: Tensor) -> Queries:
    """Round float vectors `(n, e)`, each to its own step."""
    parts = [_round_queries(part) for part in x.split(PART)]
    return Queries(*(torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def _round_queries(x: Tensor) -> Queries:
    exact = x.double()
    steps = _step(exact.abs().amax(1))
    values = (exact / steps[:, None]).round_()
    kept = values * steps[:, None]
    return Queries(values.to(torch.int8), steps, kept.norm(dim=1), (exact - kept).norm(dim=1))


def round_patches(x: Tensor) -> Patches:
    """Round float vectors `(c, e)` to one step, c >= 1."""
    exact = x.double()
    step = _step(exact.abs().max())
    values = (exact / step).round_()
    error = (exact - values * step).norm(dim=1).max()
    return Patches(values.to(torch.int8), float(step), float(exact.norm(dim=1).max()), float(error))


def _step(largest: Tensor) -> Tensor:
    return largest.clamp(min=1e-30) / LARGEST


def least_products(queries: Queries, patches: Patches, least: Tensor) -> Tensor:
    """Return the integer products that queries need: with a smaller one, the true product is below `least`.

    Args:
        queries: n queries.
        patches: The patches they are multiplied with.
        least: True products to be reached, `(n,)`.

    Returns:
        `(n,)` int32.
    """
    lost = queries.lengths * patches.error + queries.errors * patches.length
    needed = (least.double() - lost) / (queries.steps * patches.step)
    return (needed.floor() - 1).clamp(-INT32, INT32).int()  # 1 exceeds the rounding error of float64


def has_integer_products() -> bool:
    """Return whether this torch has the function that `integer_products` calls."""
    return hasattr(torch, "_int_mm")


def integer_products(queries: Tensor, patches: Tensor) -> Tensor:
    """Multiply 8-bit integers: `(n, e)` and `(c, e)` int8 -> `(n, c)` int32.

    This is the only use of `torch._int_mm`, a private function: torch has no public one for integers. The products are
    exact where `models.precision.quick_integers` says so.
    """
    products: Tensor = torch._int_mm(queries, patches.T)  # noqa: SLF001 - see above
    return products
