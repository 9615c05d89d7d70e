"""The network of StyleBank begins with pictures that look like their photographs."""

from __future__ import annotations

from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_batch.kernels.filter_banks import filtered
from kt_batch.models.identity_start import GREY, components
from kt_batch.models.stylebank import STRIDE, AutoEncoder, new_bank
from kt_batch.training.losses import lattice_error


def network(channels: int) -> AutoEncoder:
    torch.manual_seed(0)
    return AutoEncoder(channels)


def photograph(seed: int = 1) -> Tensor:
    """Broad forms with some detail, `(1, 3, 64, 64)`, of the contrast of a photograph."""
    generator = torch.Generator().manual_seed(seed)
    broad, fine = (torch.randn(1, 3, cells, cells, generator=generator) for cells in (6, 32))
    grown = [F.interpolate(each, size=(64, 64), mode="bicubic") for each in (broad, fine)]
    return (0.45 + 0.2 * grown[0] + 0.03 * grown[1]).clamp(0, 1)


def test_the_printed_network_has_a_place_for_each_component_of_a_cell() -> None:
    """3 colours, times 4 and 16 parts of a cell of 4 pixels: 48 pairs, three quarters of 128 channels."""
    assert [len(layer) for layer in components([32, 64, 128])] == [3, 12, 48]


def test_a_narrow_network_keeps_what_varies_most() -> None:
    """8, 16 and 32 channels have 3, 6 and 12 pairs; the second layer keeps the means and two edges of brightness."""
    colours, middle, last = components([8, 16, 32])
    assert (len(colours), len(last)) == (3, 12)
    assert [(each.parent, each.part) for each in middle] == [(0, 0), (1, 0), (0, 1), (0, 2), (2, 0), (0, 3)]
    assert [each.deviation for each in last] == sorted((each.deviation for each in last), reverse=True)


@torch.no_grad()
def test_without_normalisation_the_printed_network_gives_each_pixel_back() -> None:
    made, images = network(128), photograph()
    x = images
    for layer in made.encoder:
        convolution = cast("nn.Conv2d", layer)
        reach = convolution.kernel_size[0] // 2
        padded = F.pad(x, (reach,) * 4, mode="replicate")
        x = F.relu(F.conv2d(padded, convolution.weight, stride=convolution.stride))
    for layer in made.decoder:
        transposed = cast("nn.ConvTranspose2d", layer)
        x = F.relu(F.conv_transpose2d(x, transposed.weight, stride=2, padding=1, output_padding=1))
    output = F.conv2d(F.pad(x, (4, 4, 4, 4), mode="replicate"), made.out.weight)
    torch.testing.assert_close(output, images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [32, 64, 128])
@torch.no_grad()
def test_a_new_network_and_a_new_bank_keep_the_picture(channels: int) -> None:
    made, images = network(channels), photograph()
    bank = new_bank(channels, 3, torch.Generator().manual_seed(0))
    features = made.encode(images)
    for output in (made.decode(features), made.decode(filtered(features, bank))):
        both = torch.stack([output.mean(1).flatten(), images.mean(1).flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.9


@torch.no_grad()
def test_a_new_network_makes_no_grid_of_a_flat_picture() -> None:
    flat = torch.full((1, 3, 32, 32), 0.3)
    output = network(64)(flat)
    torch.testing.assert_close(output.mean(), torch.tensor(GREY), atol=0.02, rtol=0)
    assert lattice_error(output, STRIDE) < 1e-3


@pytest.mark.parametrize("channels", [4, 32, 128])
@torch.no_grad()
def test_each_channel_of_a_new_network_can_learn(channels: int) -> None:
    """A channel that is the same in all cells is 0 after its normalisation, and gets no gradient in any step."""
    made, images = network(channels), photograph()
    x = made.encode(images)
    for layer in made.decoder:
        x = layer(x)
        assert (x.std((2, 3)) > 1e-4).all()
        x = F.relu(x)
