"""Quantised patches: principal coordinates in float16, and 4 or 5 bits for each value of the rest.

A unit vector is written as v = R c + s (z - R R^T z).

    c   coordinates along the directions R, float16 rounded towards zero, so that |c| <= 1
    z   the decoded values: a code of 4 or 5 bits with a uniform step, times the spread of that value in the library
    s   the gain that makes v a unit vector

The part of z along R is removed. Hence c alone gives the coordinates of v, and the length of its rest is exactly
sqrt(1 - |c|^2), so that the bounds of kernels.principal hold. A product needs no decoded v:

    <q, v> = <R^T q, c> + s <q - R R^T q, z>

Against float16, 4 bits lose .001 (kt-vgg's relu3_1) to .003 (VGG-19's) of a patch's energy, and 5 bits about a third of
that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kt_batch.kernels.principal import LEVEL_WIDTH, Basis, principal_directions
from kt_batch.kernels.tiles import BLOCK, LARGE, blocks, normalise, pad_rows

# Keys: bits of a code. Steps are in spreads, near the least error for the rests of VGG-19's relu3_1 (decision 0011).
STEP = {4: 0.44, 5: 0.26}
MIDDLE = {4: 7.5, 5: 15.5}  # codes are 0 to 15 or 31
LEAST_VALUES = 4  # per direction: patches of fewer values are not coded
TERMS = 512  # of a sum that has the same bits on any number of threads


@dataclass(frozen=True)
class Codes:
    """The coded rests of n vectors: 4 bits a value, or 5 with a plane.

    codes: `(n, D / 2)` uint8. The low 4 bits of byte j belong to value j, the high 4 bits to value D / 2 + j.
    gains: `(n,)` float32, 0 for a zero vector.
    plane: `(n, D / 8)` uint8; bit b of byte j is the fifth bit, worth 16, of value b D / 8 + j.
    """

    codes: Tensor
    gains: Tensor
    plane: Tensor | None = None

    @property
    def bits(self) -> int:
        """Bits of a code: 4 or 5."""
        return 4 if self.plane is None else 5

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, without an absent plane."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def part(self, start: int, count: int) -> Codes:
        """Return the codes of `count` vectors from `start` on."""
        return self.each(lambda tensor: tensor[start : start + count])

    def each(self, change: Callable[[Tensor], Tensor]) -> Codes:
        """Return the codes with `change` applied to every tensor."""
        return Codes(**{name: change(tensor) for name, tensor in self.tensors().items()})


def can_code(values: int, directions: int, bits: int) -> bool:
    """Return whether patches are coded: a plane needs whole bytes, and codes of few values save little.

    Args:
        values: Values of a patch, a multiple of 4.
        directions: Directions of the first level.
        bits: Bits of a code, 4 or 5.
    """
    return values >= LEAST_VALUES * directions and (bits == 4 or values % 8 == 0)


def fit_basis(vectors: Tensor) -> Basis:
    """Fit the basis of a library to a sample of unit vectors `(n, D)` float32."""
    directions = principal_directions(vectors, LEVEL_WIDTH - 1)
    total = torch.zeros(vectors.shape[1], dtype=torch.float64, device=vectors.device)
    for _, _, block in blocks(vectors, LARGE):
        total += normalise(block - block @ directions @ directions.T).double().square().sum(0)
    return Basis(directions, (total / max(1, len(vectors))).sqrt().clamp(min=1e-6).float())


def quantise(vectors: Tensor, basis: Basis, bits: int) -> tuple[Tensor, Codes]:
    """Quantise unit or zero vectors.

    Args:
        vectors: `(n, D)` float32; D is even, and for 5 bits a multiple of 8.
        basis: The basis of the library.
        bits: Bits of a code, 4 or 5.

    Returns:
        Coordinates `(n, d)` float16, and the codes of the rests.
    """
    parts = [_quantise_block(block, basis, bits, count) for _, count, block in blocks(vectors, LARGE)]
    return torch.cat([part[0] for part in parts]), joined([part[1] for part in parts])


def joined(parts: Sequence[Codes]) -> Codes:
    """Concatenate codes of the same number of bits."""
    return Codes(**{name: torch.cat([getattr(part, name) for part in parts]) for name in parts[0].tensors()})


def _quantise_block(block: Tensor, basis: Basis, bits: int, count: int) -> tuple[Tensor, Codes]:
    directions, spread = basis.directions, basis.spread
    coordinates = round_towards_zero(block @ directions)
    rest = normalise(block - coordinates.float() @ directions.T)
    values = rest.div_(spread * STEP[bits]).add_(MIDDLE[bits]).round_().clamp_(0, 2**bits - 1).to(torch.uint8)
    codes, plane = _packed(values, bits)
    z = decoded(codes, plane) * spread
    left = z - z @ directions @ directions.T
    length = (1 - coordinates.double().square().sum(1)).clamp(min=0).sqrt()
    gains = (length / left.double().square().sum(1).sqrt().clamp(min=1e-12)).float()
    gains[~block.any(1)] = 0
    return coordinates[:count], Codes(codes, gains, plane).part(0, count)


def _packed(values: Tensor, bits: int) -> tuple[Tensor, Tensor | None]:
    """Pack codes `(n, D)` uint8, one per byte, into the codes and plane of `Codes`."""
    half = values.shape[1] // 2
    codes = (values[:, :half] & 15) | values[:, half:] << 4
    if bits == 4:
        return codes, None
    bits_of_a_byte = torch.arange(8, dtype=torch.uint8, device=values.device)[:, None]
    fifth = (values >> 4).view(len(values), 8, half // 4) << bits_of_a_byte
    return codes, fifth.sum(1, dtype=torch.uint8)


def _halves(codes: Tensor, plane: Tensor | None) -> tuple[Tensor, Tensor]:
    """Unpack `Codes` into the first and the second half of the values, `(n, D / 2)` uint8 each, one code per byte."""
    first, second = codes & 15, codes >> 4
    if plane is None:
        return first, second
    fifth = torch.cat([plane >> bit for bit in range(4)], dim=1)  # bit 0 belongs to the first half, bit 4 to the second
    return first | (fifth & 1) << 4, second | fifth & 16


def round_towards_zero(values: Tensor) -> Tensor:
    """Round float32 values to float16 towards zero."""
    halves = values.half()
    smaller = torch.from_numpy(np.nextafter(halves.cpu().numpy(), np.float16(0))).to(values.device)
    return torch.where(halves.float().abs() > values.abs(), smaller, halves)


def decoded(codes: Tensor, plane: Tensor | None = None) -> Tensor:
    """Return the values `(n, D)` float32, in spreads, of codes `(n, D / 2)` and plane `(n, D / 8)`."""
    bits = 4 if plane is None else 5
    return torch.cat(_halves(codes, plane), dim=1).float().sub_(MIDDLE[bits]).mul_(STEP[bits])


def dequantise(coordinates: Tensor, codes: Codes, basis: Basis) -> Tensor:
    """Decode what `quantise` returned to unit vectors `(n, D)` float32, in blocks of fixed shape."""
    out = torch.empty(len(coordinates), basis.directions.shape[0], device=coordinates.device)
    for start, count, c in blocks(coordinates):
        part = codes.part(start, BLOCK).each(lambda tensor: pad_rows(tensor, BLOCK))
        z = decoded(part.codes, part.plane).mul_(basis.spread).mul_(part.gains[:, None])
        missing = c.float() - _coordinates_of(z, basis.directions)
        out[start : start + count] = normalise(z.addmm_(missing, basis.directions.T))[:count]
    return out


def _coordinates_of(z: Tensor, directions: Tensor) -> Tensor:
    """Return z @ directions, summed over TERMS values at a time: MKL shares longer sums out among its threads."""
    total = z[:, :TERMS] @ directions[:TERMS]
    for start in range(TERMS, z.shape[1], TERMS):
        total.addmm_(z[:, start : start + TERMS], directions[start : start + TERMS])
    return total


def rest_lengths(codes: Codes, basis: Basis, dtype: torch.dtype) -> Tensor:
    """Return the lengths `(n,)` of the rests of vectors with `codes`, computed in `dtype`."""
    directions = basis.directions.to(dtype)
    z = decoded(codes.codes, codes.plane).to(dtype).mul_(basis.spread).mul_(codes.gains[:, None])
    return (z.square().sum(1) - (z @ directions).square_().sum(1)).clamp_(min=0).sqrt_()


def prepare_queries(vectors: Tensor, coordinates: Tensor, basis: Basis, bits: int) -> Tensor:
    """Return queries as `products` takes them, `(n, d + 1 + D)` float32: coordinates, bias, weight of every code.

    Args:
        vectors: Unit queries `(n, D)` float32.
        coordinates: Their coordinates `(n, d)` float32.
        basis: The basis of the library.
        bits: Bits of a code, 4 or 5.
    """
    width = coordinates.shape[1]
    out = torch.empty(len(vectors), width + 1 + vectors.shape[1], device=vectors.device)
    out[:, :width] = coordinates
    for (start, count, block), (_, _, c) in zip(blocks(vectors), blocks(coordinates), strict=True):
        rest = (block - c @ basis.directions.T).mul_(basis.spread * STEP[bits])[:count]
        out[start : start + count, width] = -MIDDLE[bits] * rest.sum(1)
        out[start : start + count, width + 1 :] = rest
    return out


@dataclass(frozen=True)
class Preparation:
    """The operands of `prepare_quickly` beside the queries, float32.

    along: directions, and the weight of every value, `(D, d + 1)`.
    weighted: directions times weights, `(d, D)`.
    middle: the middle of a code.
    """

    along: Tensor
    weighted: Tensor
    middle: float

    @classmethod
    def of(cls, basis: Basis, bits: int) -> Preparation:
        """Prepare for patches of a basis in so many bits."""
        weights = (basis.spread * STEP[bits])[:, None]
        along = torch.cat([basis.directions, weights], dim=1).contiguous()
        return cls(along, (basis.directions * weights).T.contiguous(), MIDDLE[bits])


def prepare_quickly(vectors: Tensor, preparation: Preparation, out: Tensor) -> None:
    """As `prepare_queries`, of vectors `(n, D)` of any length, to `out`, with rounding errors that depend on n."""
    width = preparation.along.shape[1]
    out[:, :width] = vectors @ preparation.along
    coordinates, rest = out[:, : width - 1], out[:, width:]
    out[:, width - 1] -= coordinates @ preparation.weighted.sum(1)
    out[:, width - 1] *= -preparation.middle
    torch.mul(vectors, preparation.along[:, -1], out=rest).addmm_(coordinates, preparation.weighted, alpha=-1)


def products(queries: Tensor, coordinates: Tensor, codes: Codes) -> Tensor:
    """Return float32 scores `(m,)`, pair by pair.

    Args:
        queries: `(m, d + 1 + D)` from `prepare_queries`, for as many bits.
        coordinates: Coordinates of the coded vectors, `(m, d)` float16.
        codes: Codes of m vectors.
    """
    width, half = coordinates.shape[1], codes.codes.shape[1]
    along, bias, *sides = queries.split([width, 1, half, half], dim=1)
    first, second = _halves(codes.codes, codes.plane)
    rest = first.float().mul_(sides[0]).sum(1) + second.float().mul_(sides[1]).sum(1) + bias[:, 0]
    total: Tensor = coordinates.float().mul_(along).sum(1) + codes.gains * rest
    return total
