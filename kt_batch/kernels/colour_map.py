"""Quadratic colour maps of tensors, on their device: what `quadratic.apply_map` computes with numpy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kt_batch.kernels.quadratic import float32_columns, polynomial


def map_colours(pixels: Tensor, coefficients: np.ndarray) -> Tensor:
    """Return mapped pixels `(..., 3)` float32, clipped to [0, 1].

    Args:
        pixels: `(..., 3)` float32 sRGB in [0, 1].
        coefficients: `(10, 3)`.
    """
    red, green, blue = pixels.movedim(-1, 0).contiguous()
    channels = [polynomial(red, green, blue, column) for column in float32_columns(coefficients)]
    return torch.stack(channels, dim=-1).clamp_(0, 1)
