"""The auto-encoder of StyleBank (Chen et al. 2017, section 3.2). Filter banks stand between its two halves."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_batch.models.identity_start import start_as_identity

STRIDE = 4  # pixels of a cell
EPSILON = 1e-5  # added to variances
NOISE = 0.1  # of a new bank, beside the usual values of a convolution


class AutoEncoder(nn.Module):
    """Pixels to features and back.

    The encoder is a 9x9 convolution and two 3x3 convolutions of stride 2; the decoder mirrors it with two fractionally
    strided 3x3 convolutions and a 9x9 one. Instance normalisation and a ReLU follow each but the last.

    The first normalisation removes a constant from every channel of its image. So the network cannot know how bright
    or how contrasty a photograph is: pictures of one photograph at several exposures have one reconstruction.

    Attributes:
        channels: Of the features, C. The layers before have C/4 and C/2. The paper has 128, 64 and 32.
    """

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        self.channels = channels
        first, second = channels // 4, channels // 2
        self.encoder = nn.ModuleList(
            [nn.Conv2d(3, first, 9), nn.Conv2d(first, second, 3, stride=2), nn.Conv2d(second, channels, 3, stride=2)]
        )
        self.decoder = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels, second, 3, stride=2, padding=1, output_padding=1),
                nn.ConvTranspose2d(second, first, 3, stride=2, padding=1, output_padding=1),
            ]
        )
        self.out = nn.Conv2d(first, 3, 9)
        self.norms = nn.ModuleList(nn.GroupNorm(width, width) for width in (first, second, channels, second, first))
        start_as_identity(self.encoder, self.decoder, self.out, self.norms)

    def encode(self, images: Tensor) -> Tensor:
        """Encode images `(n, 3, H, W)` RGB in [0, 1] to features `(n, C, H / 4, W / 4)`; sides are multiples of 4."""
        x = images
        for number, layer in enumerate(self.encoder):
            convolution = cast("nn.Conv2d", layer)
            x = self._activated(number, convolution(_pad(x, convolution)))
        return x

    def decode(self, features: Tensor) -> Tensor:
        """Decode features `(n, C, h, w)` to images `(n, 3, 4 h, 4 w)`, not clamped."""
        x = features
        for number, layer in enumerate(self.decoder):
            x = self._activated(3 + number, layer(x))
        out: Tensor = self.out(_pad(x, self.out))
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Return the reconstruction of images `(n, 3, H, W)`, not clamped."""
        return self.decode(self.encode(images))

    def _activated(self, number: int, x: Tensor) -> Tensor:
        """Return the ReLU of the instance normalisation: one group per channel, which also takes a single cell."""
        norm = cast("nn.GroupNorm", self.norms[number])
        normed = torch.group_norm(x, norm.num_groups, norm.weight, norm.bias, EPSILON)
        return F.relu(normed)


def new_bank(channels: int, kernel: int, generator: torch.Generator) -> Tensor:
    """Return a bank `(C, C, k, k)` that keeps features but for small random values.

    These are uniform within NOISE / sqrt(C k^2) around 0.
    """
    bound = NOISE / math.sqrt(channels * kernel**2)
    bank = (2 * torch.rand(channels, channels, kernel, kernel, generator=generator, device="cpu") - 1) * bound
    bank[:, :, kernel // 2, kernel // 2] += torch.eye(channels, device="cpu")
    return bank


def _pad(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    reach = convolution.kernel_size[0] // 2
    return F.pad(x, (reach, reach, reach, reach), mode="replicate")
