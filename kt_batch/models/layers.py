"""The layers of a VGG-like network in order, and the pixels that a cell of a layer sees.

Stride, receptive field and boxes are computed from this list and nowhere written as constants.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CUT_POINTS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")

# VGG-19 up to relu4_1 (Simonyan & Zisserman 2015, configuration E).
VGG19_LAYERS = (
    "conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1",
    "conv2_1", "relu2_1", "conv2_2", "relu2_2", "pool2",
    "conv3_1", "relu3_1", "conv3_2", "relu3_2", "conv3_3", "relu3_3", "conv3_4", "relu3_4", "pool3",
    "conv4_1", "relu4_1",
)  # fmt: skip

KERNEL = {"conv": 3, "pool": 2, "relu": 1}
STRIDE = {"conv": 1, "pool": 2, "relu": 1}
PADDING = {"conv": 1, "pool": 0, "relu": 0}

PADDED = 8  # stride of relu4_1, the coarsest layer of all


def kind(layer: str) -> str:
    """Return the kind of a layer: `conv3_1` gives `conv`."""
    return layer.rstrip("0123456789_")


def layers_up_to(layers: tuple[str, ...], cut: str) -> tuple[str, ...]:
    """Return the layers from the first up to and including `cut`."""
    return layers[: layers.index(cut) + 1]


@dataclass(frozen=True)
class Geometry:
    """The receptive field of cell i: pixels [stride * i + first, stride * i + first + size) along each axis."""

    stride: int
    first: int
    size: int

    def interval(self, start: int, cells: int) -> tuple[int, int]:
        """Return the half-open pixel interval that `cells` neighbouring cells from `start` see, not clipped."""
        low = self.stride * start + self.first
        return low, low + self.size + self.stride * (cells - 1)


def geometry(layers: tuple[str, ...]) -> Geometry:
    """Return stride and receptive field of the last layer, composed from the last layer to the first.

    A cell i of a layer with kernel k, stride s and padding p reads cells [s*i - p, s*i - p + k) of its input.
    """
    stride, first, size = 1, 0, 1
    for layer in reversed(layers):
        k = kind(layer)
        first = STRIDE[k] * first - PADDING[k]
        size = STRIDE[k] * (size - 1) + KERNEL[k]
        stride *= STRIDE[k]
    return Geometry(stride, first, size)


def boxes(
    start: NDArray[np.int64], geometry: Geometry, length: int | NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the half-open pixel intervals that patches see along one axis, clipped to the image.

    A working image is padded by reflection to a multiple of the stride of the coarsest layer that is read from it, at
    most PADDED. A patch of a fine layer near the edge also sees pixels that are mirrored there: its interval begins at
    the first of them. One of the coarsest layer sees them anyway.

    Args:
        start: `(n,)`, first cell of each patch.
        geometry: Of the layer.
        length: Size of the image along the axis, one for all or `(n,)`.

    Returns:
        Starts and ends, `(n,)` each.
    """
    low, high = geometry.interval(0, 2)
    first, past = start * geometry.stride + low, start * geometry.stride + high
    mirrored = 2 * length - 1 - np.minimum(past, -(-length // PADDED) * PADDED)
    first = np.where(first < length, np.minimum(first, mirrored), first)
    return np.maximum(first, 0), np.minimum(past, length)
