"""Luminance, and the transfer of luminance alone."""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, for gamma-encoded RGB


def luminance(image: Tensor) -> Tensor:
    """Return the luminance `(H, W)` in [0, 1] of an image `(3, H, W)` RGB in [0, 1]."""
    return torch.einsum("chw,c->hw", image, image.new_tensor(LUMA))


def preserve_colour(result: Tensor, content: Tensor) -> Tensor:
    """Combine the luminance of `result` with the chroma of `content` (Gatys et al. 2016).

    Args:
        result: `(3, H, W)` RGB in [0, 1].
        content: `(3, H, W)` RGB in [0, 1]; gives R - Y, G - Y and B - Y.

    Returns:
        `(3, H, W)` RGB, clamped to [0, 1].
    """
    chroma = content - luminance(content)
    return (luminance(result) + chroma).clamp_(0, 1)
