"""Decoders: a feature map in, the working image out. Resize + convolution, so no checkerboard (paper, section 3.6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {"relu": F.relu, "selu": F.selu}


class _Residual(nn.Module):
    """x + conv(act(conv(x))), the width kept."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3)
        self.second = nn.Conv2d(width, width, 3)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        inner = self.activation(self.first(_pad(x)))
        out: Tensor = x + self.second(_pad(inner))
        return out


class Decoder(nn.Module):
    """A ladder of blocks.

    `blocks` is a tuple such as `("conv:128", "res", "up", "conv:64", "up", "out")`: `conv:N` a reflect-padded 3x3
    convolution to N channels with its activation, `res` a residual block, `up` nearest-neighbour doubling, `out` the
    last convolution to RGB without activation (the paper: "no activation layer and uses bias instead").
    """

    def __init__(self, channels: int, blocks: tuple[str, ...], activation: str = "relu") -> None:
        super().__init__()
        self.channels = channels
        self.blocks = blocks
        self.activation = activation
        width = channels
        for number, block in enumerate(blocks):
            if block == "res":
                self.add_module(f"block{number}", _Residual(width, activation))
            elif block != "up":
                out = 3 if block == "out" else int(block.removeprefix("conv:"))
                self.add_module(f"block{number}", nn.Conv2d(width, out, 3))
                width = out

    def forward(self, features: Tensor) -> Tensor:
        """`(n, C, h, w)` -> `(n, 3, H, W)`, RGB, nominally in [0, 1]; not clamped, so that training has a gradient."""
        x = features
        for number, block in enumerate(self.blocks):
            if block == "up":
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            elif block == "res":
                x = self.get_submodule(f"block{number}")(x)
            else:
                x = self.get_submodule(f"block{number}")(_pad(x))
                if block != "out":
                    x = ACTIVATIONS[self.activation](x)
        return x

    def calm_residuals(self) -> None:
        """Before training: make every residual block close to the identity, so that the first steps are steady."""
        for module in self.modules():
            if isinstance(module, _Residual):
                module.second.weight.data *= 0.1

    @torch.no_grad()
    def decode(self, features: Tensor) -> Tensor:
        """`(n, C, h, w)` -> `(n, 3, H, W)`, RGB clamped to [0, 1]."""
        return self.forward(features).clamp_(0.0, 1.0)


def _pad(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="reflect")
