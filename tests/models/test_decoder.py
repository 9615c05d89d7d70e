"""Decoders: a ladder of blocks, each of which keeps or doubles the size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kt_batch.models.decoder import Decoder


def decoder(*blocks: str, channels: int = 4, activation: str = "relu") -> Decoder:
    torch.manual_seed(0)
    return Decoder(channels, blocks, activation).requires_grad_(False)


def features(channels: int = 4) -> Tensor:
    return torch.randn(2, channels, 3, 5, generator=torch.Generator().manual_seed(1))


def convolved(network: Decoder, block: int, x: Tensor) -> Tensor:
    weight, bias = (network.get_parameter(f"block{block}.{part}") for part in ("weight", "bias"))
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight, bias)


@pytest.mark.parametrize(
    ("blocks", "shape"),
    [
        (("conv:6", "out"), (3, 5)),
        (("conv:6", "res", "out"), (3, 5)),
        (("conv:6", "up", "out"), (6, 10)),
        (("conv:6", "subpixel-out"), (6, 10)),
        (("conv:6", "subpixel:5", "out"), (6, 10)),
        (("conv:6", "res", "subpixel:5", "conv:4", "subpixel-out"), (12, 20)),
        (("subpixel:6", "up", "subpixel-out"), (24, 40)),
    ],
)
def test_up_and_subpixel_double_the_size_and_nothing_else_does(blocks: tuple[str, ...], shape: tuple[int, int]) -> None:
    assert decoder(*blocks)(features()).shape == (2, 3, *shape)


def test_a_subpixel_block_lays_four_channels_over_the_four_pixels_of_a_cell() -> None:
    network = decoder("subpixel-out")
    flat, found = convolved(network, 0, features()), network(features())
    assert flat.shape == (2, 12, 3, 5)
    for channel in range(3):
        for place, (row, col) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
            assert found[:, channel, row::2, col::2].equal(flat[:, 4 * channel + place])


@pytest.mark.parametrize(("activation", "function"), [("relu", F.relu), ("selu", F.selu)])
def test_a_subpixel_block_inside_is_activated(activation: str, function: object) -> None:
    network = decoder("subpixel:2", "out", activation=activation)
    assert callable(function)
    inner = F.pixel_shuffle(function(convolved(network, 0, features())), 2)
    torch.testing.assert_close(network(features()), convolved(network, 1, inner))


@pytest.mark.parametrize("last", ["out", "subpixel-out"])
def test_the_last_block_has_no_activation(last: str) -> None:
    assert decoder("conv:6", last)(features()).min() < 0


def test_a_decoder_that_is_used_answers_in_range() -> None:
    network = decoder("conv:6", "subpixel-out")
    assert network.decode(features() * 9).equal(network(features() * 9).clamp(0, 1))


def test_the_features_meet_the_first_convolution_first() -> None:
    assert decoder("conv:6", "res", "out").first_convolution().weight.shape == (6, 4, 3, 3)
    assert decoder("subpixel:6", "out").first_convolution().weight.shape == (24, 4, 3, 3)


def test_calm_residuals_are_a_tenth_and_other_blocks_as_they_were() -> None:
    network, before = decoder("conv:4", "res", "out"), decoder("conv:4", "res", "out").state_dict()
    network.calm_residuals()
    for name, value in network.state_dict().items():
        expected = before[name] * 0.1 if name == "block1.second.weight" else before[name]
        torch.testing.assert_close(value, expected)


def test_a_block_of_no_known_name_is_refused() -> None:
    with pytest.raises(ValueError, match="down"):
        decoder("conv:4", "down", "out")
