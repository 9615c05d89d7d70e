"""Distillation by regressions on the responses of the teacher."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_batch.models.encoder import Encoder, Preprocess, Widths
from kt_batch.models.layers import kind
from kt_batch.training import fitting
from kt_batch.training.fitting import DETAIL_ENERGY, DETAIL_SHARE, Moments, fit, fit_code, fit_details, fit_to, low_rank
from kt_batch.training.losses import unexplained_variance
from tests.support.tiny_training import WIDTHS, differing, encoder


def teacher() -> Encoder:
    return encoder(seed=1).requires_grad_(False)


def fitted(
    widths: Mapping[str, Widths] = WIDTHS,
    codes: Mapping[str, int] | None = None,
    details: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Encoder:
    network = encoder(widths, codes, details)
    fit(network, teacher(), pictures(), torch.Generator().manual_seed(seed))
    return network


def pictures(first: int = 0) -> list[Tensor]:
    """Four batches of two images, `(2, 3, 32, 32)`."""
    generator = torch.Generator().manual_seed(first)
    return [torch.rand(2, 3, 32, 32, generator=generator) for _ in range(4)]


@torch.no_grad()
def r2(network: Encoder, cut: str) -> float:
    """Return R2 of the network for the features of the teacher on unseen images."""
    (image, *_) = pictures(first=9)
    return 1 - unexplained_variance(network.activations(image, (cut,))[cut], teacher().encode(image, cut)).item()


class Responses(Encoder):
    """A teacher with responses but without accessible weights."""

    def __init__(self, network: Encoder) -> None:
        nn.Module.__init__(self)
        self._respond = network.activations

    def activations(self, image: Tensor, names: tuple[str, ...], *, average: bool = False) -> dict[str, Tensor]:
        return self._respond(image, names, average=average)


def linear(generator: torch.Generator, rank: int) -> tuple[Tensor, Tensor, Moments]:
    """Return 2000 inputs of 8 values, 10 targets by a map of `rank` with a bias, and their moments; float64."""
    x = torch.randn(2000, 8, generator=generator, dtype=torch.float64)
    down = torch.randn(8, rank, generator=generator, dtype=torch.float64)
    up = torch.randn(rank, 10, generator=generator, dtype=torch.float64)
    y = x @ down @ up + torch.arange(10)
    ones = torch.cat([x, torch.ones(2000, 1, dtype=torch.float64)], dim=1)
    return x, y, Moments(ones.T @ ones, ones.T @ y)


def left(x: Tensor, y: Tensor, down: Tensor, up: Tensor) -> float:
    """Return the share of the variance of y that y ~ (x A, 1) B does not explain."""
    found = x @ down @ up[:-1] + up[-1]
    return float((found - y).square().sum() / (y - y.mean(0)).square().sum())


# ---- convolutions ----


def test_a_student_as_wide_as_its_teacher_matches_its_responses() -> None:
    network = fitted()
    assert r2(encoder(), "relu2_1") < 0.5
    assert r2(network, "relu1_1") > 0.999
    assert r2(network, "relu2_1") > 0.99


def test_a_lower_rank_explains_less() -> None:
    found = [r2(fitted(WIDTHS | {"conv2_1": (rank, 16)}), "relu2_1") for rank in (2, 6, 12)]
    assert found == sorted(found)
    assert found[0] < found[-1] - 0.1
    assert found[-1] > 0.9


def test_a_layer_compensates_for_the_error_of_earlier_layers() -> None:
    # conv1_2 of rank 2 is fitted first; conv2_1 is then fitted to its output, not to the teacher's.
    network = fitted(WIDTHS | {"conv1_2": (2, 6)})
    exact = fitted()
    state = network.state_dict() | {k: v for k, v in exact.state_dict().items() if k.startswith("conv2_1")}
    pasted = encoder(WIDTHS | {"conv1_2": (2, 6)})
    pasted.load_state_dict(state)
    assert r2(network, "relu2_1") > r2(pasted, "relu2_1")


def test_low_rank_recovers_a_map_of_exactly_low_rank(generator: torch.Generator) -> None:
    x, y, moments = linear(generator, rank=3)
    down, up = low_rank(moments, 3, generator)
    assert (down.shape, up.shape) == ((8, 3), (4, 10))
    assert left(x, y, down, up) < 1e-5  # the ridge
    assert left(x, y, *low_rank(moments, 2, generator)) > 0.02


def test_low_rank_reaches_the_optimum_of_the_singular_values(generator: torch.Generator) -> None:
    # Eckart & Young: the best targets of rank 2 are the first two principal components of the targets.
    x, y, moments = linear(generator, rank=8)
    values = torch.linalg.svdvals(y - y.mean(0)).square()
    assert left(x, y, *low_rank(moments, 2, generator)) == pytest.approx(
        float(values[2:].sum() / values.sum()), rel=1e-3
    )


@torch.no_grad()
def test_a_convolution_is_recovered_from_its_responses(generator: torch.Generator) -> None:
    true, found = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3)
    inputs = [torch.randn(2, 3, 12, 10, generator=generator) for _ in range(4)]
    fit_to(found, inputs, [true(F.pad(x, (1, 1, 1, 1), mode="reflect")) for x in inputs])
    torch.testing.assert_close(found.state_dict(), true.state_dict(), atol=1e-4, rtol=0)


def test_equal_seeds_give_equal_weights() -> None:
    widths, codes = WIDTHS | {"conv2_1": (5, 16)}, {"relu2_1": 8}
    first, again, other = (fitted(widths, codes, seed=seed).state_dict() for seed in (3, 3, 4))
    assert differing(first, again) == set()
    assert differing(first, other)


def test_the_weights_of_the_teacher_are_never_read() -> None:
    widths, codes = WIDTHS | {"conv2_1": (5, 16)}, {"relu2_1": 8}
    blind = encoder(widths, codes)
    veiled = Responses(teacher())
    assert list(veiled.parameters()) == []
    fit(blind, veiled, pictures(), torch.Generator().manual_seed(0))
    assert differing(blind.state_dict(), fitted(widths, codes).state_dict()) == set()


def test_every_weight_is_fitted_and_no_random_one_remains() -> None:
    widths, codes = WIDTHS | {"conv1_2": (3, 6), "conv2_1": (5, 16)}, {"relu1_1": 4, "relu2_1": 8}
    found = [encoder(widths, codes, {"relu1_1": 1, "relu2_1": 2}, seed) for seed in (5, 6)]
    for network in found:
        fit(network, teacher(), pictures(), torch.Generator().manual_seed(0))
    first, second = (network.state_dict() for network in found)
    middle = {f"{name}.0.bias" for name in widths if kind(name) == "conv" and len(widths[name]) == 2}
    assert middle <= set(first)
    assert all(first[name].count_nonzero() == 0 for name in middle)  # the bias is the second convolution's
    assert differing(first, second) == set()


# ---- codes ----


@pytest.mark.parametrize("width", [3, 8, 16])
def test_the_rows_of_a_code_are_orthonormal(width: int) -> None:
    rows = fitted(codes={"relu2_1": width}).projection("relu2_1").detach()[:, :, 0, 0]
    torch.testing.assert_close(rows @ rows.T, torch.eye(width), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_code_as_wide_as_its_layer_preserves_every_inner_product() -> None:
    network = fitted(codes={"relu2_1": 16})
    (image, *_) = pictures()
    before = network.activations(image, ("relu2_1",))["relu2_1"].flatten(2)
    after = network.encode(image, "relu2_1").flatten(2)
    torch.testing.assert_close(after.mT @ after, before.mT @ before, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_a_narrow_code_consists_of_the_principal_directions() -> None:
    # Too few channels for one to be chosen for the detail.
    assert DETAIL_SHARE > 4
    network = fitted(codes={"relu2_1": 4})
    cells = torch.cat([network.activations(image, ("relu2_1",))["relu2_1"] for image in pictures()])
    cells = cells.permute(0, 2, 3, 1).flatten(0, 2)
    values = torch.linalg.svdvals(cells).square()
    rows = network.projection("relu2_1")[:, :, 0, 0]
    kept = (cells @ rows.T).square().sum(0)
    torch.testing.assert_close(kept, values[:4], rtol=1e-3, atol=0)


@torch.no_grad()
def test_the_last_directions_are_chosen_for_the_detail_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "DETAIL_SHARE", 8)  # one of 8
    # 15 bright channels see red through different filters, a faint one sees green. Green is last by variance, but a few
    # of the others suffice for red, and none has green.
    preprocess = Preprocess(mean=(0, 0, 0), std=(1, 1, 1))
    network = Encoder(("conv1_1", "relu1_1"), {"conv1_1": (16,)}, preprocess, codes={"relu1_1": 8})
    weight, bias = network.get_parameter("conv1_1.0.weight"), network.get_parameter("conv1_1.0.bias")
    weight.zero_()
    bias.fill_(5)
    weight[:15, 0] = torch.randn(15, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[15, 1, 1, 1], bias[15] = 0.1, 0
    fit_code(network, "relu1_1", pictures())
    rows = network.projection("relu1_1")[:, :, 0, 0]
    assert rows[:7, 15].abs().max() < 0.1
    assert rows[7, 15].abs() > 0.5  # by variance alone: 0.002


# ---- details ----


def detailed() -> Encoder:
    """A code of 6 channels and 3 of details at relu2_1, where a cell has 12 pixel values."""
    return fitted(codes={"relu2_1": 6}, details={"relu2_1": 3})


def rows_of_details(network: Encoder, cut: str) -> Tensor:
    return network.get_parameter(f"detail_{cut}.weight").detach().flatten(1)


def test_the_directions_of_the_details_are_orthogonal_and_of_equal_length() -> None:
    rows = rows_of_details(detailed(), "relu2_1")
    products = rows @ rows.T / rows[0].square().sum()
    torch.testing.assert_close(products, torch.eye(3), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_details_have_their_share_of_the_mean_square_of_the_code() -> None:
    network = detailed()
    inner = torch.cat([network.encode(image, "relu2_1") for image in pictures()])[:, :, 1:-1, 1:-1]  # what is fitted
    code, details = inner[:, :6], inner[:, 6:]
    assert details.square().sum().item() == pytest.approx(DETAIL_ENERGY * code.square().sum().item(), rel=1e-4)


@torch.no_grad()
def decodable(network: Encoder) -> float:
    """Return the share of variance of other images' pixels that a regression on the surrounding 3x3 cells explains."""

    def cells(image: Tensor) -> tuple[Tensor, Tensor]:
        x = F.unfold(network.encode(image, "relu2_1"), 3).mT.flatten(0, 1)
        y = F.pixel_unshuffle(image, 2)[:, :, 1:-1, 1:-1].permute(0, 2, 3, 1).flatten(0, 2)
        return torch.cat([x, torch.ones(len(x), 1)], dim=1).double(), y.double()

    x, y = cells(torch.cat(pictures()))
    solution = torch.linalg.lstsq(x, y).solution
    x, y = cells(torch.cat(pictures(first=9)))
    return 1 - float((x @ solution - y).square().sum() / (y - y.mean(0)).square().sum())


