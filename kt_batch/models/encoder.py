"""Encoders: one working image in, the feature map of one layer out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_batch.models.layers import Geometry, geometry, kind, layers_up_to

Widths = tuple[int] | tuple[int, int]


@dataclass(frozen=True)
class Preprocess:
    """How an encoder wants its pixels: `(x[order] * scale - mean) / std`, x = RGB in [0, 1]."""

    order: str = "rgb"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)

    def __call__(self, x: Tensor) -> Tensor:
        """`(n, 3, H, W)` RGB in [0, 1] -> the same shape in the encoder's own range."""
        if self.order == "bgr":
            x = x.flip(1)
        mean = x.new_tensor(self.mean).view(1, 3, 1, 1)
        std = x.new_tensor(self.std).view(1, 3, 1, 1)
        return (x * self.scale - mean) / std


class Encoder(nn.Module):
    """A VGG-shaped network cut at one or more ReLUs.

    `widths` says how wide each `convN_M` is: `(128,)` a 3x3 convolution to 128 channels, as in VGG-19; `(48, 128)` the
    same of rank 48, a 3x3 convolution to 48 channels and a 1x1 to 128 with no activation between them (Zhang et al.
    2015, "Accelerating very deep convolutional networks").
    `codes` says at which cuts a linear map (1x1, no bias) follows the ReLU, and to how many channels: what `forward`
    returns there is the code, and the next layer goes on from it.
    `details` says at which of these cuts further channels look at the image itself: a linear map of the stride x stride
    pixels of each cell, which the next layer does not see. They carry what a decoder cannot guess from the code.
    `padding` is `reflect` (peers' style-transfer networks and ours) or `zeros` (the original VGG).

    Raises KeyError for a layer of no known kind, ValueError for details at a cut without a code.
    """

    def __init__(
        self,
        layers: tuple[str, ...],
        widths: Mapping[str, Widths],
        preprocess: Preprocess,
        padding: str = "reflect",
        codes: Mapping[str, int] | None = None,
        details: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.preprocess = preprocess
        self.padding = padding
        self.codes = dict(codes or {})
        self.details = dict(details or {})
        uncoded = sorted(self.details.keys() - self.codes.keys())
        if uncoded:
            raise ValueError(f"details at {', '.join(uncoded)}, where there is no code; codes: {sorted(self.codes)}")
        self.channels: dict[str, int] = {}
        geometry(layers)  # raises for a layer of no known kind
        width = 3
        for name in (n for n in layers if kind(n) == "conv"):
            self.add_module(name, _convolution(width, widths[name]))
            width = widths[name][-1]
            cut = name.replace("conv", "relu")
            self.channels[cut] = self.codes.get(cut, width) + self.details.get(cut, 0)
            if cut in self.details:
                stride = self.geometry(cut).stride
                self.add_module(f"detail_{cut}", nn.Conv2d(3, self.details[cut], stride, stride, bias=False))
            if cut in self.codes:
                self.add_module(f"code_{cut}", nn.Conv2d(width, self.codes[cut], 1, bias=False))
                width = self.codes[cut]

    def forward(self, image: Tensor, cuts: tuple[str, ...]) -> dict[str, Tensor]:
        """Features at every cut point of `cuts`: the code where there is one, else the activation; then the details.

        image: `(n, 3, H, W)`, RGB in [0, 1]. Returns `(n, C, H / stride, W / stride)` for each cut.
        """
        return {cut: self.features(cut, x, image) for cut, x in self.activations(image, cuts).items()}

    def features(self, cut: str, activation: Tensor, image: Tensor) -> Tensor:
        """What leaves the encoder at `cut`, from the activation there and the image `(n, 3, H, W)`."""
        code = self.code(cut, activation)
        if cut not in self.details:
            return code
        detail: Tensor = self.get_submodule(f"detail_{cut}")(self.preprocess(image))
        return torch.cat([code, detail], dim=1)

    def activations(self, image: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """What leaves each layer of `names`, before any code; shapes as in `forward`."""
        x = self.preprocess(image)
        found: dict[str, Tensor] = {}
        wanted = set(names)
        for before, name in zip(("", *self.layers), self.layers, strict=False):
            x = self._step(name, x, keep=before in wanted)
            if name in wanted:
                found[name] = x
            if len(found) == len(wanted):
                break
            x = self.code(name, x)
        return found

    def code(self, cut: str, activation: Tensor) -> Tensor:
        """The activation `(n, N, h, w)` at `cut` as the next layer takes it: through the code, where there is one."""
        if cut not in self.codes:
            return activation
        coded: Tensor = self.get_submodule(f"code_{cut}")(activation)
        return coded

    def projection(self, cut: str) -> Tensor:
        """The matrix `(C, N, 1, 1)` of the code at `cut`."""
        return cast("nn.Conv2d", self.get_submodule(f"code_{cut}")).weight

    def encode(self, image: Tensor, layer: str) -> Tensor:
        """`(n, 3, H, W)` RGB in [0, 1] -> `(n, C, h, w)` at `layer`."""
        return self.forward(image, (layer,))[layer]

    def pixel_detail(self, cut: str) -> nn.Conv2d | None:
        """The details at `cut` as one convolution of RGB in [0, 1], preprocessing folded in; None without details."""
        if cut not in self.details:
            return None
        inner = cast("nn.Conv2d", self.get_submodule(f"detail_{cut}"))
        count, stride = inner.out_channels, self.geometry(cut).stride
        whole = nn.Conv2d(3, count, stride, stride)
        black = torch.zeros(1, 3, stride, stride)
        basis = torch.eye(3 * stride**2).view(-1, 3, stride, stride)
        with torch.no_grad():
            bias = inner(self.preprocess(black)).flatten()
            columns = inner(self.preprocess(basis)).flatten(1) - bias
            whole.weight.copy_(columns.T.reshape(whole.weight.shape))
            cast("Tensor", whole.bias).copy_(bias)
        return whole

    def encode_code(self, image: Tensor, layer: str) -> Tensor:
        """As `encode`, without the details."""
        return self.code(layer, self.activations(image, (layer,))[layer])

    def geometry(self, layer: str) -> Geometry:
        """Stride and receptive field of one cell of `layer`."""
        return geometry(layers_up_to(self.layers, layer))

    def channels_at(self, layer: str) -> int:
        """C of the feature map at `layer`."""
        return self.channels[layer]

    def code_channels(self, layer: str) -> int:
        """As `channels_at`, without the details."""
        return self.channels[layer] - self.details.get(layer, 0)

    def _step(self, name: str, x: Tensor, *, keep: bool) -> Tensor:
        if kind(name) == "relu":
            return F.relu(x, inplace=not keep)  # a map less to write and to read: 3 % of the encoder
        if kind(name) == "pool":
            return F.max_pool2d(x, 2)
        mode = "reflect" if self.padding == "reflect" else "constant"
        out: Tensor = self.get_submodule(name)(F.pad(x, (1, 1, 1, 1), mode=mode))
        return out


def _convolution(channels: int, widths: Widths) -> nn.Sequential:
    first = nn.Conv2d(channels, widths[0], 3)
    return nn.Sequential(first) if len(widths) == 1 else nn.Sequential(first, nn.Conv2d(widths[0], widths[1], 1))
