"""Quadratic colour maps: every output channel is a polynomial of degree 2 of red, green and blue.

The basis is phi(x) = [1, r, g, b, r^2, g^2, b^2, rg, rb, gb] of an sRGB pixel in [0, 1]; a map is a matrix `(10, 3)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Plane = TypeVar("Plane", np.ndarray, "Tensor")

SIZE = 10  # functions of the basis
IDENTITY = np.zeros((SIZE, 3))
IDENTITY[1:4] = np.eye(3)
CHUNK = 1 << 13  # pixels whose basis is in memory at a time
BLOCK = 1 << 14  # pixels that are mapped at a time: their planes fit the second-level cache


@dataclass(frozen=True)
class Moments:
    """Means over the pixels of a pair: all that least squares needs to know of it.

    gram: of phi(before) phi(before)^T, `(10, 10)`.
    cross: of phi(before) after^T, `(10, 3)`.
    power: of after^2, `(3,)`.
    """

    gram: np.ndarray
    cross: np.ndarray
    power: np.ndarray


def basis(pixels: np.ndarray) -> np.ndarray:
    """Return phi `(..., 10)` of pixels `(..., 3)`, in their type."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    squares_and_products = (red * red, green * green, blue * blue, red * green, red * blue, green * blue)
    return np.stack([np.ones_like(red), red, green, blue, *squares_and_products], axis=-1)


def moments(before: np.ndarray, after: np.ndarray) -> Moments:
    """Return the moments of a pair of pictures `(H, W, 3)` of one size, over all pixels, in float64.

    The sums are numpy's own, not those of a matrix library: their bytes do not depend on the number of threads.
    """
    if before.shape != after.shape:
        raise ValueError(f"The pictures of a pair differ in size: {before.shape} and {after.shape}.")
    inputs, targets = before.reshape(-1, 3), after.reshape(-1, 3)
    gram, cross, power = np.zeros((SIZE, SIZE)), np.zeros((SIZE, 3)), np.zeros(3)
    for start in range(0, len(inputs), CHUNK):
        features = np.ascontiguousarray(basis(inputs[start : start + CHUNK].astype(np.float64)).T)
        wanted = np.ascontiguousarray(targets[start : start + CHUNK].T, np.float64)
        gram += np.einsum("kn,ln->kl", features, features)
        cross += np.einsum("kn,cn->kc", features, wanted)
        power += np.einsum("cn,cn->c", wanted, wanted)
    return Moments(gram / len(inputs), cross / len(inputs), power / len(inputs))


def reference_map(pixels: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Return the mapped pixels `(..., 3)` float64, clipped to [0, 1]: the definition of `apply_map`."""
    mapped: np.ndarray = np.clip(basis(np.asarray(pixels, np.float64)) @ coefficients, 0, 1)
    return mapped


def apply_map(pixels: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Return the mapped pixels of a band, clipped to [0, 1].

    A pixel's result depends on that pixel alone, to the last bit: no operation sums over pixels.

    Args:
        pixels: `(rows, W, 3)` float32 sRGB in [0, 1].
        coefficients: `(10, 3)`.

    Returns:
        `(rows, W, 3)` float32.
    """
    source = np.ascontiguousarray(pixels, np.float32).reshape(-1, 3)
    mapped = np.empty_like(source)
    columns = float32_columns(coefficients)
    for start in range(0, len(source), BLOCK):
        red, green, blue = np.ascontiguousarray(source[start : start + BLOCK].T)
        for channel, column in enumerate(columns):
            np.clip(polynomial(red, green, blue, column), 0, 1, out=mapped[start : start + BLOCK, channel])
    return mapped.reshape(pixels.shape)


def float32_columns(coefficients: np.ndarray) -> list[list[float]]:
    """Return the coefficients of each output channel, rounded to float32."""
    columns: list[list[float]] = np.asarray(coefficients, np.float32).T.tolist()
    return columns


def polynomial(red: Plane, green: Plane, blue: Plane, column: Sequence[float]) -> Plane:
    """Return c0 + b (c3 + c6 b) + g (c2 + c5 g + c9 b) + r (c1 + c4 r + c7 g + c8 b), by steps in this order.

    Args:
        red: `(n,)` float32, of numpy or of torch.
        green: As red.
        blue: As red.
        column: The ten coefficients, values of float32.
    """
    c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 = column
    total = blue * c6
    total += c3
    total *= blue
    total += c0
    inner = green * c5
    inner += blue * c9
    inner += c2
    inner *= green
    total += inner
    inner = red * c4
    inner += green * c7
    inner += blue * c8
    inner += c1
    inner *= red
    total += inner
    return total


def slopes(coefficients: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the derivatives `(n, 3, 3)` of a map at pixels `(n, 3)`: [., i, c] is d output c / d input i."""
    red, green, blue = np.asarray(pixels, np.float64).T
    none, one = np.zeros_like(red), np.ones_like(red)
    derivatives = (
        (none, one, none, none, 2 * red, none, none, green, blue, none),
        (none, none, one, none, none, 2 * green, none, red, none, blue),
        (none, none, none, one, none, none, 2 * blue, none, red, green),
    )
    return np.stack([np.einsum("kn,kc->nc", np.stack(row), coefficients) for row in derivatives], axis=1)


def change_along(coefficients: np.ndarray, pixels: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return what a map makes of small steps from pixels, to first order: slopes times steps, in float32.

    Args:
        coefficients: `(10, 3)`.
        pixels: `(n, 3)` float32.
        steps: `(n, 3)` float32.
    """
    (red, green, blue), (r, g, b) = pixels.T, steps.T
    squares_and_products = (2 * red * r, 2 * green * g, 2 * blue * b, red * g + green * r, red * b + blue * r)
    changes = (r, g, b, *squares_and_products, green * b + blue * g)  # of phi without its constant
    columns = np.asarray(coefficients, np.float32)[1:].T
    made = [sum(value * change for value, change in zip(column, changes, strict=True)) for column in columns]
    return np.stack(made, axis=1)


def towards_identity(coefficients: np.ndarray, strength: float) -> np.ndarray:
    """Return the map between no edit (strength 0) and `coefficients` (strength 1)."""
    return IDENTITY + strength * (np.asarray(coefficients) - IDENTITY)
