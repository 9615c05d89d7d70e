"""Decoders: blocks, a direct convolution, and the restoration of details."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kt_batch.errors import WeightsError
from kt_batch.models.decoder import Decoder


def decoder(
    *blocks: str, channels: int = 4, activation: str = "relu", direct: bool = False, details: int = 0
) -> Decoder:
    torch.manual_seed(0)
    return Decoder(channels, blocks, activation, direct=direct, details=details).requires_grad_(False)


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
def test_only_up_and_subpixel_blocks_double_the_size(blocks: tuple[str, ...], shape: tuple[int, int]) -> None:
    assert decoder(*blocks)(features()).shape == (2, 3, *shape)


def test_a_subpixel_block_distributes_four_channels_over_the_pixels_of_a_cell() -> None:
    network = decoder("subpixel-out")
    flat, found = convolved(network, 0, features()), network(features())
    assert flat.shape == (2, 12, 3, 5)
    for channel in range(3):
        for place, (row, col) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
            assert found[:, channel, row::2, col::2].equal(flat[:, 4 * channel + place])


@pytest.mark.parametrize(("activation", "function"), [("relu", F.relu), ("selu", F.selu)])
def test_a_subpixel_block_before_the_last_has_an_activation(activation: str, function: object) -> None:
    network = decoder("subpixel:2", "out", activation=activation)
    assert callable(function)
    inner = F.pixel_shuffle(function(convolved(network, 0, features())), 2)
    torch.testing.assert_close(network(features()), convolved(network, 1, inner))


@pytest.mark.parametrize("last", ["out", "subpixel-out"])
def test_the_last_block_has_no_activation(last: str) -> None:
    assert decoder("conv:6", last)(features()).min() < 0


def test_decode_returns_values_in_range() -> None:
    network = decoder("conv:6", "subpixel-out")
    assert network.decode(features() * 9).equal(network(features() * 9).clamp(0, 1))


def test_the_first_convolution_receives_the_features() -> None:
    (plain,) = decoder("conv:6", "res", "out").first_convolutions()
    (subpixel,) = decoder("subpixel:6", "out", channels=9, details=2).first_convolutions()
    assert plain.weight.shape == (6, 4, 3, 3)
    assert subpixel.weight.shape == (24, 7, 3, 3)


def test_with_a_direct_convolution_two_convolutions_receive_the_features() -> None:
    network = decoder("conv:6", "subpixel-out", channels=9, direct=True, details=2)
    ladder, direct = network.first_convolutions()
    assert ladder is network.get_submodule("block0")
    assert direct is network.direct
    assert ladder.weight.shape == (6, 7, 3, 3)
    assert direct.weight.shape == (12, 7, 3, 3)


def test_calm_residuals_are_scaled_by_a_tenth_and_other_blocks_unchanged() -> None:
    network, before = decoder("conv:4", "res", "out"), decoder("conv:4", "res", "out").state_dict()
    network.calm_residuals()
    for name, value in network.state_dict().items():
        expected = before[name] * 0.1 if name == "block1.second.weight" else before[name]
        torch.testing.assert_close(value, expected)


def test_with_a_direct_convolution_the_blocks_start_at_zero() -> None:
    network = decoder("conv:6", "res", "subpixel-out", direct=True)
    network.get_parameter("block2.bias").zero_()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.calm_residuals()
    factors = {"block1.second.weight": 0.1, "block2.weight": 0}
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name] * factors.get(name, 1))
    assert network(features()).equal(F.pixel_shuffle(convolved_directly(network, features()), 2))


def test_a_block_of_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="down"):
        decoder("conv:4", "down", "out")


# ---- direct ----


def convolved_directly(network: Decoder, x: Tensor) -> Tensor:
    weight, bias = network.get_parameter("direct.weight"), network.get_parameter("direct.bias")
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight, bias)


def silent(network: Decoder) -> Decoder:
    """Return the decoder with blocks that return 0."""
    last = f"block{len(network.blocks) - 1}"
    for part in ("weight", "bias"):
        network.get_parameter(f"{last}.{part}").zero_()
    return network


def test_a_direct_convolution_is_added_to_the_output_of_the_blocks() -> None:
    network = decoder("conv:6", "subpixel-out", direct=True)
    ladder = decoder("conv:6", "subpixel-out")
    ladder.load_state_dict({name: value for name, value in network.state_dict().items() if "block" in name})
    expected = ladder(features()) + F.pixel_shuffle(convolved_directly(network, features()), 2)
    torch.testing.assert_close(network(features()), expected)


def test_a_direct_convolution_sets_every_pixel_of_a_cell() -> None:
    network = silent(decoder("conv:6", "subpixel-out", channels=1, direct=True))
    weight, bias = network.get_parameter("direct.weight").zero_(), network.get_parameter("direct.bias").zero_()
    weight[:4, 0, 1, 1] = torch.tensor([1.0, 2.0, 3.0, 4.0])  # red at the four pixels of a cell
    bias[8:] = 0.5  # blue everywhere
    image = network(torch.tensor([[[[1.0, 10.0], [100.0, 0.0]]]]))[0]
    assert image[0].tolist() == [[1, 2, 10, 20], [3, 4, 30, 40], [100, 200, 0, 0], [300, 400, 0, 0]]
    assert image[1].count_nonzero() == 0
    assert image[2].unique().tolist() == [0.5]


# ---- details ----


def detailed(direct: bool = False) -> Decoder:
    """Return a decoder of four channels and two details.

    One detail is the left minus the right column of a cell in red, the other the sum in green.
    """
    network = decoder("conv:6", "subpixel-out", channels=6, direct=direct, details=2)
    weight = network.get_parameter("detail.weight").zero_()
    weight[0, 0] = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    weight[1, 1] = 1
    network.get_parameter("detail.bias").copy_(torch.tensor([0.5, -0.25]))
    return network


def details_of(network: Decoder, image: Tensor) -> Tensor:
    return F.conv2d(image, network.get_parameter("detail.weight"), network.get_parameter("detail.bias"), stride=2)


def test_details_are_restored_at_their_cells() -> None:
    given = torch.zeros(1, 6, 2, 2)
    given[0, 4] = torch.tensor([[4.5, 0.5], [0.5, -3.5]])
    given[0, 5] = torch.tensor([[-0.25, 7.75], [-0.25, -0.25]])
    image = silent(detailed())(given)[0]
    # The ladder's black image has the details 0.5 and -0.25: 4 and -4 are missing of red, 8 of green, over 4 pixels.
    assert image[0].tolist() == [[1, -1, 0, 0], [1, -1, 0, 0], [0, 0, -1, 1], [0, 0, -1, 1]]
    assert image[1].tolist() == [[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert image[2].count_nonzero() == 0


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_the_details_of_the_output_change_in_proportion_to_their_weight(weight: float, direct: bool) -> None:
    network, given = detailed(direct), features(channels=6)
    start = details_of(network, network(given, detail_weight=0.0))
    assert (given[:, 4:] - start).abs().min() > 1e-3  # the details are not yet restored
    found = details_of(network, network(given, detail_weight=weight))
    torch.testing.assert_close(found, start + weight * (given[:, 4:] - start), atol=1e-5, rtol=0)


def test_details_are_restored_in_full_by_default() -> None:
    network, given = detailed(), features(channels=6)
    assert network(given).equal(network(given, detail_weight=1.0))
    assert network.decode(given).equal(network(given, detail_weight=1.0).clamp(0, 1))
    assert network.decode(given, detail_weight=0.5).equal(network(given, detail_weight=0.5).clamp(0, 1))


def test_restoring_details_changes_only_their_directions() -> None:
    network, given = detailed(), features(channels=6)
    moved = network(given) - network(given, detail_weight=0.0)
    assert moved[:, 2].count_nonzero() == 0  # blue
    red, green = moved[:, 0], moved[:, 1]
    torch.testing.assert_close(red[:, :, 0::2], -red[:, :, 1::2], atol=1e-6, rtol=0)
    torch.testing.assert_close(green[:, 0::2, 0::2], green[:, 1::2, 1::2], atol=1e-6, rtol=0)


@pytest.mark.parametrize("direct", [False, True])
def test_neither_the_blocks_nor_the_direct_convolution_receive_the_details(direct: bool) -> None:
    network, given = detailed(direct), features(channels=6)
    plain = decoder("conv:6", "subpixel-out", direct=direct)
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if "detail" not in name})
    assert network(given, detail_weight=0.0).equal(plain(given[:, :4]))


def test_swapped_features_get_the_details_missing_from_the_original_ones() -> None:
    network = Decoder(6, ("conv:3", "subpixel-out"), details=2)
    torch.manual_seed(0)
    swapped, own = torch.rand(1, 6, 3, 3), torch.rand(1, 6, 3, 3)
    added = network(own) - network(own, detail_weight=0)
    torch.testing.assert_close(network(swapped, own) - network(swapped, detail_weight=0), added)
    changed = swapped.clone()
    changed[:, 4:] += 1  # its own details do not count
    assert network(changed, own).equal(network(swapped, own))


@torch.no_grad()
@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0]], None),
        ([[1.0, 1.0, 0.0], [1.0, -1.0, 0.05]], None),  # 0.0025 / 2 longer
        ([[1.0, 1.0, 0.0], [1.0, -1.0, 0.2]], "0.02"),
        ([[1.0, 1.0, 0.0], [1.0, -0.9, 0.0]], "0.095"),  # (1 + 0.81) / 2
        ([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], "3"),
        ([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], "1"),
        ([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], "nan"),
    ],
)
def test_only_orthogonal_directions_of_equal_length_can_be_restored(rows: list[list[float]], error: str | None) -> None:
    network = decoder("conv:6", "out", details=2)
    network.get_parameter("detail.weight").copy_(torch.tensor(rows)[:, :, None, None])
    if error is None:
        network.check_details("here")
        return
    with pytest.raises(WeightsError, match=rf"^The details here cannot be restored: .* off by {error} of a .*\.$"):
        network.check_details("here")


def test_a_decoder_without_details_passes_the_check() -> None:
    decoder("conv:6", "out").check_details("here")


@torch.no_grad()
def test_rounding_to_float16_twice_leaves_details_that_can_be_restored() -> None:
    network = decoder("conv:6", "up", "up", "out", details=2)
    weight = network.get_parameter("detail.weight")
    # Each rounding makes the first row as much shorter as rounding can, and the second as much longer.
    weight.copy_(torch.ones(2, 3, 4, 4))
    weight[1, :, ::2] *= -1
    for _ in range(2):
        weight[0] *= 1 - 2**-11
        weight[1] *= 1 + 2**-11
    network.check_details("here")
