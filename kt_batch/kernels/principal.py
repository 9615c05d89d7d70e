"""The first level of a search: a patch's principal coordinates, and the length of what they leave out.

With orthonormal directions, <q, x> is the product of the coordinates plus that of the rests, and the latter is at most
|rest_q| * |rest_x| (Cauchy-Schwarz). With the rest's length as one more coordinate both are a single product: read as
it stands it is an upper bound, and with the query's rest scaled down an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kt_batch.kernels.bounds import rounding_slack
from kt_batch.kernels.tiles import LARGE, blocks

LEVEL_WIDTH = 128  # principal coordinates and the rest's length: 127 + 1


@dataclass(frozen=True)
class Basis:
    """What a library's patches are written in: orthonormal `directions` `(D, d)`, and `spread` `(D,)`: how much each
    value of what they leave over spreads (kernels.quantised). Float32."""

    directions: Tensor
    spread: Tensor


def principal_directions(vectors: Tensor, count: int) -> Tensor:
    """The `count` orthonormal directions `(D, count)` that hold most of the mean square of `(n, D)`, strongest first.

    Of at most D. Not centred, since what is bounded is a product and not a distance. The sign of each is such that its
    largest component is positive.
    """
    moments = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64, device=vectors.device)
    for _, _, block in blocks(vectors, LARGE):
        moments += (block.T @ block).double()
    found = torch.linalg.eigh(moments).eigenvectors.flip(1)[:, :count]
    largest = found.gather(0, found.abs().argmax(0, keepdim=True))
    turned: Tensor = (found * largest.sign()).float().contiguous()
    return turned


def further_directions(vectors: Tensor, directions: Tensor, count: int) -> Tensor:
    """Orthonormal directions `(D, e)`, e = min(count, D - d), at right angles to `directions` `(D, d)`: those that hold
    most of what these leave of `(n, D)`."""
    count = min(count, len(directions) - directions.shape[1])
    rest = vectors - vectors @ directions @ directions.T
    # A rest of few dimensions leaves some to chance, which need not be at right angles; the decomposition sees to it.
    both = torch.cat([directions, principal_directions(rest, count)], dim=1).double()
    beside: Tensor = torch.linalg.qr(both).Q[:, directions.shape[1] :].float().contiguous()
    return beside


def first_level(vectors: Tensor, directions: Tensor) -> Tensor:
    """`(n, D)` vectors and `(D, d)` directions -> `(n, d + 1)` float32: the coordinates, then the length of the rest.

    Vectors are unit or zero. The rest is the root of a difference of squares, and is never too short: what rounding may
    take from the difference is added to it.
    """
    slack = 2 * rounding_slack(vectors.shape[1])
    out = torch.empty(len(vectors), directions.shape[1] + 1, device=vectors.device)
    for start, count, block in blocks(vectors):
        coordinates = block @ directions
        rest = block.square().sum(1) - coordinates.square().sum(1)
        out[start : start + count, :-1] = coordinates[:count]
        out[start : start + count, -1] = rest.clamp_(min=0).add_(slack).sqrt_()[:count]
    return out


def first_level_of(coordinates: Tensor, has_rest: Tensor) -> Tensor:
    """Coordinates `(n, d)` float16 -> first level `(n, d + 1)` float32 of the unit vectors that have them, exactly.

    The length of the rest follows from them, is never too short, and 0 where `has_rest` `(n,)` is False.
    """
    exact = coordinates.double()
    rest = (1 - exact.square().sum(1, keepdim=True)).clamp(min=0).sqrt() * has_rest[:, None]
    return torch.cat([exact, rest * (1 + 2.0**-20)], dim=1).float()


def stored_first_level(level: Tensor) -> Tensor:
    """`first_level` as it is stored: `(n, d + 1)` float16, the length of the rest rounded up."""
    stored = level.half()
    rest = stored[:, -1].cpu().numpy()
    up = torch.from_numpy(np.nextafter(rest, np.float16(np.inf))).to(level.device)
    stored[:, -1] = torch.where(stored[:, -1].float() < level[:, -1], up, stored[:, -1])
    return stored


def halved(level: Tensor) -> Tensor:
    """`(n, d + 1)` first level -> `(n, (d + 1) // 2 + 1)`: the stronger half of the coordinates, and the length of all
    that is then the rest, again never too short."""
    half = level.shape[1] // 2
    rest = level[:, half:].square().sum(1, keepdim=True).sqrt() * (1 + 2.0**-20)
    return torch.cat([level[:, :half], rest], dim=1)


def other_half(level: Tensor, short: Tensor, side: int) -> Tensor:
    """What makes a product of two `halved` levels `short` that of the levels: its own product is to be added.

    side: 1 for queries, -1 for patches; the bound of the rest that `short` has is taken back.
    """
    return torch.cat([level[:, short.shape[1] - 1 :], side * short[:, -1:]], dim=1)


def bound_correction(level: Tensor, further: Tensor, slack: float, side: int) -> Tensor:
    """What makes a product of two first levels `(n, d + 1)` that of levels with coordinates `further` `(n, e)` along
    directions beside theirs: its own product is to be added. As `other_half`; `(n, e + 2)`.

    slack: what rounding may take from the square of the length of what is then the rest.
    """
    rest = level[:, -1:].square() - further.square().sum(1, keepdim=True)
    return torch.cat([further, rest.clamp_(min=0).add_(slack).sqrt_(), side * level[:, -1:]], dim=1)
