"""The formulas of the measures, on numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kt_batch.evaluation.style.network import self_similarity
from kt_batch.evaluation.style.pixels import (
    _enlarge,
    blotchiness,
    flat_region,
    laplacian_pyramid,
    sharpness,
)
from kt_batch.evaluation.style.realism import patch_realism
from kt_batch.evaluation.style.sliced import directions, distance, quantile_curves, sample
from kt_batch.kernels.lab import from_lab

# ---- sliced Wasserstein distance ----


@pytest.mark.parametrize(("shift", "expected"), [(0, 0), (0.5, 0.5), (-3, 3)])
def test_a_shift_is_its_length_in_units_of_the_spread(shift: float, expected: float) -> None:
    (axes,) = directions([1])  # 1 or -1
    reference = torch.tensor([-1.0, 1.0]).repeat(5000)[None]  # half the values at each end: their spread is 1
    curves = [quantile_curves(values, axes) for values in (reference + shift, reference)]
    assert distance(*curves) == pytest.approx(expected, rel=1e-3)


def test_the_mean_alone_is_at_distance_one() -> None:
    (axes,) = directions([3])
    reference = torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))
    curves = quantile_curves(reference, axes)
    assert distance(curves.mean(0).expand_as(curves), curves) == pytest.approx(1)


def test_a_set_without_spread_is_near_its_equal_alone() -> None:
    (axes,) = directions([2])
    one, other = (quantile_curves(torch.full((2, 9), value), axes) for value in (0.0, 1.0))
    assert (distance(one, one), distance(other, one)) == (0, math.inf)


def test_quantiles_are_those_of_torch() -> None:
    (axes,) = directions([4])
    vectors = torch.randn(4, 333, generator=torch.Generator().manual_seed(1))
    expected = torch.quantile(axes @ vectors, torch.linspace(0.002, 0.998, 512), dim=1)
    torch.testing.assert_close(quantile_curves(vectors, axes), expected)


def test_a_small_set_is_taken_whole_and_a_large_one_sampled_without_return() -> None:
    assert sample(100).sort().values.tolist() == list(range(100))
    drawn = sample(40_000)
    assert (len(drawn), len(drawn.unique())) == (16_000, 16_000)


# ---- structure ----


def test_cells_of_two_kinds_are_alike_within_a_kind_and_opposite_across() -> None:
    features = torch.zeros(2, 32, 32)
    features[0, :, :16], features[1, :, 16:] = 1, 1  # the left half is (1, 0), the right one (0, 1)
    left, right = 0, 16  # cells of the first row
    similarity = self_similarity(features)
    assert similarity[left, 1].item() == pytest.approx(1)
    assert similarity[left, right].item() == pytest.approx(-1)


# ---- patch distance ----


def test_a_flat_picture_has_no_detail_at_any_level() -> None:
    *bands, rest = laplacian_pyramid(torch.full((3, 64, 96), 0.25))
    assert [tuple(level.shape) for level in (*bands, rest)] == [(3, 64, 96), (3, 32, 48), (3, 16, 24), (3, 8, 12)]
    assert all(band[:, 4:-4, 4:-4].abs().max() < 1e-6 for band in bands)
    torch.testing.assert_close(rest, torch.full((3, 8, 12), 0.25))


def test_the_levels_add_up_to_the_picture() -> None:
    picture = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    *bands, whole = laplacian_pyramid(picture)
    for band in reversed(bands):
        whole = band + _enlarge(whole)
    torch.testing.assert_close(whole, picture)


# ---- blotchiness ----


def test_a_wave_of_lightness_has_the_gain_of_the_band() -> None:
    wave, height = 40, 6.0  # pixels, units of L*
    lightness = 60 + height * np.sin(2 * np.pi * np.arange(512) / wave)
    colours = np.stack([np.broadcast_to(lightness, (256, 512)), np.zeros((256, 512)), np.zeros((256, 512))], axis=-1)
    picture = torch.from_numpy(from_lab(colours)).permute(2, 0, 1)
    # A Gaussian of deviation s leaves exp(-2 (pi s / wave)^2) of a wave: 0.821 of s = 4, 0.042 of s = 16.
    expected = height / math.sqrt(2) * (0.8209 - 0.0425)
    assert blotchiness(picture, torch.ones(256, 512, dtype=torch.bool)) == pytest.approx(expected, rel=0.03)


def test_half_the_size_gives_the_same_blotchiness() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 16, 32, generator=generator)
    small, large = (
        torch.nn.functional.interpolate(coarse, size=(side // 2, side), mode="bicubic", antialias=False)[0].clamp(0, 1)
        for side in (256, 512)
    )
    values = [blotchiness(picture, torch.ones(picture.shape[1:], dtype=torch.bool)) for picture in (small, large)]
    assert values[0] == pytest.approx(values[1], rel=0.03)


def test_a_slope_of_eight_thousandths_a_pixel_is_the_end_of_flatness() -> None:
    def ramp(slope: float) -> torch.Tensor:
        return (torch.arange(512) * slope).expand(3, 128, 512)

    below, above = flat_region(ramp(0.0060)), flat_region(ramp(0.0090))
    assert below is not None
    assert below[32:96, 32:-32].all()
    assert above is None or not above[32:96, 32:-32].any()


# ---- sharpness ----


def test_of_a_checkerboard_24_of_25_parts_are_fine_detail() -> None:
    # The mean of 5 x 5 cells around a cell has 13 of its kind and 12 of the other: 1/25 of the contrast.
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    assert sharpness(((rows + columns) % 2).float().expand(3, -1, -1)) == pytest.approx(0.96, rel=1e-3)


def test_one_grey_has_no_detail() -> None:
    assert sharpness(torch.full((3, 40, 40), 0.3)) == 0


# ---- patch realism ----


def test_realism_is_the_mean_of_the_best_cosines() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    painting = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert patch_realism(queries, painting) == pytest.approx((1 + 0.8) / 2)