def test_a_linear_decoder_explains_more_of_the_image_with_details_and_most_with_fitted_ones() -> None:
    network, random = detailed(), detailed()
    alone = fitted(codes={"relu2_1": 6})
    weight = torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    random.load_state_dict({"detail_relu2_1.weight": weight}, strict=False)
    assert decodable(alone) + 0.1 < decodable(random)
    assert decodable(random) + 0.01 < decodable(network)


@torch.no_grad()
def test_the_details_exclude_the_content_of_the_code() -> None:
    # The code holds red of each pixel, the third channel of a network that reads BGR; green and blue are missing.
    network = Encoder(
        ("conv1_1", "relu1_1"), {"conv1_1": (1,)}, Preprocess("bgr"), codes={"relu1_1": 1}, details={"relu1_1": 2}
    )
    network.get_parameter("conv1_1.0.weight").zero_()[0, 2, 1, 1] = 1
    network.get_parameter("conv1_1.0.bias").fill_(5)  # the ReLU lets everything through
    network.projection("relu1_1").fill_(1)
    fit_details(network, "relu1_1", pictures())
    rows = F.normalize(rows_of_details(network, "relu1_1"))
    torch.testing.assert_close(rows[:, 2], torch.zeros(2), atol=1e-3, rtol=0)
