"""Small pictures as tensors, and what a method makes of them."""

from __future__ import annotations

import torch
from torch import Tensor

from kt_batch.methods.base import Method


def picture(seed: int) -> Tensor:
    """Return a smooth random picture `(3, 64, 48)`."""
    small = torch.rand(1, 3, 8, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, (64, 48), mode="bicubic")[0].clamp(0, 1)


def translated(method: Method, photo: Tensor) -> Tensor:
    """Return the picture that a method makes of a photograph."""
    output = method.translate(photo).output
    assert isinstance(output, Tensor)
    return output
