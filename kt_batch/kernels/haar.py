"""The orthonormal Haar wavelet packet of a 2x2 patch, per channel.

For [[a, b], [c, d]]: LL = (a+b+c+d)/2, LH = (a-b+c-d)/2 (PyWavelets cV), HL = (a+b-c-d)/2 (cH), HH = (a-b-c+d)/2. The
matrix is symmetric and orthogonal. It is therefore its own inverse, and it preserves inner products.
"""

from __future__ import annotations

import torch
from torch import Tensor


def haar(x: Tensor) -> Tensor:
    """Transform cells a, b, c, d `(..., 4, C)` to bands LL, LH, HL, HH `(..., 4, C)`, or bands to cells."""
    a, b, c, d = x.unbind(-2)
    return torch.stack([(a + b) + (c + d), (a - b) + (c - d), (a + b) - (c + d), (a - b) - (c - d)], dim=-2) * 0.5


def mean_and_std(packet: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and population standard deviation of the 4 cells, per channel, from a raw packet.

    Mean = LL / 2 and deviation = sqrt(LH^2 + HL^2 + HH^2) / 2: `(..., 4, C)` gives `(..., C)` twice.
    """
    mean = packet[..., 0, :] * 0.5
    std = packet[..., 1:, :].square().sum(-2).sqrt() * 0.5
    return mean, std
