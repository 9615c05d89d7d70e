"""The orthonormal Haar wavelet packet of a 2x2 patch, per channel.

For [[a, b], [c, d]]: LL = (a+b+c+d)/2, LH = (a-b+c-d)/2 (PyWavelets cV), HL = (a+b-c-d)/2 (cH), HH = (a-b-c+d)/2. The
matrix is symmetric and its own inverse, so one function serves both ways; being orthonormal, it keeps <q, x>.
"""

from __future__ import annotations

import torch
from torch import Tensor


def haar(x: Tensor) -> Tensor:
    """`(..., 4, C)` cells a, b, c, d -> `(..., 4, C)` bands LL, LH, HL, HH; the same call goes back."""
    a, b, c, d = x.unbind(-2)
    return torch.stack([(a + b) + (c + d), (a - b) + (c - d), (a + b) - (c + d), (a - b) - (c - d)], dim=-2) * 0.5


def mean_and_std(packet: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation over the 4 cells, per channel, from a raw packet.

    `(..., 4, C)` -> two of `(..., C)`: mean = LL / 2, std = sqrt(LH^2 + HL^2 + HH^2) / 2.
    """
    mean = packet[..., 0, :] * 0.5
    std = packet[..., 1:, :].square().sum(-2).sqrt() * 0.5
    return mean, std
