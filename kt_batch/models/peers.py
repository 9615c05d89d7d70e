"""Published decoders of other projects: plain sequences with keys `conv1.weight`, `conv1.bias`, ..., and style-swap's.

Their files do not name the encoder they were trained for; only the number of channels can be checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_batch.models.decoder import Decoder

# Each peer's network as blocks of Decoder; its convolutions are numbered in this order.
PEERS = {
    "relu3_1": ("conv:128", "up", "conv:128", "conv:64", "up", "conv:64", "out"),  # WCT (Li et al. 2017)
    "relu4_1": (
        *("conv:256", "up", "conv:256", "conv:256", "conv:256", "conv:128"),
        *("up", "conv:128", "conv:64", "up", "conv:64", "out"),
    ),  # AdaIN (Huang & Belongie 2017)
}


def peer_decoder(tensors: Mapping[str, Tensor], layer: str) -> Decoder | None:
    """Return the peer's decoder for `layer`; None if `tensors` are not of that network."""
    blocks = PEERS.get(layer)
    if blocks is None or "conv1.weight" not in tensors:
        return None
    if tensors["conv1.weight"].ndim != 4:
        return None
    with torch.device("meta"):  # without memory for its weights
        decoder = Decoder(tensors["conv1.weight"].shape[1], blocks)
    numbers = [number for number, block in enumerate(blocks) if block != "up"]
    names = {
        f"block{number}.{part}": f"conv{order}.{part}"
        for order, number in enumerate(numbers, start=1)
        for part in ("weight", "bias")
    }
    if set(names.values()) != set(tensors):
        return None
    state = decoder.state_dict()
    if any(state[own].shape != tensors[published].shape for own, published in names.items()):
        return None
    decoder.load_state_dict({own: tensors[published] for own, published in names.items()}, assign=True)
    return decoder


class StyleSwapInverse(nn.Module):
    """The inverse network of style-swap (Chen & Schmidt 2016) for relu3_1: transposed convolutions, instance norms.

    Nine transposed 3x3 convolutions `tconv1` .. `tconv9`; before the third and the seventh the map is doubled by
    nearest neighbours. Each but the last is followed by an instance norm `in1` .. `in8` and a ReLU, the last by a
    sigmoid.
    """

    WIDTHS = (256, 128, 128, 128, 128, 64, 64, 64, 64, 3)
    DOUBLED = (3, 7)
    EPSILON = 1e-3

    def __init__(self) -> None:
        super().__init__()
        self.channels = self.WIDTHS[0]
        for number, (width, after) in enumerate(pairwise(self.WIDTHS), start=1):
            self.add_module(f"tconv{number}", nn.ConvTranspose2d(width, after, 3, padding=1))
            if after != self.WIDTHS[-1]:
                self.add_module(f"in{number}", nn.InstanceNorm2d(after, self.EPSILON, affine=True))

    @torch.no_grad()
    def decode(self, features: Tensor) -> Tensor:
        """Decode features `(n, 256, h, w)` to `(n, 3, 4h, 4w)` RGB in [0, 1]."""
        x = features
        last = len(self.WIDTHS) - 1
        for number in range(1, last + 1):
            if number in self.DOUBLED:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = self.get_submodule(f"tconv{number}")(x)
            x = F.relu(self.get_submodule(f"in{number}")(x)) if number < last else x.sigmoid()
        return x
