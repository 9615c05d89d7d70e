"""Encoders: plain layers, layers of low rank, codes and details."""

from __future__ import annotations

from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_batch.models.encoder import Encoder, Preprocess, Widths
from kt_batch.models.layers import VGG19_LAYERS

LAYERS = VGG19_LAYERS[:7]  # up to relu2_1
WIDTHS: dict[str, Widths] = {"conv1_1": (5,), "conv1_2": (2, 6), "conv2_1": (8,)}
CODES = {"relu1_1": 4, "relu2_1": 3}
AS_IS = Preprocess(mean=(0, 0, 0), std=(1, 1, 1))


def encoder(
    codes: dict[str, int] | None = None, padding: str = "reflect", details: dict[str, int] | None = None
) -> Encoder:
    torch.manual_seed(0)
    return Encoder(LAYERS, WIDTHS, AS_IS, padding, codes, details).requires_grad_(False)


def picture(size: int = 8) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def weights(network: Encoder, name: str) -> tuple[Tensor, Tensor]:
    return network.get_parameter(f"{name}.weight"), network.get_parameter(f"{name}.bias")


def padded(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="reflect")


# ---- layers ----


def test_the_weights_are_named_after_their_layers() -> None:
    network = encoder(CODES, details={"relu2_1": 2})
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == {
        "conv1_1.0.weight": (5, 3, 3, 3),
        "conv1_1.0.bias": (5,),
        "code_relu1_1.weight": (4, 5, 1, 1),
        "conv1_2.0.weight": (2, 4, 3, 3),
        "conv1_2.0.bias": (2,),
        "conv1_2.1.weight": (6, 2, 1, 1),
        "conv1_2.1.bias": (6,),
        "conv2_1.0.weight": (8, 6, 3, 3),
        "conv2_1.0.bias": (8,),
        "code_relu2_1.weight": (3, 8, 1, 1),
        "detail_relu2_1.weight": (2, 3, 2, 2),
    }


def test_a_low_rank_layer_is_two_convolutions_without_an_activation_between() -> None:
    network = encoder()
    found = network.activations(picture(), ("relu1_1", "conv1_2", "relu1_2"))
    down = F.conv2d(padded(found["relu1_1"]), *weights(network, "conv1_2.0"))
    assert down.min() < 0  # an activation would change them
    expected = F.conv2d(down, *weights(network, "conv1_2.1"))
    torch.testing.assert_close(found["conv1_2"], expected)
    torch.testing.assert_close(found["relu1_2"], expected.relu())


def test_a_low_rank_layer_equals_one_convolution_of_that_rank() -> None:
    network = encoder()
    (first, bias), (second, shift) = weights(network, "conv1_2.0"), weights(network, "conv1_2.1")
    matrix = second.flatten(1) @ first.flatten(1)  # 6 rows, of rank 2
    found = network.activations(picture(), ("relu1_1", "conv1_2"))
    one = F.conv2d(padded(found["relu1_1"]), matrix.view(6, 5, 3, 3), second.flatten(1) @ bias + shift)
    torch.testing.assert_close(found["conv1_2"], one)
    assert torch.linalg.matrix_rank(matrix) == 2


def test_padding_is_reflection_or_zeros() -> None:
    for padding, mode in (("reflect", "reflect"), ("zeros", "constant")):
        network = encoder(padding=padding)
        expected = F.conv2d(F.pad(picture(), (1, 1, 1, 1), mode=mode), *weights(network, "conv1_1.0"))
        torch.testing.assert_close(network.activations(picture(), ("conv1_1",))["conv1_1"], expected)


def test_a_layer_of_unknown_kind_is_refused() -> None:
    with pytest.raises(KeyError, match="norm"):
        Encoder(("conv1_1", "norm1_1"), {"conv1_1": (4,)}, AS_IS)


# ---- codes ----


def test_a_code_is_a_linear_map_of_the_activation() -> None:
    network = encoder({"relu2_1": 3})
    activation = network.activations(picture(), ("relu2_1",))["relu2_1"]
    assert activation.shape == (2, 8, 4, 4)
    assert activation.min() >= 0
    code = network.encode(picture(), "relu2_1")
    assert code.shape == (2, 3, 4, 4)
    assert code.min() < 0
    assert network.projection("relu2_1").shape == (3, 8, 1, 1)
    torch.testing.assert_close(
        code, torch.einsum("cn,bnhw->bchw", network.projection("relu2_1")[:, :, 0, 0], activation)
    )
    torch.testing.assert_close(network.code("relu2_1", activation), code)


def test_the_next_layer_receives_the_code() -> None:
    network = encoder({"relu1_1": 4})
    code = network.encode(picture(), "relu1_1")
    down = F.conv2d(padded(code), *weights(network, "conv1_2.0"))
    expected = F.conv2d(down, *weights(network, "conv1_2.1")).relu()
    torch.testing.assert_close(network.encode(picture(), "relu1_2"), expected)


def test_a_cut_without_a_code_returns_the_activation() -> None:
    network = encoder({"relu1_1": 4})
    activation = network.activations(picture(), ("relu2_1",))["relu2_1"]
    assert network.code("relu2_1", activation) is activation
    torch.testing.assert_close(network.encode(picture(), "relu2_1"), activation, atol=0, rtol=0)


# ---- details ----


