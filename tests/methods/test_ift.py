"""Iterative feature transformation: its gradient, its descent, and the complete method with the shipped networks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.config import EncoderConfig, RunOptions
from kt_batch.errors import UsageError
from kt_batch.kernels.iterative import Goal, Objective, descended, least_of_quartic, second_moment
from kt_batch.methods.base import Resources
from kt_batch.methods.ift import Ift, IftConfig
from kt_batch.methods.wct import LAYERS
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.translate.library_images import load_decoders
from kt_batch.pipelines.translate.sources import Choice
from tests.support.collection import Collection
from tests.support.small_pictures import picture, translated
from tests.support.tiny import SIZE, hashes, translated_after


def cells(seed: int, channels: int = 3, count: int = 20) -> Tensor:
    return torch.randn(channels, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def objective(seed: int, *weights: float) -> Objective:
    styles = [second_moment(2 * cells(seed + 1 + number)) for number in range(len(weights))]
    return Objective(cells(seed), [Goal(styles, weights)])


def test_the_loss_of_one_number_is_worked_out_by_hand() -> None:
    # F' = 1, F = 2, S = 9, weight 3: (2 - 1)^2 + 3 (4 - 9)^2 = 76, and 2 (2 - 1) + 4 * 3 (4 - 9) 2 = -118.
    one = Objective(torch.tensor([[1.0]]), [Goal([torch.tensor([[9.0]])], [3.0])])
    assert one.value(torch.tensor([[2.0]])) == 76
    assert one.gradient(torch.tensor([[2.0]])).item() == -118


@given(st.integers(0, 2**31), st.lists(st.floats(0.01, 100), min_size=1, max_size=3))
def test_the_analytic_gradient_is_that_of_autograd(seed: int, weights: list[float]) -> None:
    goal = objective(seed, *weights)
    features = cells(seed + 9).requires_grad_()
    moment = second_moment(features)
    loss = (features - goal.before).square().sum()
    for style, weight in zip(goal.goals[0].styles, weights, strict=True):
        loss = loss + weight * (moment - style).square().sum()
    (expected,) = torch.autograd.grad(loss, features)
    torch.testing.assert_close(goal.gradient(features.detach()), expected)
    assert goal.value(features.detach()) == pytest.approx(float(loss.detach()))


@given(st.integers(0, 2**31), st.lists(st.floats(0.01, 100), min_size=1, max_size=2), st.integers(1, 3))
def test_the_analytic_gradient_in_soft_regions_is_that_of_autograd(
    seed: int, weights: list[float], regions: int
) -> None:
    features, before = cells(seed + 9).requires_grad_(), cells(seed)
    masks = torch.softmax(3 * cells(seed + 8, regions), 0)
    goals = [Goal(objective(seed + 10 * n, *weights).goals[0].styles, weights, mask) for n, mask in enumerate(masks)]
    loss = (features - before).square().sum()
    for goal, mask in zip(goals, masks, strict=True):
        moment = features @ torch.diag(mask) @ features.T / mask.sum()
        for style, weight in zip(goal.styles, weights, strict=True):
            loss = loss + weight * (moment - style).square().sum()
    (expected,) = torch.autograd.grad(loss, features)
    together = Objective(before, goals)
    found = together.gradient(features.detach())
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-10
    assert together.value(features.detach()) == pytest.approx(float(loss.detach()))


@given(st.integers(0, 2**31), st.lists(st.floats(0.01, 100), min_size=1, max_size=2), st.floats(0, 2), st.booleans())
def test_the_loss_along_a_direction_is_the_polynomial(
    seed: int, weights: list[float], length: float, region: bool
) -> None:
    goal = objective(seed, *weights)
    mask = torch.softmax(cells(seed + 8, 1), 1)[0] if region else None
    one = replace(goal.goals[0], mask=mask)
    features, direction = cells(seed + 9), cells(seed + 10)
    line = one.line(second_moment(features, mask), one.turn(features, direction))
    expected = float(one.value(second_moment(features + length * direction, mask)))
    assert np.polynomial.Polynomial(line)(length) == pytest.approx(expected, rel=1e-9)


def test_the_least_value_of_a_quartic_is_found_at_or_above_zero() -> None:
    # (x - 1)^2 (x - 3)^2 + x, less near 1 than near 3; and x^2 + x, least at 0 of all x >= 0.
    coefficients = np.array([9.0, -23, 22, -8, 1])
    first = np.polynomial.Polynomial(coefficients)
    at = least_of_quartic(coefficients)
    assert first(at) == pytest.approx(min(first(np.linspace(0, 4, 4001))), abs=1e-6)
    assert 0.8 < at < 1
    assert least_of_quartic(np.array([0.0, 1, 1, 0, 0])) == 0


@given(st.integers(0, 2**31), st.floats(0.01, 1000))
def test_no_step_raises_the_loss(seed: int, weight: float) -> None:
    goal = objective(seed, weight)
    losses = [goal.value(descended(goal, steps)) for steps in range(6)]
    assert losses[0] == goal.value(goal.before)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(losses))


def test_fifteen_steps_come_near_the_style_where_it_weighs_much() -> None:
    goal = objective(1, 1e4)
    before, after = (
        float((second_moment(each) - goal.goals[0].styles[0]).norm()) for each in (goal.before, descended(goal, 15))
    )
    assert after < before / 10


def test_features_that_have_the_moments_of_the_style_stay() -> None:
    own = cells(1)
    assert descended(Objective(own, [Goal([second_moment(own)], [10.0])]), 15).equal(own)


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


def test_details_of_the_photograph_are_kept_in_proportion() -> None:
    fine = (picture(1) + 0.2 * torch.rand(3, 64, 48, generator=torch.Generator().manual_seed(5))).clamp(0.2, 0.8)
    none, half, whole = (translated(made(picture(2), details=each, levels=1), fine) for each in (0, 0.5, 1))
    way = float((whole - none).norm())
    assert way > 0.01 * fine.numel() ** 0.5
    assert 0.4 * way < float((half - none).norm()) < 0.6 * way
    assert 0.4 * way < float((half - whole).norm()) < 0.6 * way


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
    choice = Choice(styles=collection.paintings / "1.png", size=SIZE)
    for name, unit_size in (("run", 2), ("again", 8)):
        options = RunOptions(threads=1, unit_size=unit_size)
        assert translated_after(choice, collection.photos, tmp_path / name, "ift", options, levels=1).images == 3
    assert hashes(tmp_path / "run", "images") == hashes(tmp_path / "again", "images")
