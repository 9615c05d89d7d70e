"""Pixels outside its box have zero gradient for a patch."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from kt_batch.models.encoder import Encoder, Preprocess
from kt_batch.models.layers import VGG19_LAYERS, boxes, kind, layers_up_to
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.store.images.files import pad_to

HEIGHT, WIDTH = 120, 104  # the inner boxes of relu4_1, 76 pixels wide, have an outside
PLACES = {
    "relu3_1": [(0, 0), (0, 24), (28, 0), (28, 24), (14, 11)],
    "relu4_1": [(0, 0), (0, 11), (13, 0), (13, 11), (6, 5)],
}


@cache
def encoder(layer: str) -> Encoder:
    """Return kt-vgg at relu3_1, and a narrow positive-weight VGG-19 at relu4_1."""
    if layer == "relu3_1":
        return load_encoder(EncoderSource()).network
    layers = layers_up_to(VGG19_LAYERS, layer)
    network = Encoder(layers, {name: (3,) for name in layers if kind(name) == "conv"}, Preprocess(mean=(0, 0, 0)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_((0.1 + torch.rand(parameter.shape, generator=generator)) / 30)
    return network.requires_grad_(False)


def sensitivity(image: Tensor, layer: str, row: int, col: int) -> Tensor:
    """Return |d patch / d pixel| summed over the pixel's channels, `(H, W)`; pads as for a working image."""
    stride = encoder(layer).geometry(layer).stride
    height, width = image.shape[1:]
    number = np.arange(height * width, dtype=np.float32).reshape(height, width, 1).repeat(3, axis=2)
    source = torch.from_numpy(pad_to(number, stride)[:, :, 0]).long()
    pixels = image.clone().requires_grad_()
    features = encoder(layer).encode(pixels.flatten(1)[:, source][None], layer)
    (gradient,) = torch.autograd.grad(features[0, :, row : row + 2, col : col + 2].sum(), pixels)
    return gradient.abs().sum(0)


def box(layer: str, row: int, col: int, height: int, width: int) -> tuple[slice, slice]:
    geometry = encoder(layer).geometry(layer)
    (y0,), (y1,) = boxes(np.array([row]), geometry, height)
    (x0,), (x1,) = boxes(np.array([col]), geometry, width)
    return slice(int(y0), int(y1)), slice(int(x0), int(x1))


def a_picture(height: int, width: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("layer", "place"), [(layer, place) for layer, places in PLACES.items() for place in places])
@pytest.mark.parametrize("missing", [0, 1, 3])
def test_no_pixel_outside_its_box_affects_a_patch(layer: str, place: tuple[int, int], missing: int) -> None:
    # The last stride lacks `missing` pixels: the working image is padded by reflection.
    height, width = HEIGHT - missing, WIDTH - missing
    gradient = sensitivity(a_picture(height, width), layer, *place)
    inside = box(layer, *place, height, width)
    assert gradient[inside].count_nonzero() > 100
    gradient[inside] = 0
    assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("mirrored", [(), (1,), (2,), (1, 2)])
def test_the_corners_of_a_box_affect_the_patch(mirrored: tuple[int, ...]) -> None:
    # Brightness falls from one corner to the opposite one. With positive weights, each pool takes the pixel nearest
    # to the bright corner, and the patch depends on the corner of its box.
    ramp = torch.arange(HEIGHT - 1, -1, -1.0)[:, None] + torch.arange(WIDTH - 1, -1, -1.0)
    light = (1 + ramp / 200).expand(3, -1, -1).flip(mirrored)
    row, col = PLACES["relu4_1"][-1]
    gradient = sensitivity(light, "relu4_1", row, col)
    inside = box("relu4_1", row, col, HEIGHT, WIDTH)
    assert gradient[inside].shape == (76, 76)
    corner = gradient[inside].flip([axis - 1 for axis in mirrored])[0, 0]
    assert corner > 0


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 9), (8, 5), (17, 18)])
def test_the_box_of_a_tiny_image_stays_within_it(height: int, width: int) -> None:
    gradient = sensitivity(a_picture(height, width), "relu3_1", 0, 0)
    inside = box("relu3_1", 0, 0, height, width)
    gradient[inside] = 0
    assert gradient.count_nonzero() == 0
    assert inside[0].stop <= height
    assert inside[1].stop <= width
