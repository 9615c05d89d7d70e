"""Geometric swap (eq. 6) and statistics swap (eq. 7)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kt_batch.kernels.patches import positions, unfold
from kt_batch.kernels.swap import FLOOR, MAX_RATIO, blend, geometric_swap, statistics_swap, top_k_weights


def stripes(low: float, high: float, size: int = 8) -> Tensor:
    """Return one channel of alternating columns: patches of mean (low + high)/2 and deviation (high - low)/2."""
    return torch.tensor([low, high], dtype=torch.float32).repeat(size // 2).expand(1, size, size).contiguous()


def statistics_of(features: Tensor, target: Tensor, deviation: float, guide: Tensor | None = None) -> Tensor:
    """Swap `features` with the patches of `target` at the same places; the guide has no edge."""
    height, width = features.shape[1:]
    rows, cols = positions(height, width, stride=1, cover=True)
    guide = torch.full((height, width), 0.5) if guide is None else guide
    every = torch.full((features.shape[0],), deviation)
    return statistics_swap(features, unfold(features, rows, cols), unfold(target, rows, cols), rows, cols, every, guide)


@pytest.mark.parametrize("stride", [1, 2])
def test_swapping_with_its_own_patches_changes_nothing(stride: int, generator: torch.Generator) -> None:
    features = torch.rand(5, 7, 8, generator=generator)
    rows, cols = positions(7, 8, stride, cover=True)
    back = geometric_swap(unfold(features, rows, cols), rows, cols, 7, 8)
    torch.testing.assert_close(back, features)


def test_a_geometric_swap_takes_the_match_itself() -> None:
    match = torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1)
    here = torch.tensor([0])
    assert geometric_swap(match, here, here, 2, 2).tolist() == [[[1, 2], [3, 4]]]


def test_statistics_of_the_same_patches_change_nothing(generator: torch.Generator) -> None:
    features = torch.rand(5, 9, 8, generator=generator)
    guide = torch.rand(9, 8, generator=generator)
    torch.testing.assert_close(statistics_of(features, features, 0.1, guide), features, atol=1e-4, rtol=1e-4)


def test_mean_and_deviation_become_those_of_the_match() -> None:
    # Source 1 3 1 3: mean 2, deviation 1. Match 2 6 2 6: mean 4, deviation 2. Eq. 7: 2 (x - 2) + 4.
    swapped = statistics_of(stripes(1, 3), stripes(2, 6), deviation=0)
    torch.testing.assert_close(swapped, stripes(2, 6), atol=1e-3, rtol=0)


def test_the_floor_draws_the_ratio_of_deviations_towards_one() -> None:
    # The library's mean deviation is 2, so the floor is 1 and the ratio (2 + 1)/(1 + 1): 1.5 (x - 2) + 4.
    assert FLOOR == 0.5
    swapped = statistics_of(stripes(1, 3), stripes(2, 6), deviation=2)
    torch.testing.assert_close(swapped, stripes(2.5, 5.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("target", "ratio"), [(stripes(0, 200), MAX_RATIO), (stripes(100, 100), 1 / MAX_RATIO)])
def test_contrast_is_never_changed_by_more_than_the_largest_ratio(target: Tensor, ratio: float) -> None:
    # Source: mean 2, deviation 1; the match has mean 100 and deviation 100 or 0.
    swapped = statistics_of(stripes(1, 3), target, deviation=0)
    torch.testing.assert_close(swapped, stripes(100 - ratio, 100 + ratio), atol=0.05, rtol=0)


def test_a_flat_source_takes_the_mean_of_its_match_and_no_noise() -> None:
    swapped = statistics_of(stripes(2, 2), stripes(0, 10), deviation=1)
    torch.testing.assert_close(swapped, stripes(5, 5), atol=1e-3, rtol=0)


def test_an_affine_map_may_lead_below_zero() -> None:
    # Source: mean 4, deviation 4; the match is black, the ratio its bound: (x - 4)/3 + 0 = -4/3 and 4/3.
    swapped = statistics_of(stripes(0, 8), stripes(0, 0), deviation=0)
    torch.testing.assert_close(swapped, stripes(-4 / 3, 4 / 3), atol=1e-3, rtol=0)


def test_every_channel_has_its_own_statistics() -> None:
    source, target = torch.cat([stripes(1, 3), stripes(1, 3)]), torch.cat([stripes(2, 6), stripes(5, 7)])
    swapped = statistics_of(source, target, deviation=0)
    torch.testing.assert_close(swapped, target, atol=1e-3, rtol=0)


def test_weights_of_the_top_k_sum_to_one_and_equal_matches_weigh_the_same() -> None:
    weights = top_k_weights(torch.tensor([[0.9, 0.9], [0.9, 0.8]]), temperature=0.1)
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    assert weights[0].tolist() == [0.5, 0.5]
    # A step of one temperature is a factor of e: 1/(1 + 1/e) = 0.7311
    assert weights[1, 0].item() == pytest.approx(0.7311, abs=1e-4)


def test_one_match_weighs_one() -> None:
    assert top_k_weights(torch.tensor([[0.3], [-0.2]]), temperature=0.05).tolist() == [[1], [1]]


def test_a_blend_is_the_weighted_mean() -> None:
    values = torch.stack([torch.full((4, 1), 2.0), torch.full((4, 1), 6.0)])[None]
    assert blend(values, torch.tensor([[0.25, 0.75]])).flatten().tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize("changed", [0, 1])
def test_the_maps_of_a_region_never_reach_beyond_the_cells_of_its_patches(
    generator: torch.Generator, changed: int
) -> None:
    features, guide = torch.rand(2, 9, 16, generator=generator), torch.rand(9, 16, generator=generator)
    rows, cols = positions(9, 16, 1, cover=True)
    queries, every = unfold(features, rows, cols), torch.full((2,), 0.1)
    matched = torch.rand(len(rows), 4, 2, generator=generator)
    regions = (cols >= 8).long()  # patches of region 0 cover the columns 0 to 8, those of region 1 the others from 8 on

    def swapped(values: Tensor) -> Tensor:
        return statistics_swap(features, queries, values, rows, cols, every, guide, regions)

    other = torch.where((regions == changed)[:, None, None], 3 * matched + 1, matched)
    before, after = swapped(matched), swapped(other)
    assert not before[:, :, 8].equal(after[:, :, 8])
    own, beyond = (slice(0, 8), slice(9, None))[:: -1 if changed else 1]
    assert before[:, :, beyond].equal(after[:, :, beyond])
    assert (before[:, :, own] != after[:, :, own]).all()
