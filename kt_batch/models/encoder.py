"""Encoders: one working image in, the feature map of one layer out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from kt_batch.models.layers import Geometry, geometry, kind, layers_up_to


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

    `padding` is `reflect` (peers' style-transfer networks and ours) or `zeros` (the original VGG).
    """

    def __init__(
        self,
        layers: tuple[str, ...],
        channels: Mapping[str, int],
        preprocess: Preprocess,
        padding: str = "reflect",
    ) -> None:
        super().__init__()
        self.layers = layers
        self.channels = dict(channels)
        self.preprocess = preprocess
        self.padding = padding
        geometry(layers)  # KeyError where a layer is of no known kind
        before = 3
        for name in (n for n in layers if kind(n) == "conv"):
            self.add_module(name, nn.Conv2d(before, channels[name], 3))
            before = channels[name]

    def forward(self, image: Tensor, cuts: tuple[str, ...]) -> dict[str, Tensor]:
        """Features at every layer of `cuts`.

        image: `(n, 3, H, W)`, RGB in [0, 1]. Returns `(n, C, H / stride, W / stride)` for each cut.
        """
        x = self.preprocess(image)
        found: dict[str, Tensor] = {}
        for name in self.layers:
            x = self._step(name, x)
            if name in cuts:
                found[name] = x
            if len(found) == len(cuts):
                break
        return found

    def encode(self, image: Tensor, layer: str) -> Tensor:
        """`(n, 3, H, W)` RGB in [0, 1] -> `(n, C, h, w)` at `layer`."""
        return self.forward(image, (layer,))[layer]

    def geometry(self, layer: str) -> Geometry:
        """Stride and receptive field of one cell of `layer`."""
        return geometry(layers_up_to(self.layers, layer))

    def channels_at(self, layer: str) -> int:
        """C of the feature map at `layer`."""
        return self.channels[layer.replace("relu", "conv")]

    def _step(self, name: str, x: Tensor) -> Tensor:
        if kind(name) == "relu":
            return F.relu(x)
        if kind(name) == "pool":
            return F.max_pool2d(x, 2)
        mode = "reflect" if self.padding == "reflect" else "constant"
        out: Tensor = self.get_submodule(name)(F.pad(x, (1, 1, 1, 1), mode=mode))
        return out
