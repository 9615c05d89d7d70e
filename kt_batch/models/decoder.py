"""Decoders: a feature map in, the working image out.

The paper upsamples by resize and convolution, which prevents checkerboards (section 3.6). Our decoders also use
`subpixel` blocks, which do not; a loss term of their training does (training.losses.lattice_error).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_batch.errors import WeightsError

ACTIVATIONS = {"relu": F.relu, "selu": F.selu}
DETAIL_TOLERANCE = 0.005  # of a squared length; rounding two files to float16 moves a product by up to 0.004


class _Residual(nn.Module):
    """x + conv(activation(conv(x))), of constant width."""

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
    """A sequence of blocks, optionally with a direct convolution and the restoration of details.

    Blocks, as in `("conv:128", "res", "up", "conv:64", "up", "out")`:

    - `conv:N`: reflect-padded 3x3 convolution to N channels, with activation.
    - `res`: residual block.
    - `up`: nearest-neighbour upsampling by 2.
    - `subpixel:N`: convolution to 4N channels with activation, shuffled to N at twice the size (Shi et al. 2016).
    - `out`: last convolution to RGB, without activation (the paper: "no activation layer and uses bias instead").
    - `subpixel-out`: the same at twice the size.

    The last `details` of the `channels` are an encoder's details (models.encoder): inner products of the pixels of each
    cell with a few directions, the rows of `detail`. The blocks do not see them. Their output is moved along these
    directions, by `detail_weight` of the way to an image with the given inner products (back-projection, Irani & Peleg
    1991). This needs orthogonal directions of equal length (`check_details`).

    With `direct`, a linear 3x3 convolution from the features to the pixels of each cell is added to the output: it
    restores what a linear map can, and the blocks restore the rest.
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
        """Decode features, without clamping, so that training has a gradient.

        Args:
            features: `(n, C, h, w)`.
            own: `(n, C, h, w)`, the features whose details are restored; None: `features`. Swapped features need those
                of the content, since details of different images do not fit together.
            detail_weight: Share of the missing details to add.

        Returns:
            `(n, 3, H, W)` RGB, nominally in [0, 1].
        """
        image = self._decode_code(features)
        if self.detail is None or not detail_weight:
            return image
        own = features if own is None else own
        return image + self._missing(own, image if own is features else self._decode_code(own), detail_weight)

    @torch.no_grad()
    def missing_details(self, own: Tensor) -> Tensor:
        """Return what an image decoded without details lacks of those of its features, within each cell.

        The mean of a cell, which is colour and no detail, is taken off.

        Args:
            own: `(n, C, h, w)`.

        Returns:
            `(n, 3, H, W)`, of zero mean in each cell; zeros where the decoder restores no details.
        """
        decoded = self._decode_code(own)
        if self.detail is None:
            return torch.zeros_like(decoded)
        missing = self._missing(own, decoded, 1.0)
        return missing - F.interpolate(F.avg_pool2d(missing, self.scale), scale_factor=self.scale, mode="nearest")

    def _missing(self, own: Tensor, decoded: Tensor, share: float) -> Tensor:
        """Return a share of what `decoded` `(n, 3, H, W)` lacks of the details of `own`, which it was decoded from."""
        detail = cast("nn.Conv2d", self.detail)
        missing = own[:, self.channels - self.details :] - detail(decoded)
        missing = missing * (share / detail.weight[0].square().sum())
        return F.conv_transpose2d(missing, detail.weight, stride=self.scale)

    def _decode_code(self, features: Tensor) -> Tensor:
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
        """Check that the directions of the details are orthogonal and of equal length, to within DETAIL_TOLERANCE.

        Raises:
            WeightsError: If they are not; the message names `where`.
        """
        if self.detail is None:
            return
        rows = self.detail.weight.flatten(1).double()
        products = rows @ rows.T
        error = (products / products[0, 0] - torch.eye(len(rows), dtype=rows.dtype, device=rows.device)).abs().max()
        if not error <= DETAIL_TOLERANCE:  # also true for NaN, from a first row of zeros
            raise WeightsError(
                f"The details {where} cannot be restored: their directions must be orthogonal and of equal length, "
                f"but their products are off by {error:.2g} of a squared length; {DETAIL_TOLERANCE} is allowed."
            )

    def first_convolutions(self) -> list[nn.Conv2d]:
        """Return the convolutions that read the features; the first block must be a convolution."""
        first = cast("nn.Conv2d", self.get_submodule("block0"))
        return [first] if self.direct is None else [first, self.direct]

    def calm_residuals(self) -> None:
        """Start training with residual blocks near the identity and zero blocks parallel to `direct`."""
        if self.direct is not None:
            last = cast("nn.Conv2d", self.get_submodule(f"block{len(self.blocks) - 1}"))
            nn.init.zeros_(last.weight)
        for module in self.modules():
            if isinstance(module, _Residual):
                module.second.weight.data *= 0.1

    @torch.no_grad()
    def decode(self, features: Tensor, own: Tensor | None = None, detail_weight: float = 1.0) -> Tensor:
        """Decode as `forward` does, and clamp to [0, 1]."""
        return self.forward(features, own, detail_weight).clamp_(0.0, 1.0)


def _width_after(block: str) -> int:
    return 3 if block.endswith("out") else int(block.removeprefix("conv:").removeprefix("subpixel:"))


def _is_subpixel(block: str) -> bool:
    return block.startswith("subpixel")


def _pad(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="reflect")
