"""A patch in fewer bits: its principal coordinates as they are, and 4 bits for each value of the rest.

A unit vector is written as v = R c + s (z - R R^T z): c its coordinates along the directions R, float16 rounded towards
zero, so that |c| <= 1; z what a code of 4 bits per value stands for (a uniform step) times how much that value spreads
over the library; s the gain that makes v a unit vector again. What z has along R is taken out of it, so that c alone
says where v lies along R, and sqrt(1 - |c|^2) is exactly how long its rest is: the bounds of kernels.principal hold.

    <q, v> = <R^T q, c> + s <q - R R^T q, z>

needs no v. Against float16 .001 (kt-vgg's relu3_1) to .003 (VGG-19's) of a patch's energy is lost.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kt_batch.kernels.principal import LEVEL_WIDTH, Basis, principal_directions
from kt_batch.kernels.tiles import LARGE, blocks, unit

STEP = 0.44  # between two codes, in spreads: the least error for the rests of VGG-19's and kt-vgg's relu3_1
MIDDLE = 7.5  # codes are 0 to 15
LEAST_VALUES = 4  # times the directions: patches of fewer values stay as they are


def fit_basis(vectors: Tensor) -> Basis:
    """The basis for a library of which `(n, D)` unit vectors are a sample. The spread is that of rests of length 1."""
    directions = principal_directions(vectors, LEVEL_WIDTH - 1)
    total = torch.zeros(vectors.shape[1], dtype=torch.float64)
    for _, _, block in blocks(vectors, LARGE):
        total += unit(block - block @ directions @ directions.T).double().square().sum(0)
    return Basis(directions, (total / max(1, len(vectors))).sqrt().clamp(min=1e-6).float())


def quantise(vectors: Tensor, basis: Basis) -> tuple[Tensor, Tensor, Tensor]:
    """Unit (or zero) vectors `(n, D)`, D even -> coordinates `(n, d)` float16, codes `(n, D / 2)` uint8, the first half
    of the values in the low bits, and gains `(n,)` float32, 0 for a zero vector."""
    parts = [_quantise_block(block, basis, count) for _, count, block in blocks(vectors, LARGE)]
    return tuple(torch.cat([part[i] for part in parts]) for i in range(3))  # type: ignore[return-value]


def _quantise_block(block: Tensor, basis: Basis, count: int) -> tuple[Tensor, Tensor, Tensor]:
    directions, spread = basis.directions, basis.spread
    coordinates = towards_zero(block @ directions)
    rest = unit(block - coordinates.float() @ directions.T)
    codes = rest.div_(spread * STEP).add_(MIDDLE).round_().clamp_(0, 15).to(torch.uint8)
    codes = codes[:, : len(spread) // 2] | codes[:, len(spread) // 2 :] << 4
    z = decoded(codes) * spread
    left = z - z @ directions @ directions.T
    length = (1 - coordinates.double().square().sum(1)).clamp(min=0).sqrt()
    gains = (length / left.double().square().sum(1).sqrt().clamp(min=1e-12)).float()
    gains[~block.any(1)] = 0
    return coordinates[:count], codes[:count], gains[:count]


def towards_zero(values: Tensor) -> Tensor:
    """Float32 values as float16 that are nowhere larger."""
    halves = values.half()
    smaller = torch.from_numpy(np.nextafter(halves.numpy(), np.float16(0)))
    return torch.where(halves.float().abs() > values.abs(), smaller, halves)


def decoded(codes: Tensor) -> Tensor:
    """Codes `(n, D / 2)` -> `(n, D)` float32: what they stand for, in spreads."""
    return torch.cat([codes & 15, codes >> 4], dim=1).float().sub_(MIDDLE).mul_(STEP)


def dequantise(coordinates: Tensor, codes: Tensor, gains: Tensor, basis: Basis) -> Tensor:
    """What `quantise` made -> unit vectors `(n, D)` float32, in blocks of fixed shape."""
    out = torch.empty(len(codes), basis.directions.shape[0])
    parts = zip(blocks(coordinates), blocks(codes), blocks(gains[:, None]), strict=True)
    for (start, count, c), (_, _, k), (_, _, s) in parts:
        z = decoded(k) * basis.spread * s
        v = z + (c.float() - z @ basis.directions) @ basis.directions.T
        out[start : start + count] = unit(v)[:count]
    return out


def asked(vectors: Tensor, basis: Basis) -> Tensor:
    """Queries `(n, D)` -> `(n, d + 1 + D)`: their coordinates, and what multiplies 1 and every code."""
    parts = []
    for _, count, block in blocks(vectors):
        coordinates = block @ basis.directions
        rest = (block - coordinates @ basis.directions.T) * (basis.spread * STEP)
        parts.append(torch.cat([coordinates, -MIDDLE * rest.sum(1, keepdim=True), rest], dim=1)[:count])
    return torch.cat(parts) if parts else vectors.new_zeros(0, 1 + sum(basis.directions.shape))


def products(queries: Tensor, coordinates: Tensor, codes: Tensor, gains: Tensor) -> Tensor:
    """Float32 scores `(m,)`, pair by pair, of what `asked` made `(m, d + 1 + D)` with quantised vectors."""
    width, half = coordinates.shape[1], codes.shape[1]
    along, one, first, second = queries.split([width, 1, half, half], dim=1)
    rest = (codes & 15).float().mul_(first).sum(1) + (codes >> 4).float().mul_(second).sum(1) + one[:, 0]
    total: Tensor = coordinates.float().mul_(along).sum(1) + gains * rest
    return total
