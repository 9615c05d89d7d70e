"""Iterative feature transformation: its gradient, its descent, and the complete method with the shipped networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.config import EncoderConfig, RunOptions
from kt_batch.errors import UsageError
from kt_batch.kernels.iterative import Objective, descended, second_moment
from kt_batch.methods.base import Resources
from kt_batch.methods.ift import Ift, IftConfig
from kt_batch.methods.wct import LAYERS
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.library_images import load_decoders
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.local import LocalRunner
from tests.support.collection import Collection
from tests.support.small_pictures import picture, translated
from tests.support.tiny import SIZE, hashes


def cells(seed: int, channels: int = 3, count: int = 20) -> Tensor:
    return torch.randn(channels, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def objective(seed: int, *weights: float) -> Objective:
    styles = [second_moment(2 * cells(seed + 1 + number)) for number in range(len(weights))]
    return Objective(cells(seed), styles, weights)


def test_the_loss_of_one_number_is_worked_out_by_hand() -> None:
    # F' = 1, F = 2, S = 9, weight 3: (2 - 1)^2 + 3 (4 - 9)^2 = 76, and 2 (2 - 1) + 4 * 3 (4 - 9) 2 = -118.
    one = Objective(torch.tensor([[1.0]]), [torch.tensor([[9.0]])], [3.0])
    assert one.value(torch.tensor([[2.0]])) == 76
    assert one.gradient(torch.tensor([[2.0]])).item() == -118


@given(st.integers(0, 2**31), st.lists(st.floats(0.01, 100), min_size=1, max_size=3))
def test_the_analytic_gradient_is_that_of_autograd(seed: int, weights: list[float]) -> None:
    goal = objective(seed, *weights)
    features = cells(seed + 9).requires_grad_()
    moment = second_moment(features)
    loss = (features - goal.before).square().sum()
    for style, weight in zip(goal.styles, weights, strict=True):
        loss = loss + weight * (moment - style).square().sum()
    (expected,) = torch.autograd.grad(loss, features)
    torch.testing.assert_close(goal.gradient(features.detach()), expected)
    assert goal.value(features.detach()) == pytest.approx(float(loss.detach()))


@given(st.integers(0, 2**31), st.floats(0.01, 1000))
def test_a_descent_never_ends_above_its_start(seed: int, weight: float) -> None:
    goal = objective(seed, weight)
    assert goal.value(descended(goal, 5)) <= goal.value(goal.before)


def test_fifteen_steps_come_near_the_style_where_it_weighs_much() -> None:
    goal = objective(1, 1e4)
    before, after = (
        float((second_moment(each) - goal.styles[0]).norm()) for each in (goal.before, descended(goal, 15))
    )
    assert after < before / 10


def test_features_that_have_the_moments_of_the_style_stay() -> None:
    own = cells(1)
    assert descended(Objective(own, [second_moment(own)], [10.0]), 15).equal(own)


# ---- with the shipped networks ----


def made(*styles: Tensor, **settings: Any) -> Ift:
    encoder = load_encoder(EncoderSource())
    decoders = {layer: each.network for layer, each in load_decoders(encoder, "kt-vgg", LAYERS).items()}
    named = {f"{number:016x}": style for number, style in enumerate(styles)}
    config = IftConfig(
        encoder=EncoderConfig(weights_sha256=encoder.sha256, layer="relu4_1"), styles=tuple(named), **settings
    )
    return Ift(config, Resources(encoder.network, decoders=decoders, styles=named))


def test_a_larger_weight_leads_further_from_what_none_gives() -> None:
    photo = picture(1)
    none, *outputs = (
        translated(made(picture(2), style_weight=each, levels=1), photo) for each in (1e-9, 1e-3, 0.1, 10)
    )
    away = [float((output - none).norm()) for output in outputs]
    assert away == sorted(away)


def test_flat_pictures_are_translated_without_a_nan() -> None:
    flat = torch.zeros(3, 64, 48)
    for photo, style in ((flat, picture(2)), (picture(1), flat), (flat, flat)):
        assert translated(made(style), photo).isfinite().all()


def test_every_style_has_an_equal_share_and_every_stage_is_timed() -> None:
    result = made(picture(2), picture(3), levels=1).translate(picture(1))
    assert vars(result.provenance) == {"shares": {f"{0:016x}": 0.5, f"{1:016x}": 0.5}}
    assert list(result.seconds) == list(Ift.stages)


def test_a_transfer_without_a_style_is_refused() -> None:
    config = IftConfig(encoder=EncoderConfig(weights_sha256="0" * 64), styles=("0" * 16,))
    with pytest.raises(UsageError, match="needs an encoder, decoders and style images"):
        Ift(config, Resources())


def test_a_run_has_the_same_bytes_for_any_unit_size(collection: Collection, tmp_path: Any) -> None:
    config, sources = choose("ift", {"levels": 1}, Choice(styles=[str(collection.paintings / "1.png")], size=SIZE))
    for name, unit_size in (("run", 2), ("again", 8)):
        options = RunOptions(threads=1, unit_size=unit_size)
        request = TranslateRequest([str(collection.photos)], str(tmp_path / name), config, sources, options)
        assert translate(request, LocalRunner(), no_progress).images == 3
    assert hashes(tmp_path / "run", "images") == hashes(tmp_path / "again", "images")
