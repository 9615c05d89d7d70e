"""The first weights of the auto-encoder of StyleBank: it begins with pictures that look like their photographs.

Random weights of a network with three normalisations begin with a blur, and take long to learn where a pixel was. Here
some channels begin as pairs: one holds a component of the picture, its neighbour the same component negated. After the
ReLU, their difference is the component again. The first layer has the components of colour, brightness before
opponents; a stride divides each into the four of a Haar transform of 2x2 cells. Those that vary most in photographs
have a place, and each normalisation begins with the usual deviation of its component, since it takes away the true one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

COLOURS = ((1 / 3, 1 / 3, 1 / 3), (0.5, 0.0, -0.5), (-0.25, 0.5, -0.25))  # of R, G, B: brightness and two opponents
DEVIATIONS = (0.22, 0.08, 0.04)  # of the components in photographs
HAAR = ((1.0, 1.0, 1.0, 1.0), (1.0, -1.0, 1.0, -1.0), (1.0, 1.0, -1.0, -1.0), (1.0, -1.0, -1.0, 1.0))
SHARES = (0.96, 0.2, 0.2, 0.1)  # of a component's deviation that its four parts have
GREY = 0.45  # the mean of photographs
QUIET = min(DEVIATIONS)  # of a channel of the decoder beyond the pairs
PAIRED = 3 / 4  # of the channels of a layer


@dataclass(frozen=True)
class Component:
    """A component of a layer. parent: Its number in the layer before. part: Which of the four. deviation: Usual one."""

    parent: int
    part: int
    deviation: float


def components(widths: Sequence[int]) -> list[list[Component]]:
    """Return the components of the three layers of an encoder, which has as many channels in each."""
    layers = [[Component(number, 0, deviation) for number, deviation in enumerate(DEVIATIONS)][: widths[0] // 2]]
    for width in widths[1:]:
        parts = [
            Component(parent, part, component.deviation * SHARES[part])
            for parent, component in enumerate(layers[-1])
            for part in range(4)
        ]
        parts.sort(key=lambda component: -component.deviation)
        layers.append(parts[: int(width * PAIRED) // 2])
    return layers


@torch.no_grad()
def start_as_identity(encoder: nn.ModuleList, decoder: nn.ModuleList, out: nn.Conv2d, norms: nn.ModuleList) -> None:
    """Set the weights of an auto-encoder whose channels are random; channels beyond the pairs keep random filters.

    Args:
        encoder: Three convolutions, the last two of stride 2.
        decoder: Two fractionally strided convolutions.
        out: The last convolution, to pixels.
        norms: The normalisations after all but the last.
    """
    convolutions = [cast("nn.Conv2d", layer) for layer in encoder]
    layers = components([layer.out_channels for layer in convolutions])
    colours, haar = torch.tensor(COLOURS, device="cpu"), _haar()
    middle = convolutions[0].kernel_size[0] // 2
    for number, colour in enumerate(colours[: len(layers[0])]):
        _set_pair(convolutions[0].weight, number, colour[:, None, None], middle)
    for convolution, parts in zip(convolutions[1:], layers[1:], strict=True):
        for number, each in enumerate(parts):
            filters = _paired(haar[each.part] / 4, each.parent, convolution.in_channels)
            _set_pair(convolution.weight, number, filters, 1)
    for layer, parts, above in zip(decoder, layers[:0:-1], layers[-2::-1], strict=True):
        _set_parents(cast("nn.ConvTranspose2d", layer).weight, parts, len(above))
    out.weight.zero_()
    middle = out.kernel_size[0] // 2
    pixels = torch.linalg.inv(colours)[:, : len(layers[0])]
    out.weight[:, : 2 * len(layers[0]), middle, middle] = torch.stack([pixels, -pixels], 2).flatten(1)
    cast("Tensor", out.bias).fill_(GREY)
    for number, (norm, parts) in enumerate(zip(norms, (*layers, *layers[-2::-1]), strict=True)):
        weight = cast("nn.GroupNorm", norm).weight
        if number >= len(layers):
            weight.fill_(QUIET)
        weight[: 2 * len(parts)] = weight.new_tensor([each.deviation for each in parts]).repeat_interleave(2)


def _set_pair(weight: Tensor, number: int, filters: Tensor, first: int) -> None:
    """Let two channels of a convolution be filters `(c, h, w)`, from tap `first` on, and their negation."""
    height, width = filters.shape[1:]
    for sign, channel in ((1, 2 * number), (-1, 2 * number + 1)):
        weight[channel].zero_()
        weight[channel, :, first : first + height, first : first + width] = sign * filters


def _set_parents(weight: Tensor, parts: Sequence[Component], parents: int) -> None:
    """Let pairs of a fractionally strided convolution be the sum of their parts; other channels keep random filters.

    No channel begins without filters: the normalisation of a constant has no gradient, so it could never learn any.
    """
    haar, whole = _haar(), {each.parent for each in parts}
    for parent in range(parents):
        one, other = 2 * parent, 2 * parent + 1
        if parent in whole:
            weight[:, one : other + 1] = 0
        else:
            weight[:, other] = weight[:, one]  # so that their difference is nothing
    for number, each in enumerate(parts):
        for sign, channel in ((1, 2 * number), (-1, 2 * number + 1)):
            weight[channel, 2 * each.parent, 1:, 1:] = sign * haar[each.part]
            weight[channel, 2 * each.parent + 1, 1:, 1:] = -sign * haar[each.part]


def _haar() -> Tensor:
    return torch.tensor(HAAR, device="cpu").view(4, 2, 2)


def _paired(taps: Tensor, parent: int, width: int) -> Tensor:
    """Return filters `(width, h, w)` that read the component of a pair."""
    filters = taps.new_zeros(width, *taps.shape)
    filters[2 * parent], filters[2 * parent + 1] = taps, -taps
    return filters
