"""Vectors as integers of 8 bits, whose products say at little cost which pairs cannot have a large one.

A vector is s i + e: integers i of -127 to 127, a step s, and what rounding leaves over. For a query q and a patch x

    <q, x> = s_q s_x <i_q, i_x> + <s_q i_q, e_x> + <e_q, x>  <=  s_q s_x <i_q, i_x> + |s_q i_q| |e_x| + |e_q| |x|

and the product of integers is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 127  # and -127 the least: as far from zero
INT32 = 2**31 - 1
PART = 16384  # vectors that are made float64 at a time


@dataclass(frozen=True)
class Queries:
    """n queries: `values` `(n, e)` int8, `steps`, and the `lengths` of what the integers stand for and of the `errors`,
    each `(n,)` float64."""

    values: Tensor
    steps: Tensor
    lengths: Tensor
    errors: Tensor


@dataclass(frozen=True)
class Patches:
    """c patches of one step: `values` `(c, e)` int8; the largest `length` of any, and the largest `error`'s."""

    values: Tensor
    step: float
    length: float
    error: float


def queries_of(x: Tensor) -> Queries:
    """Float vectors `(n, e)`, each with a step of its own."""
    parts = [_queries_of(part) for part in x.split(PART)]
    return Queries(*(torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def _queries_of(x: Tensor) -> Queries:
    exact = x.double()
    steps = _step(exact.abs().amax(1))
    values = (exact / steps[:, None]).round_()
    kept = values * steps[:, None]
    return Queries(values.to(torch.int8), steps, kept.norm(dim=1), (exact - kept).norm(dim=1))


def patches_of(x: Tensor) -> Patches:
    """Float vectors `(c, e)`, c >= 1."""
    exact = x.double()
    step = _step(exact.abs().max())
    values = (exact / step).round_()
    error = (exact - values * step).norm(dim=1).max()
    return Patches(values.to(torch.int8), float(step), float(exact.norm(dim=1).max()), float(error))


def _step(largest: Tensor) -> Tensor:
    return largest.clamp(min=1e-30) / LARGEST


def least_products(queries: Queries, patches: Patches, least: Tensor) -> Tensor:
    """`(n,)` int32: with a smaller product of integers the true product of a query with any of the patches is below
    what `least` `(n,)` says."""
    lost = queries.lengths * patches.error + queries.errors * patches.length
    needed = (least.double() - lost) / (queries.steps * patches.step)
    return (needed.floor() - 1).clamp(-INT32, INT32).int()  # 1: more than float64 rounds off


def has_integer_products() -> bool:
    """Return whether this torch has the function that `integer_products` calls."""
    return hasattr(torch, "_int_mm")


def integer_products(queries: Tensor, patches: Tensor) -> Tensor:
    """Multiply 8-bit integers: `(n, e)` and `(c, e)` int8 -> `(n, c)` int32.

    This is the only use of `torch._int_mm`, a private function: torch has no public one for integers. The products are
    exact where `models.precision.quick_integers` says so.
    """
    found: Tensor = torch._int_mm(queries, patches.T)  # noqa: SLF001 - see above
    return found
