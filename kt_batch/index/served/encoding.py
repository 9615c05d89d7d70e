"""Queries in few bytes, for owners: cells in 12 bits a value, and the last 2 bits of first levels.

Keys of rounded cells differ from those of the queries by a bounded error. So do their first levels, by a few steps of
fixed point: with the last bits of the levels themselves, an owner has them exactly. Where 2 bits are too few, which is
tried for each query, it is told the levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kt_batch.index.threads import parallel_map
from kt_batch.kernels.bounds import rounding_slack
from kt_batch.kernels.fixed_point import SHRINK, STEP
from kt_batch.kernels.haar import haar
from kt_batch.kernels.tiles import divide_rows
from kt_batch.models.precision import quick_products

LARGEST = 2047  # of a value in 12 bits
LAST = 4  # steps after which the last bits of a level are the same
NEAR = (LAST / 2 - 0.25) * STEP  # what levels of rounded cells may differ by, with room for their rounding errors
PORTION = 512  # queries whose levels a thread computes at a time
HASHED = 8  # words of a cell of which its hash is made
ROUNDED_UP = 1.02  # 2 / (1 + 63 / 64), and the rounding errors of the bound itself
NOISE = 2.0**-21  # of a patch and the mean, by which float32 differences of the two may err
SAFE = 2.0**40  # lengths between its inverse and it have squares in float32


@dataclass(frozen=True)
class Encoded:
    """n queries of m distinct cells.

    cells: in 12 bits, `(m, b)` uint8.
    scales: of the cells, `(m,)` float32.
    corners: the four cells of each query, `(n, 4)`.
    levels: first levels in steps, `(n, d + 1)` int16.
    last_bits: of their coordinates, four in a byte, `(n, (d + 3) // 4)` uint8.
    errors: the most by which the product of a key with a unit vector changes, `(n,)` float32.
    far: queries whose levels are told whole, `(n,)` bool.
    """

    cells: Tensor
    scales: Tensor
    corners: Tensor
    levels: Tensor
    last_bits: Tensor
    errors: Tensor
    far: Tensor


def encoded(patches: Tensor, levels: Tensor, mean: Tensor, directions: Tensor) -> Encoded:
    """Encode queries.

    Args:
        patches: raw, `(n, 4, C)` float32.
        levels: their first levels `(n, d + 1)` in fixed point.
        mean: What match space subtracts, `(4, C)` float32.
        directions: of first levels, `(D, d)` float32.
    """
    cells, corners = distinct_cells(patches)
    scales = cells.abs().amax(1) / LARGEST
    rounded = divide_rows(cells, scales).round_().clamp_(-LARGEST, LARGEST)
    known = rounded * scales[:, None]  # as owners have them
    errors = errors_of(cells, known, corners, mean)
    steps = (levels / STEP).short()
    with parallel_map() as each, quick_products():
        parts = zip(corners.split(PORTION), levels[:, :-1].split(PORTION), strict=True)
        near = torch.cat(each(lambda part: _near(known, *part, mean, directions), parts))
    last_bits = quarters(steps[:, :-1] & LAST - 1)
    return Encoded(packed(rounded.short()), scales, corners, steps, last_bits, errors, ~near | (errors >= 1))


def _near(cells: Tensor, corners: Tensor, levels: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    """Return whether coordinates of rounded cells, with the last bits, are `levels` `(n, d)`, at every owner."""
    vectors = twice_vectors(cells, corners, mean)
    coordinates = divide_rows(vectors @ directions, vectors.norm(dim=1))
    return coordinates.mul_(SHRINK).sub_(levels).abs_().amax(1) + 2 * rounding_slack(mean.numel()) < NEAR


def twice_vectors(cells: Tensor, corners: Tensor, mean: Tensor) -> Tensor:
    """Return twice the packets less the mean, `(n, D)` float32, of queries with `corners` `(n, 4)` among cells."""
    a, b, c, d = (cells.index_select(0, corner) for corner in corners.unbind(1))
    packets = torch.empty(len(corners), 4, cells.shape[1], device="cpu")  # twice what haar returns
    rows, columns, upper, lower = a + b, c + d, a - b, c - d
    torch.add(rows, columns, out=packets[:, 0])
    torch.add(upper, lower, out=packets[:, 1])
    torch.sub(rows, columns, out=packets[:, 2])
    torch.sub(upper, lower, out=packets[:, 3])
    return packets.sub_(2 * mean).flatten(1)


def cells_of(packed_cells: Tensor, scales: Tensor) -> Tensor:
    """Return the rounded cells `(m, C)` float32 that `encoded` made."""
    return unpacked(packed_cells).float().mul_(scales[:, None])


def steps_of(coordinates: Tensor, last_bits: Tensor) -> Tensor:
    """Return the coordinates `(n, d)` float32 in steps, from those of rounded queries of length 1, and the last bits.

    coordinates: `(n, d)` float32; changed in place.
    """
    known = spread_quarters(last_bits, coordinates.shape[1]).float()
    return coordinates.mul_(SHRINK / STEP).sub_(known).div_(LAST).round_().mul_(LAST).add_(known)


def errors_of(cells: Tensor, rounded: Tensor, corners: Tensor, mean: Tensor) -> Tensor:
    """Bound what rounded cells do to scores.

    The keys v / |v| and w / |w| of two packets differ by at most 2 |v - w| / (|v| + |w|).

    Args:
        cells: `(m, C)` float32.
        rounded: The same, rounded.
        corners: The four cells of each query patch, `(n, 4)`.
        mean: What match space subtracts, `(4, C)` float32.

    Returns:
        For each query the most by which its product with a unit vector changes, `(n,)` float32.
    """
    exact, middle = cells.double(), haar(mean.double())  # the transform keeps products, so that lengths are of cells
    of_cells = torch.stack([(cells - rounded).square_().sum(1).double(), torch.linalg.vecdot(exact, exact)], dim=1)
    of_corners = of_cells[corners].sum(1)
    along = (exact @ middle.T)[corners, torch.arange(4, device="cpu")].sum(1)
    difference, size = of_corners.sqrt().unbind(1)
    length = (of_corners[:, 1] - 2 * along + middle.square().sum()).clamp_(min=0).sqrt_()
    noisy = torch.where(difference > 0, difference + NOISE * (size + middle.norm()), 0.0)
    bounded = (noisy < length / 64) & (length > 1 / SAFE) & (length < SAFE)
    return torch.where(bounded, noisy / length * ROUNDED_UP, 2.0).float()


def distinct_cells(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct cells `(m, C)` of patches `(n, 4, C)` float32, and each patch's cells `(n, 4)`.

    Overlapping patches share cells. Cells are told apart by their bits; some with equal hashes may not be shared.
    """
    cells = patches.flatten(0, 1).contiguous()
    bits = cells.view(torch.int32 if cells.shape[1] % 2 else torch.int64)
    some = bits[:, :HASHED].long()
    weights = torch.randint(
        -(2**62), 2**62, (some.shape[1],), generator=torch.Generator(device="cpu").manual_seed(0), device="cpu"
    )
    order = torch.sort((some * weights).sum(1), stable=True).indices
    ordered = bits.index_select(0, order)
    new = torch.ones(len(order), dtype=torch.bool, device="cpu")
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    corners = torch.empty_like(order).index_copy_(0, order, new.cumsum(0) - 1)
    return cells.index_select(0, order[new]), corners.view(-1, 4)


