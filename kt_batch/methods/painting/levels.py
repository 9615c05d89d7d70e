"""The levels of a painting: where the encoder is cut, and how much of each level comes from the matched patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_batch.config import Layer
from kt_batch.kernels.colour import luminance
from kt_batch.kernels.smooth import quick_mean
from kt_batch.methods.features import check_finite
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder


@dataclass(frozen=True)
class Level:
    """One level of a painting.

    anchor: How much the photograph decides what is matched; the rest is the picture of the level before. share: How
    much of the features comes from the matched patches; the rest is the photograph, with the moments of the sources.
    flat_share: The same where the photograph is flat.
    """

    layer: Layer
    anchor: float
    share: float
    flat_share: float


# Where a photograph is flat, coarse patches would make blotches of two matches: it takes only their strokes.
LEVELS = (Level("relu4_1", 0.8, 0.25, 0.0), Level("relu3_1", 0.7, 0.3, 0.15), Level("relu2_1", 0.6, 0.3, 0.5))
LAST: Layer = "relu1_1"  # takes the moments of the sources only
LAYERS: tuple[Layer, ...] = (*(level.layer for level in LEVELS), LAST)

CARRIED = 0.25  # of what is moved, this comes from the picture of the level before, and the rest from the photograph
GAINS = (2.0, 3.0)  # most by which one step enlarges the contrast of broad parts and of detail: more swallows forms

FLAT, UNEVEN = 0.01, 0.04  # deviation of the luminance in a window: wholly flat below, not at all above
FLAT_ENOUGH = 0.1  # flatness from which on pieces of the sources are copied
SMALLEST = 1e-5  # deviation of a channel, below which it is not enlarged
CALM_PASSES = 2  # of a mean over 5 x 5 cells, over the flat parts of what is matched


def encode_levels(encoder: Encoder, image: Tensor, layers: tuple[Layer, ...] = LAYERS) -> dict[Layer, Tensor]:
    """Return the codes `(C, h, w)` float32 of an image `(3, H, W)` at some layers, without details.

    Raises WeightsError when they are not finite.
    """
    batch = image[None].contiguous(memory_format=torch.channels_last)
    found = encoder.activations(batch, layers)
    return {layer: check_finite(encoder.code(layer, found[layer])[0].contiguous(), layer) for layer in layers}


def encode_photograph(
    encoder: Encoder, image: Tensor, layers: tuple[Layer, ...] = LAYERS
) -> tuple[dict[Layer, Tensor], Tensor]:
    """Return codes as `encode_levels` does, and the features `(C, h, w)` of the first layer for an index."""
    batch = image[None].contiguous(memory_format=torch.channels_last)
    found = encoder.activations(batch, layers)
    codes = {layer: check_finite(encoder.code(layer, found[layer])[0].contiguous(), layer) for layer in layers}
    first = layers[0]
    return codes, encoder.features(first, found[first], batch)[0].contiguous()


def decode_code(decoder: Decoder, code: Tensor) -> Tensor:
    """Return the image `(3, H, W)` in [0, 1] of a code `(C, h, w)`: the details of no picture are restored."""
    none = code.new_zeros(decoder.details, *code.shape[1:])
    features = torch.cat([code, none])[None].contiguous(memory_format=torch.channels_last)
    return decoder.decode(features, None, 0.0)[0].contiguous()


def flatness(image: Tensor, stride: int) -> Tensor:
    """Return how flat an image `(3, H, W)` is around each cell, `(H / stride, W / stride)` in [0, 1].

    The deviation of the luminance is that of windows of 4 * stride + 1 pixels.
    """
    light = luminance(image)[None]
    mean, square = quick_mean(light, 2 * stride), quick_mean(light.square(), 2 * stride)
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    flat = ((UNEVEN - deviation) / (UNEVEN - FLAT)).clamp(0, 1)
    return F.avg_pool2d(flat, stride)[0]


def calm(features: Tensor, flat: Tensor) -> Tensor:
    """Return features `(C, h, w)`, smoothed as far as the picture is flat, so that noise chooses no match."""
    smooth = features
    for _ in range(CALM_PASSES):
        smooth = quick_mean(smooth, 2)
    return torch.lerp(features, smooth, flat)