def test_details_are_a_linear_map_of_the_pixels_of_each_cell() -> None:
    network = Encoder(LAYERS, WIDTHS, Preprocess(), codes={"relu2_1": 3}, details={"relu2_1": 2}).requires_grad_(False)
    weight = network.get_parameter("detail_relu2_1.weight").zero_()
    weight[0, 0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])  # of red
    weight[1, 2] = 1  # of blue
    image = torch.zeros(1, 3, 4, 4)
    image[0, 0, :2, :2] = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    image[0, 0, 2:, 2:] = 1
    image[0, 2, :2, 2:] = 0.5
    details = network.encode(image, "relu2_1")[0, 3:]
    # The network sees 4 x - 2. Red: 4 * 3 - 2 * 10, 0 - 20, 0 - 20, 4 * 10 - 20. Blue: 0 - 8, 8 - 8, 0 - 8, 0 - 8.
    torch.testing.assert_close(details, torch.tensor([[[-8.0, -20.0], [-20.0, 20.0]], [[-8.0, 0.0], [-8.0, -8.0]]]))


def test_details_are_concatenated_after_the_code() -> None:
    network = encoder({"relu2_1": 3}, details={"relu2_1": 2})
    activation = network.activations(picture(), ("relu2_1",))["relu2_1"]
    features = network.encode(picture(), "relu2_1")
    code = network.code("relu2_1", activation)
    assert features[:, :-2].equal(code)
    assert network.features("relu2_1", activation, picture()).equal(features)
    assert features.shape == (2, 3 + 2, 4, 4)


def test_the_next_layer_does_not_receive_the_details() -> None:
    network = encoder({"relu1_1": 4}, details={"relu1_1": 3})
    plain = encoder({"relu1_1": 4})
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if "detail" not in name})
    network.get_parameter("detail_relu1_1.weight").fill_(1000)
    assert network.encode(picture(), "relu2_1").equal(plain.encode(picture(), "relu2_1"))
    assert network.encode(picture(), "relu1_1").shape[1] == plain.encode(picture(), "relu1_1").shape[1] + 3


def test_a_cut_without_details_returns_the_code() -> None:
    network = encoder({"relu1_1": 4, "relu2_1": 3}, details={"relu1_1": 2})
    activation = network.activations(picture(), ("relu2_1",))["relu2_1"]
    assert network.features("relu2_1", activation, picture()).equal(network.code("relu2_1", activation))


@pytest.mark.parametrize("cut", ["relu1_1", "relu2_1"])
def test_details_are_one_convolution_of_the_picture(cut: str) -> None:
    torch.manual_seed(0)
    preprocess = Preprocess("bgr", 255.0, (100.0, 110.0, 120.0), (50.0, 60.0, 70.0))
    network = Encoder(LAYERS, WIDTHS, preprocess, codes=CODES, details={"relu1_1": 3, "relu2_1": 2})
    network.requires_grad_(False)
    detail, stride = cast("nn.Conv2d", network.pixel_detail(cut)), network.geometry(cut).stride
    assert (detail.kernel_size, detail.stride) == ((stride, stride), (stride, stride))
    expected = network.encode(picture(), cut)[:, -network.details[cut] :]
    torch.testing.assert_close(detail(picture()).detach(), expected, atol=1e-5, rtol=1e-5)


def test_an_encoder_without_details_has_no_convolution_for_them() -> None:
    assert encoder(CODES, details={"relu1_1": 2}).pixel_detail("relu2_1") is None


@pytest.mark.parametrize("details", [{}, {"relu2_1": 2}])
def test_the_code_is_the_features_without_the_details(details: dict[str, int]) -> None:
    network = encoder(CODES, details=details)
    assert network.code_channels("relu2_1") == 3
    code, features = network.encode_code(picture(), "relu2_1"), network.encode(picture(), "relu2_1")
    assert features.shape[1] == 3 + details.get("relu2_1", 0)
    assert code.equal(features[:, :3])


@pytest.mark.parametrize("codes", [None, {"relu1_1": 4}])
def test_details_at_a_cut_without_a_code_are_refused(codes: dict[str, int] | None) -> None:
    with pytest.raises(ValueError, match=r"^details at relu2_1, where there is no code; codes: \["):
        encoder(codes, details={"relu2_1": 2})


# ---- requests to an encoder ----


@pytest.mark.parametrize(
    ("codes", "details"),
    [({}, {}), ({"relu2_1": 3}, {}), (CODES, {"relu2_1": 2}), (CODES, {"relu1_1": 1, "relu2_1": 2})],
)
def test_channels_at_is_the_width_of_encode(codes: dict[str, int], details: dict[str, int]) -> None:
    network = encoder(codes, details=details)
    for cut, width in ({"relu1_1": 5, "relu1_2": 6, "relu2_1": 8} | codes).items():
        channels = width + details.get(cut, 0)
        stride = network.geometry(cut).stride
        assert network.channels_at(cut) == channels
        assert network.encode(picture(), cut).shape == (2, channels, 8 // stride, 8 // stride)


def test_encode_is_one_cut_of_forward() -> None:
    network = encoder(CODES, details={"relu1_1": 1})
    together = network.forward(picture(), ("relu2_1", "relu1_1"))
    assert set(together) == {"relu1_1", "relu2_1"}
    for cut, features in together.items():
        torch.testing.assert_close(network.encode(picture(), cut), features, atol=0, rtol=0)


class Untouched(nn.Module):
    """A layer that must not be reached."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("this layer was not asked for")


@pytest.mark.parametrize("names", [("relu1_1",), ("relu1_1", "relu1_2"), ("relu1_2", "relu1_2")])
def test_no_layer_beyond_the_last_requested_cut_is_computed(names: tuple[str, ...]) -> None:
    network = encoder()
    network.conv2_1 = Untouched()
    assert set(network.activations(picture(), names)) == set(names)


def test_pixels_are_scaled_to_the_range_of_the_network() -> None:
    preprocess = Preprocess("bgr", 255.0, (100.0, 110.0, 120.0), (1.0, 2.0, 4.0))
    blue = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    assert preprocess(blue).flatten().tolist() == [155, -55, -30]
