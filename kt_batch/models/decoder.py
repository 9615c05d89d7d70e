"""Decoders: a feature map in, the working image out.

The paper's doubles the size by resize + convolution, so that there is no checkerboard (section 3.6). Ours doubles it by
`subpixel` blocks too, which promise nothing of the kind: their training has to (losses.lattice).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_batch.errors import WeightsError

ACTIVATIONS = {"relu": F.relu, "selu": F.selu}
DETAIL_TOLERANCE = 0.005  # float16 moves a product by up to .002 of a squared length, and there are two files


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
    convolution to N channels with its activation, `res` a residual block, `up` nearest-neighbour doubling,
    `subpixel:N` a convolution with its activation whose 4N channels become N at twice the size (Shi et al. 2016),
    `out` the last convolution to RGB without activation (the paper: "no activation layer and uses bias instead"),
    `subpixel-out` the same at twice the size.

    The last `details` of the `channels` are an encoder's details (models.encoder), which the ladder does not see: inner
    products of the pixels of each cell with a few directions, the rows of `detail`. The ladder's answer is moved along
    these directions, by `detail_weight` of the way to the answer whose inner products are the given ones
    (back-projection, Irani & Peleg 1991). For that the directions must be orthogonal and of equal length, as those that
    are fitted are: `check_details`.

    With `direct` one linear 3x3 convolution from the features to the pixels of each cell is added to what the ladder
    answers: it restores what a linear map can, and the ladder the rest.
    """

    def __init__(
        self,
        channels: int,
        blocks: tuple[str, ...],
        activation: str = "relu",
        *,
        direct: bool = False,
        details: int = 0,
    ) -> None:
        super().__init__()
        self.scale = 2 ** sum(block == "up" or _is_subpixel(block) for block in blocks)
        self.details = details
        width = channels - details
        self.direct = nn.Conv2d(width, 3 * self.scale**2, 3) if direct else None
        self.detail = nn.Conv2d(3, details, self.scale, self.scale) if details else None
        self.channels = channels
        self.blocks = blocks
        self.activation = activation
        for number, block in enumerate(blocks):
            if block == "res":
                self.add_module(f"block{number}", _Residual(width, activation))
            elif block != "up":
                out = _width_after(block)
                self.add_module(f"block{number}", nn.Conv2d(width, out * (4 if _is_subpixel(block) else 1), 3))
                width = out

    def forward(self, features: Tensor, own: Tensor | None = None, detail_weight: float = 1.0) -> Tensor:
        """`(n, C, h, w)` -> `(n, 3, H, W)`, RGB, nominally in [0, 1]; not clamped, so that training has a gradient.

        The details are those that the ladder's answer to `own` lacks: of `features` themselves, or where those are
        swapped, of the features they came from. Details of other images do not fit together.
        """
        answer = self._ladder(features)
        if self.detail is None or not detail_weight:
            return answer
        own = features if own is None else own
        lacking = own[:, self.channels - self.details :] - self.detail(answer if own is features else self._ladder(own))
        weight = self.detail.weight
        lacking = lacking * (detail_weight / weight[0].square().sum())
        return answer + F.conv_transpose2d(lacking, weight, stride=self.scale)

    def _ladder(self, features: Tensor) -> Tensor:
        x = code = features[:, : self.channels - self.details]
        for number, block in enumerate(self.blocks):
            if block == "up":
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            elif block == "res":
                x = self.get_submodule(f"block{number}")(x)
            else:
                x = self.get_submodule(f"block{number}")(_pad(x))
                if not block.endswith("out"):
                    x = ACTIVATIONS[self.activation](x)
                if _is_subpixel(block):
                    x = F.pixel_shuffle(x, 2)
        if self.direct is not None:
            x = x + F.pixel_shuffle(self.direct(_pad(code)), self.scale)
        return x

    @torch.no_grad()
    def check_details(self, where: str) -> None:
        """Raise WeightsError, naming `where`, unless the directions of the details are orthogonal and of equal length.

        To within DETAIL_TOLERANCE of their squared length. Without details there is nothing to check.
        """
        if self.detail is None:
            return
        rows = self.detail.weight.flatten(1).double()
        products = rows @ rows.T
        error = (products / products[0, 0] - torch.eye(len(rows)).to(rows)).abs().max()
        if not error <= DETAIL_TOLERANCE:  # nor when it is not a number: a first row of zeros
            raise WeightsError(
                f"The details {where} cannot be restored: their directions are to be orthogonal and of equal length, "
                f"and products of them are off by {error:.2g} of a squared length; {DETAIL_TOLERANCE} is allowed."
            )

    def first_convolutions(self) -> list[nn.Conv2d]:
        """What the features meet first; a ladder begins with a convolution."""
        first = cast("nn.Conv2d", self.get_submodule("block0"))
        return [first] if self.direct is None else [first, self.direct]

    def calm_residuals(self) -> None:
        """Before training: make every residual block close to the identity, so that the first steps are steady.

        Beside a direct convolution the ladder begins by adding nothing.
        """
        if self.direct is not None:
            last = cast("nn.Conv2d", self.get_submodule(f"block{len(self.blocks) - 1}"))
            nn.init.zeros_(last.weight)
        for module in self.modules():
            if isinstance(module, _Residual):
                module.second.weight.data *= 0.1

    @torch.no_grad()
    def decode(self, features: Tensor, own: Tensor | None = None, detail_weight: float = 1.0) -> Tensor:
        """As `forward`, clamped to [0, 1]."""
        return self.forward(features, own, detail_weight).clamp_(0.0, 1.0)


def _width_after(block: str) -> int:
    return 3 if block.endswith("out") else int(block.removeprefix("conv:").removeprefix("subpixel:"))


def _is_subpixel(block: str) -> bool:
    return block.startswith("subpixel")


def _pad(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="reflect")
