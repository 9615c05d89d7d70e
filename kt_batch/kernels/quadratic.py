"""Quadratic colour maps: each output channel is a polynomial of degree two in r, g and b.

A map has coefficients `(10, 3)` float64 over the basis phi(x) = [1, r, g, b, r^2, g^2, b^2, rg, rb, gb] of encoded sRGB.
It reads no neighbour of a pixel, so it moves nothing and makes no halo.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Coefficients = NDArray[np.float64]

TERMS = 10
IDENTITY: Coefficients = np.zeros((TERMS, 3))
IDENTITY[1:4] = np.eye(3)
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of Rec. 709, here of encoded values

_SUMMED = 2**16  # pixels whose products are summed at a time
_BLOCK = 2**13  # pixels of which all planes stay in the cache of a core


class Moments(NamedTuple):
    """What a least-squares fit needs of a pair: means over all pixels.

    gram: `(10, 10)`, phi phi^T of the picture before. cross: `(10, 3)`, phi y^T with the picture after. power: `(3,)`,
    y^2. All float64.
    """

    gram: NDArray[np.float64]
    cross: NDArray[np.float64]
    power: NDArray[np.float64]


def basis(colours: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return phi `(n, 10)` of colours `(n, 3)`."""
    r, g, b = colours.astype(np.float64).T
    return np.stack([np.ones_like(r), r, g, b, r * r, g * g, b * b, r * g, r * b, g * b], axis=-1)


def moments(before: NDArray[np.float32], after: NDArray[np.float32]) -> Moments:
    """Return the moments of two pictures `(H, W, 3)` of one size. Sums have a fixed order."""
    first, second = before.reshape(-1, 3), after.reshape(-1, 3).astype(np.float64)
    gram, cross, power = np.zeros((TERMS, TERMS)), np.zeros((TERMS, 3)), np.zeros(3)
    for start in range(0, len(first), _SUMMED):
        phi, target = basis(first[start : start + _SUMMED]), second[start : start + _SUMMED]
        gram += phi.T @ phi
        cross += phi.T @ target
        power += (target * target).sum(0)
    return Moments(gram / len(first), cross / len(first), power / len(first))


def reference_map(pixels: NDArray[np.float32], coefficients: Coefficients) -> NDArray[np.float64]:
    """Return the mapped pixels `(rows, W, 3)`, slowly: phi times the coefficients, not clipped."""
    return (basis(pixels.reshape(-1, 3)) @ coefficients).reshape(pixels.shape)


def apply_map(pixels: NDArray[np.float32], coefficients: Coefficients) -> NDArray[np.float32]:
    """Return the mapped pixels `(rows, W, 3)` float32, not clipped.

    The result of a pixel depends on that pixel alone, not on the rows that come along. It differs from `reference_map`
    by rounding in float32.
    """
    colours = np.ascontiguousarray(pixels, np.float32).reshape(-1, 3)
    mapped = np.empty_like(colours)
    c = coefficients.astype(np.float32)
    planes, work = np.empty((3, _BLOCK), np.float32), np.empty((2, _BLOCK), np.float32)
    for start in range(0, len(colours), _BLOCK):
        part = colours[start : start + _BLOCK]
        count = len(part)
        r, g, b = planes[:, :count]
        total, term = work[:, :count]
        r[:], g[:], b[:] = part[:, 0], part[:, 1], part[:, 2]
        for channel in range(3):
            _horner((r, g, b), c[:, channel], total, term)
            mapped[start : start + count, channel] = total
    return mapped.reshape(pixels.shape)


def _horner(
    planes: tuple[NDArray[np.float32], ...],
    c: NDArray[np.float32],
    total: NDArray[np.float32],
    term: NDArray[np.float32],
) -> None:
    """Write c0 + r (c1 + c4 r + c7 g + c8 b) + g (c2 + c5 g + c9 b) + b (c3 + c6 b) into `total`; `term` is scratch."""
    r, g, b = planes
    np.multiply(b, c[6], out=total)
    total += c[3]
    total *= b
    total += c[0]
    np.multiply(b, c[9], out=term)
    term += c[2]
    term += g * c[5]
    term *= g
    total += term
    np.multiply(b, c[8], out=term)
    term += g * c[7]
    term += r * c[4]
    term += c[1]
    term *= r
    total += term


def slopes(coefficients: Coefficients, colours: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the derivatives `(n, 3 in, 3 out)` of a map at colours `(n, 3)`."""
    r, g, b = colours.astype(np.float64).T
    zero, one = np.zeros_like(r), np.ones_like(r)
    by_red = np.stack([zero, one, zero, zero, 2 * r, zero, zero, g, b, zero], -1)
    by_green = np.stack([zero, zero, one, zero, zero, 2 * g, zero, r, zero, b], -1)
    by_blue = np.stack([zero, zero, zero, one, zero, zero, 2 * b, zero, r, g], -1)
    return np.stack([by_red @ coefficients, by_green @ coefficients, by_blue @ coefficients], 1)
