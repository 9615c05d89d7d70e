"""The first level of a search: a patch's principal coordinates, and the length of its rest.

The rest is what the coordinates leave of the vector. With orthonormal directions, <q, x> is the product of the
coordinates plus the product of the rests, which is at most |rest_q| * |rest_x| (Cauchy-Schwarz). The rest's length is
one more coordinate, so that one product of first levels is an upper bound of <q, x>; with the query's rest scaled down
it is an estimate.
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
    """The basis in which a library's patches are written, float32.

    directions: orthonormal, `(D, d)`.
    spread: root mean square of each value of the patches' rests, scaled to unit length, `(D,)` (kernels.quantised).
    """

    directions: Tensor
    spread: Tensor


def principal_directions(vectors: Tensor, count: int) -> Tensor:
    """Return the principal directions of vectors `(n, D)`: orthonormal `(D, count)`, strongest first, count <= D.

    Vectors are not centred, since a product is bounded and not a distance. The largest component of each direction is
    positive.
    """
    moments = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64, device=vectors.device)
    for _, _, block in blocks(vectors, LARGE):
        moments += (block.T @ block).double()
    eigenvectors = torch.linalg.eigh(moments).eigenvectors.flip(1)[:, :count]
    largest = eigenvectors.gather(0, eigenvectors.abs().argmax(0, keepdim=True))
    turned: Tensor = (eigenvectors * largest.sign()).float().contiguous()
    return turned


def further_directions(vectors: Tensor, directions: Tensor, count: int) -> Tensor:
    """Return the principal directions `(D, e)` of the rests of vectors `(n, D)`, e = min(count, D - d).

    They are orthonormal, and orthogonal to `directions` `(D, d)`.
    """
    count = min(count, len(directions) - directions.shape[1])
    rest = vectors - vectors @ directions @ directions.T
    # Where rests have fewer dimensions than count, some directions are arbitrary; QR makes them orthogonal.
    both = torch.cat([directions, principal_directions(rest, count)], dim=1).double()
    further: Tensor = torch.linalg.qr(both).Q[:, directions.shape[1] :].float().contiguous()
    return further


def first_level(vectors: Tensor, directions: Tensor) -> Tensor:
    """Return first levels `(n, d + 1)` float32: coordinates, then the length of the rest.

    The length is the root of a difference of squares. It is never too short: the largest rounding error of the
    difference is added.

    Args:
        vectors: Unit or zero vectors `(n, D)` float32.
        directions: Orthonormal, `(D, d)` float32.
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
    """Return the first levels `(n, d + 1)` float32 of the unit vectors with exactly these coordinates.

    Args:
        coordinates: `(n, d)` float16.
        has_rest: `(n,)` bool; where it is False the length of the rest is 0. Elsewhere the length follows from the
            coordinates, and is never too short.
    """
    exact = coordinates.double()
    rest = (1 - exact.square().sum(1, keepdim=True)).clamp(min=0).sqrt() * has_rest[:, None]
    return torch.cat([exact, rest * (1 + 2.0**-20)], dim=1).float()


def stored_first_level(level: Tensor) -> Tensor:
    """Return first levels `(n, d + 1)` as they are stored: float16, the length of the rest rounded up."""
    stored = level.half()
    rest = stored[:, -1].cpu().numpy()
    up = torch.from_numpy(np.nextafter(rest, np.float16(np.inf))).to(level.device)
    stored[:, -1] = torch.where(stored[:, -1].float() < level[:, -1], up, stored[:, -1])
    return stored


def halved(level: Tensor) -> Tensor:
    """Return shorter first levels, of the stronger half of the coordinates: `(n, d + 1)` -> `(n, (d + 1) // 2 + 1)`.

    The length of the rest is that of all other values, and is never too short.
    """
    half = level.shape[1] // 2
    rest = level[:, half:].square().sum(1, keepdim=True).sqrt() * (1 + 2.0**-20)
    return torch.cat([level[:, :half], rest], dim=1)


def other_half(level: Tensor, short: Tensor, side: int) -> Tensor:
    """Return the vectors whose product, added to the product of two `halved` levels, gives that of the levels.

    Args:
        level: First levels `(n, d + 1)`.
        short: Their halves `(n, (d + 1) // 2 + 1)`.
        side: 1 for queries, -1 for patches; the product of the rests in `short` is subtracted.
    """
    return torch.cat([level[:, short.shape[1] - 1 :], side * short[:, -1:]], dim=1)


def bound_correction(level: Tensor, further: Tensor, slack: float, side: int) -> Tensor:
    """Return the vectors `(n, e + 2)` whose product, added to that of two first levels, gives a tighter bound.

    The tighter bound is that of first levels with e more coordinates.

    Args:
        level: First levels `(n, d + 1)`.
        further: Coordinates `(n, e)` along directions orthogonal to those of `level`.
        slack: The largest rounding error of the squared length of the remaining rest.
        side: 1 for queries, -1 for patches; the product of the rests in `level` is subtracted.
    """
    rest = level[:, -1:].square() - further.square().sum(1, keepdim=True)
    return torch.cat([further, rest.clamp_(min=0).add_(slack).sqrt_(), side * level[:, -1:]], dim=1)
