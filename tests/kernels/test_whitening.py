"""Whitening and colouring on features whose covariance is known."""

from __future__ import annotations

import torch
from torch import Tensor

from kt_batch.kernels.whitening import whiten_and_colour


def random_features(seed: int, mix: Tensor) -> Tensor:
    """Return features `(3, 8, 9)` whose channels are mixed."""
    noise = torch.randn(3, 72, generator=torch.Generator().manual_seed(seed))
    return (mix @ noise).reshape(3, 8, 9)


def covariance(features: Tensor) -> Tensor:
    return torch.cov(features.flatten(1))


MIX = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 0.0], [0.3, 0.0, 0.7]])


def test_the_result_has_mean_and_covariance_of_the_style() -> None:
    features, style = random_features(0, MIX), random_features(1, MIX.T) + 5
    result = whiten_and_colour(features, style)
    torch.testing.assert_close(result.mean((1, 2)), style.mean((1, 2)))
    torch.testing.assert_close(covariance(result), covariance(style), rtol=1e-4, atol=1e-5)


def test_of_one_channel_the_deviation_is_scaled() -> None:
    features = torch.tensor([[[1.0, 3.0], [1.0, 3.0]]])  # mean 2
    style = torch.tensor([[[10.0, 30.0], [10.0, 30.0]]])  # mean 20, ten times the deviation
    torch.testing.assert_close(whiten_and_colour(features, style), style)


def test_its_own_statistics_leave_features_unchanged() -> None:
    features = random_features(2, MIX)
    torch.testing.assert_close(whiten_and_colour(features, features), features, rtol=1e-4, atol=1e-5)


def test_a_channel_without_variance_becomes_the_mean_of_the_style() -> None:
    features = torch.stack([torch.full((4, 4), 7.0), torch.arange(16.0).reshape(4, 4)])
    style = torch.stack([torch.full((4, 4), -2.0), torch.arange(16.0).reshape(4, 4) * 3])
    result = whiten_and_colour(features, style)
    torch.testing.assert_close(result[0], torch.full((4, 4), -2.0))
    torch.testing.assert_close(result[1], style[1])
