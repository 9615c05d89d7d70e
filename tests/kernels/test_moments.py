"""Moments of features, mixtures of them, and the map that gives features other moments."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.kernels.moments import Moments, mixture, moments, transport

SEEDS = st.integers(0, 2**31)


def features(seed: int, channels: int = 4, side: int = 9) -> Tensor:
    """Return features `(channels, side, side)` whose channels depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    turn: Tensor = torch.linalg.qr(torch.randn(channels, channels, generator=generator))[0]
    own = torch.randn(channels, side * side, generator=generator) * torch.linspace(0.5, 2, channels)[:, None]
    values = turn @ own + torch.randn(channels, 1, generator=generator)
    return values.view(channels, side, side)


def test_moments_are_those_of_the_cells() -> None:
    # Channel a: 0, 2, 0, 2; channel b: 1, 1, 3, 3. Means 1 and 2, variances 1 and 1, covariance 0.
    found = moments(torch.tensor([[[0.0, 2], [0, 2]], [[1, 1], [3, 3]]]))
    assert found.mean.tolist() == [1, 2]
    assert found.covariance.tolist() == [[1, 0], [0, 1]]
    assert found.deviation.tolist() == [1, 1]


@given(SEEDS)
def test_a_mixture_has_the_moments_of_all_cells_together(seed: int) -> None:
    first, second = features(seed), features(seed + 1, side=6)
    share = first[0].numel() / (first[0].numel() + second[0].numel())
    mixed = mixture([moments(first), moments(second)], [share, 1 - share])
    together = moments(torch.cat([first.flatten(1), second.flatten(1)], dim=1)[:, None])
    torch.testing.assert_close(mixed.mean, together.mean)
    torch.testing.assert_close(mixed.covariance, together.covariance)


@given(SEEDS)
def test_transported_features_have_the_wanted_moments(seed: int) -> None:
    wanted = moments(features(seed + 1))
    found = moments(transport(features(seed), wanted))
    scale = wanted.covariance.diagonal().mean()
    torch.testing.assert_close(found.mean, wanted.mean, atol=1e-4, rtol=1e-4)
    assert (found.covariance - wanted.covariance).abs().max() <= 1e-4 * scale


@given(SEEDS)
def test_features_with_the_wanted_moments_stay_where_they_are(seed: int) -> None:
    own = features(seed)
    torch.testing.assert_close(transport(own, moments(own)), own, atol=2e-2, rtol=1e-2)


def test_one_channel_is_shifted_and_scaled() -> None:
    # Mean 1, deviation 1 -> mean 10, deviation 3: 0 becomes 7, and 2 becomes 13.
    wanted = Moments(torch.tensor([10.0]).double(), torch.tensor([[9.0]]).double())
    moved = transport(torch.tensor([[[0.0, 2], [0, 2]]]), wanted)
    torch.testing.assert_close(moved, torch.tensor([[[7.0, 13], [7, 13]]]))


def test_the_map_is_the_one_that_moves_features_least() -> None:
    """Every other map A R to the same moments, with R a rotation of the whitened features, moves them further."""
    own, wanted = features(3, channels=2), moments(features(4, channels=2))
    moved = transport(own, wanted)
    centred = (own.flatten(1).double() - moments(own).mean[:, None]).numpy()
    values, vectors = np.linalg.eigh(moments(own).covariance.numpy())
    white = (vectors / np.sqrt(values)) @ vectors.T @ centred
    values, vectors = np.linalg.eigh(wanted.covariance.numpy())
    colour = (vectors * np.sqrt(values)) @ vectors.T
    least = float((moved - own).square().sum())
    for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        other = colour @ turn @ white + wanted.mean.numpy()[:, None]
        assert least <= float(np.square(other - own.flatten(1).numpy()).sum()) * (1 + 1e-5)


def test_one_flat_colour_becomes_the_wanted_mean() -> None:
    wanted = moments(features(5))
    moved = transport(torch.full((4, 5, 5), 3.0), wanted)
    assert moved.isfinite().all()
    torch.testing.assert_close(moved.mean((1, 2)), wanted.mean.float(), atol=1e-3, rtol=1e-3)
