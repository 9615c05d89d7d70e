"""Gaussian of features, mixtures of them, and the map that gives features other moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.kernels.transport import (
    Gaussian,
    bands,
    gaussian,
    mixture,
    mixture_of_bands,
    principal_directions,
    transport,
    transport_bands,
)

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
    found = gaussian(torch.tensor([[[0.0, 2], [0, 2]], [[1, 1], [3, 3]]]))
    assert found.mean.tolist() == [1, 2]
    assert found.covariance.tolist() == [[1, 0], [0, 1]]
    assert found.deviation.tolist() == [1, 1]


@given(SEEDS)
def test_moments_are_those_of_numpy_in_double_precision(seed: int) -> None:
    own = features(seed)
    found = gaussian(own)
    cells = own.flatten(1).double().numpy()
    np.testing.assert_allclose(found.mean.numpy(), cells.mean(1), atol=1e-5)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(cells, bias=True), atol=1e-4)


def test_the_principal_directions_are_those_of_most_variance() -> None:
    """Two channels that go together, at very different scales, and a third on its own: they vary together most."""
    moments = Gaussian(torch.zeros(3).double(), torch.tensor([[100.0, 9, 0], [9, 1, 0], [0, 0, 4]]).double())
    direction = principal_directions(moments, 1)[:, 0]
    torch.testing.assert_close(direction.abs(), torch.tensor([0.5**0.5, 0.5**0.5, 0]))
    every = principal_directions(moments, 5)
    torch.testing.assert_close(every.T @ every, torch.eye(3))


@given(SEEDS)
def test_a_mixture_has_the_moments_of_all_cells_together(seed: int) -> None:
    first, second = features(seed), features(seed + 1, side=6)
    share = first[0].numel() / (first[0].numel() + second[0].numel())
    mixed = mixture([gaussian(first), gaussian(second)], [share, 1 - share])
    together = gaussian(torch.cat([first.flatten(1), second.flatten(1)], dim=1)[:, None])
    torch.testing.assert_close(mixed.mean, together.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed.covariance, together.covariance, atol=1e-5, rtol=1e-5)


@given(SEEDS)
def test_transported_features_have_the_wanted_moments(seed: int) -> None:
    wanted = gaussian(features(seed + 1))
    found = gaussian(transport(features(seed), wanted))
    scale = wanted.covariance.diagonal().mean()
    torch.testing.assert_close(found.mean, wanted.mean, atol=1e-4, rtol=1e-4)
    assert (found.covariance - wanted.covariance).abs().max() <= 1e-4 * scale


@given(SEEDS)
def test_features_with_the_wanted_moments_stay_where_they_are(seed: int) -> None:
    own = features(seed)
    torch.testing.assert_close(transport(own, gaussian(own)), own, atol=2e-2, rtol=1e-2)


def test_one_channel_is_shifted_and_scaled() -> None:
    # Mean 1, deviation 1 -> mean 10, deviation 3: 0 becomes 7, and 2 becomes 13.
    wanted = Gaussian(torch.tensor([10.0]).double(), torch.tensor([[9.0]]).double())
    moved = transport(torch.tensor([[[0.0, 2], [0, 2]]]), wanted)
    torch.testing.assert_close(moved, torch.tensor([[[7.0, 13], [7, 13]]]))


def test_the_map_is_the_one_that_moves_features_least() -> None:
    """Every other map A R to the same moments, with R a rotation of the whitened features, moves them further."""
    own, wanted = features(3, channels=2), gaussian(features(4, channels=2))
    moved = transport(own, wanted)
    centred = (own.flatten(1).double() - gaussian(own).mean[:, None]).numpy()
    values, vectors = np.linalg.eigh(gaussian(own).covariance.numpy())
    white = (vectors / np.sqrt(values)) @ vectors.T @ centred
    values, vectors = np.linalg.eigh(wanted.covariance.numpy())
    colour = (vectors * np.sqrt(values)) @ vectors.T
    least = float((moved - own).square().sum())
    for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        other = colour @ turn @ white + wanted.mean.numpy()[:, None]
        assert least <= float(np.square(other - own.flatten(1).numpy()).sum()) * (1 + 1e-5)


def test_one_flat_colour_becomes_the_wanted_mean() -> None:
    wanted = gaussian(features(5))
    moved = transport(torch.full((4, 5, 5), 3.0), wanted)
    assert moved.isfinite().all()
    torch.testing.assert_close(moved.mean((1, 2)), wanted.mean.float(), atol=1e-3, rtol=1e-3)


def test_bands_add_up_to_the_features() -> None:
    own = features(6)
    found = bands(own)
    torch.testing.assert_close(found.coarse.mean + found.fine.mean, found.whole.mean)


def test_each_band_gets_the_moments_of_its_own_band() -> None:
    """Broad stripes of a deviation of 3 with a fine checkerboard of 1 become stripes of 1 with a checkerboard of 2."""
    rows, cols = torch.meshgrid(torch.arange(160), torch.arange(160), indexing="ij")
    stripes = (cols >= 80).float() * 2 - 1
    board = ((rows + cols) % 2).float() * 2 - 1
    moved = transport_bands((3 * stripes + board)[None], bands((stripes + 2 * board)[None]))[0]
    inside = moved[40:120, 100:140]  # far from the edge between the stripes and from the border
    assert float(inside.mean()) == pytest.approx(1, abs=0.05)
    assert float(inside.std()) == pytest.approx(2, abs=0.3)  # the edge takes a part; one map for both would give 0.7


def test_a_mixture_of_bands_mixes_each_band() -> None:
    parts = [bands(features(7)), bands(features(8))]
    mixed = mixture_of_bands(parts, [0.25, 0.75])
    torch.testing.assert_close(mixed.fine.mean, 0.25 * parts[0].fine.mean + 0.75 * parts[1].fine.mean)
    expected = mixture([part.coarse for part in parts], [0.25, 0.75])
    torch.testing.assert_close(mixed.coarse.covariance, expected.covariance)


def test_a_limit_keeps_contrast_from_growing_beyond_it() -> None:
    # Deviation 1, wanted 3: without a limit all is enlarged threefold, here by half.
    own = torch.tensor([[[-1.0, 1], [1, -1]]])
    wanted = Gaussian(torch.tensor([5.0], dtype=torch.float64), torch.tensor([[9.0]], dtype=torch.float64))
    assert transport(own, wanted).flatten().tolist() == pytest.approx([2, 8, 8, 2])
    assert transport(own, wanted, most=1.5).flatten().tolist() == pytest.approx([3.5, 6.5, 6.5, 3.5])


@given(SEEDS, st.floats(0.1, 3))
def test_no_direction_is_enlarged_beyond_the_limit(seed: int, most: float) -> None:
    own, wanted = features(seed), gaussian(features(seed + 1))
    moved = transport(own, wanted, most=most).flatten(1)
    before, after = (each - each.mean(1, keepdim=True) for each in (own.flatten(1), moved))
    assert (after.norm(dim=0) <= most * before.norm(dim=0) * (1 + 1e-4) + 1e-4).all()


@given(SEEDS)
def test_a_limit_that_is_not_reached_changes_nothing(seed: int) -> None:
    own, wanted = features(seed), bands(features(seed + 1))
    torch.testing.assert_close(transport_bands(own, wanted, (1e6, 1e6)), transport_bands(own, wanted))
