"""Filter banks: laws of mixtures and regions, beside a slow reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.kernels.filter_banks import filtered, fused, identity_bank, mixture

few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**31)
sides = st.integers(1, 6)
kernels = st.sampled_from([1, 3, 7])


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(features: Tensor, bank: Tensor) -> Tensor:
    """Convolve by a loop over cells and filters; cells beyond the border repeat those at the border."""
    _, _, height, width = features.shape
    reach = bank.shape[-1] // 2
    out = torch.zeros(len(features), len(bank), height, width)
    for row in range(height):
        for col in range(width):
            for down in range(bank.shape[-1]):
                for across in range(bank.shape[-1]):
                    y = min(max(row + down - reach, 0), height - 1)
                    x = min(max(col + across - reach, 0), width - 1)
                    out[:, :, row, col] += features[:, :, y, x] @ bank[:, :, down, across].T
    return out


@few
@given(seeds, sides, sides, kernels)
def test_a_bank_is_the_sum_over_the_cells_below_its_filters(seed: int, height: int, width: int, kernel: int) -> None:
    features, bank = random(seed, 2, 3, height, width), random(seed + 1, 4, 3, kernel, kernel)
    torch.testing.assert_close(filtered(features, bank), by_hand(features, bank), atol=1e-4, rtol=1e-4)


@few
@given(seeds, sides, sides, kernels)
def test_a_bank_of_identity_filters_leaves_features_as_they_are(
    seed: int, height: int, width: int, kernel: int
) -> None:
    features = random(seed, 2, 5, height, width)
    torch.testing.assert_close(filtered(features, identity_bank(5, kernel)), features)


@few
@given(seeds, kernels)
def test_equal_weights_of_one_bank_twice_are_that_bank(seed: int, kernel: int) -> None:
    bank = random(seed, 4, 4, kernel, kernel)
    assert mixture([bank, bank], [0.5, 0.5]).equal(bank)
    assert mixture([bank], [1.0]).equal(bank)


@few
@given(seeds, sides, sides, st.lists(st.tuples(kernels, st.floats(0.01, 1)), min_size=1, max_size=3))
def test_weights_that_are_the_same_in_all_cells_give_the_mixture(
    seed: int, height: int, width: int, drawn: list[tuple[int, float]]
) -> None:
    total = sum(weight for _, weight in drawn)
    banks = [random(seed + number, 4, 3, kernel, kernel) for number, (kernel, _) in enumerate(drawn, 1)]
    weights = [weight / total for _, weight in drawn]
    features = random(seed, 2, 3, height, width)
    cells = torch.tensor(weights)[:, None, None].expand(-1, height, width)
    expected = filtered(features, mixture(banks, weights))
    torch.testing.assert_close(fused(features, banks, cells), expected, atol=1e-4, rtol=1e-4)


def test_away_from_a_border_of_regions_each_cell_has_the_style_of_its_own_region() -> None:
    features, banks = random(1, 1, 3, 8, 12), [random(2, 3, 3, 3, 3), random(3, 3, 3, 5, 5)]
    left = torch.zeros(8, 12)
    left[:, :6] = 1
    found = fused(features, banks, torch.stack([left, 1 - left]))
    # Filters reach 1 and 2 cells: beside the border they see cells of one region alone, as eq. 6 masks features.
    torch.testing.assert_close(found[..., :4], filtered(features, banks[0])[..., :4], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[..., 8:], filtered(features, banks[1])[..., 8:], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[..., 5], filtered(features, banks[0])[..., 5])


def test_weights_of_another_shape_are_refused() -> None:
    features, bank = random(1, 1, 3, 4, 6), random(2, 3, 3, 3, 3)
    with pytest.raises(ValueError, match=r"\(1, 6, 4\); allowed is \(1, 4, 6\)"):
        fused(features, [bank], torch.ones(1, 6, 4))
