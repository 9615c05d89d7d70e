"""The guided filter, against simple loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kt_batch.kernels.smooth import MAPS, box_mean, guided_filter, quick_mean, window_mean

Map = NDArray[np.float64]


def slow_box_mean(x: Map, radius: int) -> Map:
    out = np.empty_like(x)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = x[max(0, i - radius) : i + radius + 1, max(0, j - radius) : j + radius + 1].mean()
    return out


def slow_guided_filter(p: Map, guide: Map, radius: int, epsilon: float) -> Map:
    """Return Algorithm 1 of He, Sun & Tang (2010), window by window."""
    slope, offset = np.empty_like(p), np.empty_like(p)
    for i in range(p.shape[0]):
        for j in range(p.shape[1]):
            window = np.s_[max(0, i - radius) : i + radius + 1, max(0, j - radius) : j + radius + 1]
            g, q = guide[window], p[window]
            slope[i, j] = ((g * q).mean() - g.mean() * q.mean()) / (g.var() + epsilon)
            offset[i, j] = q.mean() - slope[i, j] * g.mean()
    return slow_box_mean(slope, radius) * guide + slow_box_mean(offset, radius)


def test_a_box_mean_is_clipped_at_the_border() -> None:
    # 0 1 2 / 3 4 5 / 6 7 8: the corner sees 0, 1, 3, 4; the centre all nine.
    mean = box_mean(torch.arange(9.0).view(1, 3, 3), radius=1)[0]
    assert (mean[0, 0].item(), mean[1, 1].item(), mean[0, 1].item()) == (2, 4, 2.5)


@pytest.mark.parametrize(("height", "width", "radius"), [(7, 9, 2), (1, 5, 1), (4, 3, 8)])
def test_running_sums_give_the_same_means(height: int, width: int, radius: int) -> None:
    x = torch.rand(2, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = np.stack([slow_box_mean(each.numpy(), radius) for each in x])
    assert window_mean(x, radius).numpy() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("height", "width", "radius"), [(7, 9, 2), (3, 4, 5), (1, 6, 1), (12, 5, 3)])
def test_the_box_mean_is_that_of_plain_loops(height: int, width: int, radius: int, generator: torch.Generator) -> None:
    maps = torch.rand(2, height, width, generator=generator)
    expected = np.stack([slow_box_mean(one.double().numpy(), radius) for one in maps])
    np.testing.assert_allclose(box_mean(maps, radius), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "radius"), [(7, 9, 2), (3, 4, 5), (1, 6, 1), (12, 5, 3), (20, 4, 8), (2, 3, 0)]
)
def test_sums_of_sums_give_the_same_means(height: int, width: int, radius: int, generator: torch.Generator) -> None:
    maps = torch.rand(MAPS + 2, height, width, generator=generator)  # more than are averaged at a time
    expected = np.stack([slow_box_mean(one.double().numpy(), radius) for one in maps])
    np.testing.assert_allclose(quick_mean(maps, radius), expected, atol=1e-6)


@pytest.mark.parametrize("radius", [1, 3])
@pytest.mark.parametrize("epsilon", [0.01, 1.0])
def test_the_guided_filter_is_that_of_plain_loops(radius: int, epsilon: float, generator: torch.Generator) -> None:
    maps, guide = torch.rand(3, 9, 11, generator=generator), torch.rand(9, 11, generator=generator)
    expected = [slow_guided_filter(one.double().numpy(), guide.double().numpy(), radius, epsilon) for one in maps]
    np.testing.assert_allclose(guided_filter(maps, guide, radius, epsilon), np.stack(expected), atol=2e-5)


def test_a_constant_map_stays_constant_under_any_guide(generator: torch.Generator) -> None:
    guide = torch.rand(10, 12, generator=generator)
    maps = torch.tensor([0.0, 1.0, -7.0])[:, None, None].expand(3, 10, 12)
    torch.testing.assert_close(guided_filter(maps, guide, radius=3, epsilon=0.01), maps, atol=2e-4, rtol=0)


def test_under_a_flat_guide_it_is_a_box_mean_taken_twice(generator: torch.Generator) -> None:
    maps = torch.rand(1, 9, 9, generator=generator)
    smooth = guided_filter(maps, torch.full((9, 9), 0.5), radius=2, epsilon=0.01)
    torch.testing.assert_close(smooth, box_mean(box_mean(maps, 2), 2), atol=1e-4, rtol=0)


def test_a_dot_spreads_twice_the_radius_and_no_further() -> None:
    maps = torch.zeros(1, 15, 15)
    maps[0, 7, 7] = 1
    smooth = guided_filter(maps, torch.full((15, 15), 0.5), radius=2, epsilon=0.01)[0]
    reached = smooth.abs() > 1e-6
    assert reached.nonzero().amin(0).tolist() == [3, 3]
    assert reached.nonzero().amax(0).tolist() == [11, 11]


def test_an_edge_of_the_guide_keeps_the_two_sides_apart() -> None:
    step = torch.cat([torch.zeros(8, 8), torch.ones(8, 8)], dim=1)
    kept = guided_filter(step[None] * 5, step, radius=3, epsilon=0.001)[0]
    lost = guided_filter(step[None] * 5, torch.full_like(step, 0.5), radius=3, epsilon=0.001)[0]
    assert (kept[:, 8] - kept[:, 7]).min() > 4.9
    assert (lost[:, 8] - lost[:, 7]).max() < 1


def test_an_edge_weaker_than_epsilon_is_smoothed_over() -> None:
    step = torch.cat([torch.zeros(8, 8), torch.ones(8, 8)], dim=1)
    weak = guided_filter(step[None] * 5, step * 0.01, radius=3, epsilon=0.01)[0]
    assert (weak[:, 8] - weak[:, 7]).max() < 1
