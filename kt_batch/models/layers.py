"""The shape of a VGG-like network, written once: which layers stand in which order, and what a cell of one sees.

Everything that depends on the geometry of an encoder (stride, receptive field, boxes) is computed from this
list; no constant such as "10 pixels to the left" is typed anywhere else.
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


def kind(layer: str) -> str:
    """`conv3_1` -> `conv`."""
    return layer.rstrip("0123456789_")


def layers_up_to(layers: tuple[str, ...], cut: str) -> tuple[str, ...]:
    """The layers from the image to `cut`, both included."""
    return layers[: layers.index(cut) + 1]


@dataclass(frozen=True)
class Geometry:
    """What one cell of a layer sees: pixels [stride * i + first, stride * i + first + size) of each axis."""

    stride: int
    first: int
    size: int

    def interval(self, start: int, cells: int) -> tuple[int, int]:
        """Half-open pixel interval seen by `cells` neighbouring cells from `start`, not clipped."""
        low = self.stride * start + self.first
        return low, low + self.size + self.stride * (cells - 1)


def geometry(layers: tuple[str, ...]) -> Geometry:
    """Stride and receptive field of the last layer of `layers`, by composing the layers from the last to the first.

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
    """Along one axis: the half-open pixel intervals `(n,)` that patches from the cells `start` `(n,)` see, clipped to
    `length` pixels, one for all or one for each.

    The padding of the working image repeats pixels that lie within the clipped interval.
    """
    low, high = geometry.interval(0, 2)
    return np.maximum(start * geometry.stride + low, 0), np.minimum(start * geometry.stride + high, length)