def packed(values: Tensor) -> Tensor:
    """Return values `(m, c)` int16 from -2048 to 2047 in 12 bits each: low bytes, and the rest two in a byte."""
    return torch.cat([(values & 255).to(torch.uint8), nibbles(values >> 8 & 15)], dim=1)


def unpacked(found: Tensor) -> Tensor:
    """Return the values `(m, c)` int16 that `packed` returned as `(m, c + (c + 1) // 2)` uint8."""
    count = found.shape[1] * 2 // 3
    found = spread_nibbles(found[:, count:], count).short() << 8 | found[:, :count]
    return (found ^ 2048) - 2048


def nibbles(values: Tensor) -> Tensor:
    """Return values `(m, c)` from 0 to 15, two in a byte: `(m, (c + 1) // 2)` uint8, the first half in the low bits."""
    short = values.to(torch.uint8)
    half = (short.shape[1] + 1) // 2
    found = short[:, :half].clone()
    found[:, : short.shape[1] - half] |= short[:, half:] << 4
    return found


def spread_nibbles(found: Tensor, count: int) -> Tensor:
    """Return the values `(m, count)` uint8 that `nibbles` returned."""
    return torch.cat([found & 15, found >> 4], dim=1)[:, :count]


def quarters(values: Tensor) -> Tensor:
    """Return values `(m, c)` from 0 to 3, four in a byte: `(m, (c + 3) // 4)` uint8."""
    half = (values.shape[1] + 1) // 2
    found = values[:, :half].clone()
    found[:, : values.shape[1] - half] |= values[:, half:] << 2
    return nibbles(found)


def spread_quarters(found: Tensor, count: int) -> Tensor:
    """Return the values `(m, count)` uint8 that `quarters` returned."""
    pairs = spread_nibbles(found, (count + 1) // 2)
    return torch.cat([pairs & 3, pairs >> 2], dim=1)[:, :count]
