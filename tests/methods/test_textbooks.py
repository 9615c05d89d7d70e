"""Published methods beside the formulas of their papers, written out plainly, on the authors' own networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from kt_batch.config import EncoderConfig
from kt_batch.kernels.gram import gram, style_loss
from kt_batch.kernels.grid import without_grid
from kt_batch.kernels.iterative import Goal
from kt_batch.kernels.whitening import whiten_and_colour
from kt_batch.methods.adain import Adain, AdainConfig, adain, statistics
from kt_batch.methods.base import Resources
from kt_batch.methods.gatys import CONTENT, OUTSIDE, STYLE, Gatys, GatysConfig, activations
from kt_batch.methods.styles import Parts
from kt_batch.methods.wct import Wct, WctConfig
from kt_batch.models.weights import EncoderSource, load_decoder, load_encoder
from tests.support.small_pictures import picture, translated

WEIGHTS = Path(__file__).parents[3] / "shared" / "data" / "weights"
ENCODER = WEIGHTS / "vgg19_normalised_relu4_1.safetensors"
BLUE_GREEN_RED = (103.939, 116.779, 123.68)
STEPS = 10  # evaluations of both optimisers: losses differ by 1e-7 then; last bits have grown to 4 % after 30
POOLED = (2, 7, 16)  # the numbers of the convolutions before a maximum over 2 x 2

needs_weights = pytest.mark.skipif(not ENCODER.is_file(), reason=f"the authors' weights are not at {WEIGHTS}")


def convolved(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, state[f"{name}.weight"].float(), state[f"{name}.bias"].float())


def textbook_features(image: Tensor, last: int) -> Tensor:
    """Return the features `(C, n)` of VGG-19 after convolution number `last`."""
    state = load_file(ENCODER)
    x = (image.flip(0) * 255 - torch.tensor(BLUE_GREEN_RED)[:, None, None])[None]
    for number in (0, 2, 5, 7, 10, 12, 14, 16, 19):
        x = F.relu(convolved(x, state, f"features.{number}"))
        if number == last:
            break
        if number in POOLED:
            x = F.max_pool2d(x, 2)
    return x[0].flatten(1)


def textbook_picture(features: Tensor, size: tuple[int, int], file: str, doubled: tuple[int, ...], last: int) -> Tensor:
    """Return the picture that a decoder makes, less its grid; after the convolutions `doubled` it enlarges its maps."""
    state, x = load_file(WEIGHTS / file), features.view(1, -1, *size)
    for number in range(1, last + 1):
        x = convolved(x, state, f"conv{number}")
        x = F.relu(x) if number < last else x
        x = F.interpolate(x, scale_factor=2, mode="nearest") if number in doubled else x
    return without_grid(x[0].clamp(0, 1), 2 ** len(doubled))


def ratio_in_decibels(found: Tensor, expected: Tensor) -> float:
    return float(-10 * (found - expected).square().mean().log10())


@needs_weights
def test_adain_makes_the_picture_of_its_formula() -> None:
    # Eq. 8 of Huang & Belongie: sigma(y) (x - mu(x)) / sigma(x) + mu(y).
    photo, painting = picture(1), picture(2)
    x, y = textbook_features(photo, 19), textbook_features(painting, 19)
    mixed = y.std(1, keepdim=True) * (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)
    mixed = mixed + y.mean(1, keepdim=True)
    expected = textbook_picture(mixed, (8, 6), "decoder_adain_relu4_1.safetensors", (1, 5, 7), 9)
    encoder = load_encoder(EncoderSource("vgg19", str(ENCODER)))
    decoder = load_decoder(encoder, "vgg19", "relu4_1", str(WEIGHTS / "decoder_adain_relu4_1.safetensors"))
    config = AdainConfig(encoder=EncoderConfig(weights_sha256="", layer="relu4_1", size=64), styles=("0" * 16,))
    resources = Resources(encoder=encoder.network, decoder=decoder.network, styles={"0" * 16: painting})
    assert ratio_in_decibels(translated(Adain(config, resources), photo), expected) >= 45


@needs_weights
def test_wct_at_relu3_1_makes_the_picture_of_its_formula() -> None:
    # Eq. 2 and 3 of Li et al., by singular values; those of the photograph of at most 1e-5 are left out.
    photo, painting = picture(1), picture(2)
    x, y = textbook_features(photo, 10).double(), textbook_features(painting, 10).double()
    x, mean = x - x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    y = y - mean
    (own, d_x, _), (styles, d_y, _) = (torch.linalg.svd(z @ z.T / (z.shape[1] - 1)) for z in (x, y))
    kept = d_x > 1e-5
    white = own[:, kept] @ torch.diag(d_x[kept].rsqrt()) @ own[:, kept].T @ x
    coloured = styles @ torch.diag(d_y.sqrt()) @ styles.T @ white + mean
    expected = textbook_picture(coloured.float(), (16, 12), "decoder_wct_relu3_1.safetensors", (1, 3), 5)
    encoder = load_encoder(EncoderSource("vgg19", str(ENCODER)))
    decoder = load_decoder(encoder, "vgg19", "relu3_1", str(WEIGHTS / "decoder_wct_relu3_1.safetensors"))
    settings = EncoderConfig(weights_sha256="", layer="relu3_1", size=64)
    config = WctConfig(encoder=settings, styles=("0" * 16,), levels=1, alpha=1)
    resources = Resources(encoder=encoder.network, decoders={"relu3_1": decoder.network}, styles={"0" * 16: painting})
    assert ratio_in_decibels(translated(Wct(config, resources), photo), expected) >= 45


def test_gatys_comes_to_the_loss_of_torchs_optimiser_on_the_printed_formulas() -> None:
    # Eq. 1 to 7 of Gatys et al.; each Gram matrix is divided by its cells, the content's loss by its values. What
    # leaves [0, 1] costs something too.
    photo, painting = (F.interpolate(picture(seed)[None], (128, 96), mode="bilinear")[0] for seed in (1, 2))
    encoder = load_encoder(EncoderSource()).network.requires_grad_(requires_grad=False)

    def cells(image: Tensor) -> dict[str, Tensor]:
        found = encoder.activations(image[None], STYLE, average=True)
        return {layer: found[layer][0].flatten(1) for layer in STYLE}

    photo_cells, style_cells = cells(photo), cells(painting)

    def loss(image: Tensor) -> Tensor:
        found = cells(image)
        total = (found[CONTENT] - photo_cells[CONTENT]).pow(2).sum() / 2 / photo_cells[CONTENT].numel()
        for layer in STYLE:
            (n, m), s = found[layer].shape, style_cells[layer]
            difference = found[layer] @ found[layer].T / m - s @ s.T / s.shape[1]
            total = total + 100 / len(STYLE) * difference.pow(2).sum() / (4 * n**2)
        return total + OUTSIDE * (image - image.clamp(0, 1)).pow(2).mean()

    image = photo.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [image], max_iter=STEPS, max_eval=STEPS, history_size=20, line_search_fn="strong_wolfe"
    )

    def step() -> Tensor:
        optimiser.zero_grad()
        value = loss(image)
        value.backward()
        return value

    optimiser.step(step)
    settings = EncoderConfig(weights_sha256="", layer="relu4_1", size=128)
    ours = Gatys(
        GatysConfig(encoder=settings, styles=("0" * 16,), iterations=STEPS),
        Resources(encoder=encoder, styles={"0" * 16: painting}),
    )
    with torch.no_grad():
        found, expected = float(loss(translated(ours, photo))), float(loss(image.clamp(0, 1)))
    assert found == pytest.approx(expected, rel=1e-4)


# ---- where code and papers differ (docs/methods.md) ----


def test_the_style_loss_is_a_quarter_of_the_mean_square_of_the_reference_code() -> None:
    picture_, style = torch.tensor([[[1.0, 2.0]], [[3.0, 0.0]]]), torch.eye(2)[:, None]  # two channels of two cells
    # Gram matrices over two cells: (5, 3; 3, 9) / 2 and (1, 0; 0, 1) / 2. Differences: 2, 1.5, 1.5, 4.
    mean_square = (4 + 2.25 + 2.25 + 16) / 4
    assert style_loss(picture_, gram(style)).item() == mean_square / 4
    larger = style.repeat(1, 3, 1)  # the same cells three times; eq. 4 would divide both sums by the cells of one
    assert style_loss(picture_, gram(larger)).item() == mean_square / 4


def test_a_style_weight_of_8000_over_c_squared_is_the_reference_codes_weight_of_a_layer() -> None:
    # Half of (content + sum of weight / 8 times the mean squares) against content + sum of 1000 / C^2 times these.
    photo, painting, looked_at = picture(1), picture(2), picture(3)
    encoder = load_encoder(EncoderSource()).network
    config = GatysConfig(encoder=EncoderConfig(weights_sha256="", layer="relu4_1"), styles=("0" * 16,), style_weight=8)
    method = Gatys(config, Resources(encoder=encoder, styles={"0" * 16: painting}))
    with torch.no_grad():
        kept, wanted, found = (activations(encoder, each, STYLE, "average") for each in (photo, painting, looked_at))
        reference = F.mse_loss(found[CONTENT], kept[CONTENT])
        for layer in STYLE:
            reference = reference + F.mse_loss(gram(found[layer]), gram(wanted[layer]))
        ours = method._loss(photo, 1.0, Parts((0,), (1.0,)))(looked_at)
    assert 2 * ours.item() == pytest.approx(reference.item(), rel=1e-5)


def test_a_style_of_one_axis_leaves_the_photographs_smaller_axes_alone() -> None:
    # Variances 4/3 and 12: the reference code keeps one axis of either side, the second here, and the style's only
    # axis, the first, gets nothing.
    photo = torch.tensor([[[-1.0, 1.0, -1.0, 1.0]], [[-3.0, -3.0, 3.0, 3.0]]])
    style = torch.tensor([[[8.0, 12.0, 8.0, 12.0]], [[5.0, 5.0, 5.0, 5.0]]])
    torch.testing.assert_close(whiten_and_colour(photo, style), style)


def test_nothing_is_added_to_the_variance_of_a_photograph_in_whitening() -> None:
    # Variances 4/3 and 48. With 1 added to the first, deviations would be 6 times (4 / 7) ** .5.
    photo, style = torch.tensor([[[-1.0, 1.0, -1.0, 1.0]]]), torch.tensor([[[-6.0, 6.0, -6.0, 6.0]]])
    torch.testing.assert_close(whiten_and_colour(photo, style), style)


def test_deviations_of_adain_divide_by_one_cell_less() -> None:
    photo, style = torch.tensor([[[1.0, 3.0, 1.0, 3.0]]]), torch.tensor([[[0.0, 4.0]]])
    away = 8**0.5 / (4 / 3) ** 0.5  # 2.449; over n cells it would be 2 / 1
    expected = torch.tensor([[[2 - away, 2 + away, 2 - away, 2 + away]]])
    torch.testing.assert_close(adain(photo, *statistics(style)), expected, rtol=1e-4, atol=0)


def test_styles_of_ift_pull_as_the_weighted_mean_of_their_moments_does() -> None:
    cells, moment = torch.tensor([[2.0]]), torch.tensor([[4.0]])  # one channel, one cell
    apart = Goal([torch.tensor([[1.0]]), torch.tensor([[9.0]])], [1.0, 3.0])
    together = Goal([torch.tensor([[7.0]])], [4.0])  # (1 + 3 * 9) / 4
    assert apart.gradient(cells, moment).item() == 4 * (1 * (4 - 1) + 3 * (4 - 9)) * 2
    assert together.gradient(cells, moment).item() == 4 * 4 * (4 - 7) * 2
