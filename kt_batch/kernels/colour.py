"""Colours of pixels: luminance, and keeping the content's chroma."""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, of gamma-encoded RGB


def luminance(image: Tensor) -> Tensor:
    """`(3, H, W)` RGB in [0, 1] -> `(H, W)` in [0, 1]."""
    return torch.einsum("chw,c->hw", image, image.new_tensor(LUMA))


def preserve_colour(result: Tensor, content: Tensor) -> Tensor:
    """The luminance of `result` with the chroma of `content` (luminance-only transfer, Gatys et al. 2016).

    Both `(3, H, W)` RGB in [0, 1]; the same shape comes back, clamped. R-Y, G-Y and B-Y are the content's.
    """
    chroma = content - luminance(content)
    return (luminance(result) + chroma).clamp_(0, 1)
