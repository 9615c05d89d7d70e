"""The refinement of Yu and Chang: plain gradient descent on hand-computed losses, and with the shipped encoder."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kt_batch.config import EncoderConfig
from kt_batch.errors import UsageError
from kt_batch.methods.base import Resources
from kt_batch.methods.gatys_refined import GatysRefined, GatysRefinedConfig, gradient_descent, layers_of
from kt_batch.methods.styles import Parts
from kt_batch.models.weights import EncoderSource, load_encoder
from tests.support.small_pictures import picture, translated


def made(*styles: Tensor, **settings: Any) -> GatysRefined:
    encoder = load_encoder(EncoderSource())
    named = {f"{number:016x}": style for number, style in enumerate(styles)}
    config = GatysRefinedConfig(
        encoder=EncoderConfig(weights_sha256=encoder.sha256, layer="relu4_1"),
        styles=tuple(named),
        **{"iterations": 5, **settings},
    )
    return GatysRefined(config, Resources(encoder.network, styles=named))


def test_one_step_follows_the_gradient_in_the_scale_of_grey_levels() -> None:
    # d/dx of mean x^2 / 2 is x / 4 for four values of one pixel row each; 255^2 / 4 pixels cancel the scale.
    start = torch.full((1, 2, 2), 0.5)
    found = gradient_descent(start, lambda x: x.square().mean() / 2, 255.0**2 / 4, 1)
    torch.testing.assert_close(found, torch.full((1, 2, 2), 0.375))


def test_a_step_that_raises_the_loss_is_taken_back_and_halved() -> None:
    def loss(image: Tensor) -> Tensor:
        return (image - 0.4).square().sum()

    found = gradient_descent(torch.full((1, 2, 2), 0.1), loss, 255.0**2, 30)  # four times the length that still falls
    torch.testing.assert_close(found, torch.full((1, 2, 2), 0.4), atol=1e-4, rtol=0)


def test_a_loss_that_is_no_number_is_never_accepted() -> None:
    def loss(image: Tensor) -> Tensor:
        return image.square().sum() * (math.nan if float(image.detach().max()) < 0.2 else 1.0)

    assert gradient_descent(torch.full((1, 2, 2), 0.9), loss, 255.0**2 / 8, 20).min() >= 0.2


def test_the_layers_are_those_of_the_paper_up_to_the_end_of_the_weights() -> None:
    assert layers_of(load_encoder(EncoderSource()).network) == ("relu1_2", "relu3_3", "relu4_1")


@pytest.mark.parametrize("settings", [{}, {"learning_rate": 1e6}, {"style_weight": 1000.0}])
def test_the_loss_falls_at_any_rate(settings: dict[str, Any]) -> None:
    photo = picture(1)
    method = made(picture(2), iterations=25, **settings)
    loss = method._loss(photo, Parts((0,), (1.0,)))
    with torch.no_grad():
        assert loss(translated(method, photo)) < 0.9 * loss(photo)


def test_a_picture_after_itself_stays() -> None:
    photo = picture(1)
    torch.testing.assert_close(translated(made(photo), photo), photo, atol=1e-4, rtol=0)


def test_a_refined_transfer_without_a_style_is_refused() -> None:
    config = GatysRefinedConfig(encoder=EncoderConfig(weights_sha256="0" * 64), styles=("0" * 16,))
    with pytest.raises(UsageError, match="gatys_refined needs an encoder and style images"):
        GatysRefined(config, Resources())
