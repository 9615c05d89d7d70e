"""The first level of a search."""

from __future__ import annotations

import math

import pytest
import torch

from kt_batch.kernels.bounds import first_level_slack, refined_slack, rounding_slack
from kt_batch.kernels.principal import (
    bound_correction,
    first_level,
    further_directions,
    halved,
    other_half,
    principal_directions,
    stored_first_level,
)
from kt_batch.kernels.tiles import normalise


def test_directions_are_ordered_by_strength() -> None:
    # The mean squares along the three axes are 4, 9 and 1.
    vectors = torch.tensor([[2.0, 0, 0], [0, 3, 0], [0, 0, 1]])
    expected = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])  # in columns: the second axis, the first, the third
    torch.testing.assert_close(principal_directions(vectors, 3), expected)
    torch.testing.assert_close(principal_directions(vectors, 2), expected[:, :2])


def test_directions_are_computed_without_subtracting_the_mean() -> None:
    # These vary along (1, -1) about their mean; their mean square is largest along (1, 1).
    vectors = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    torch.testing.assert_close(principal_directions(vectors, 1), torch.full((2, 1), 0.5**0.5))


def test_the_largest_component_of_a_direction_is_positive() -> None:
    found = principal_directions(torch.tensor([[-0.6, -0.8], [-0.6, 0.8]]), 2)
    torch.testing.assert_close(found, torch.tensor([[0.0, 1], [1, 0]]))
    found = principal_directions(torch.tensor([[0.6, -0.8]]), 1)
    torch.testing.assert_close(found, torch.tensor([[-0.6], [0.8]]))


def test_there_are_no_more_directions_than_values() -> None:
    assert principal_directions(torch.eye(4), 127).shape == (4, 4)


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_vectors_than_directions_are_completed_to_an_orthonormal_set(count: int) -> None:
    found = principal_directions(torch.eye(8)[:count], 6)
    torch.testing.assert_close(found.T @ found, torch.eye(6), atol=1e-6, rtol=0)


def test_directions_do_not_depend_on_the_order_of_vectors(generator: torch.Generator) -> None:
    vectors = torch.randn(3000, 6, generator=generator) * torch.tensor([1.0, 2, 4, 8, 16, 32])
    shuffled = vectors[torch.randperm(3000, generator=generator)]
    torch.testing.assert_close(principal_directions(shuffled, 6), principal_directions(vectors, 6), atol=1e-5, rtol=0)


def test_a_first_level_contains_coordinates_and_the_length_of_the_rest() -> None:
    # (2, -3, -6) / 7 along the first two axes: the rest is 6 / 7.
    level = first_level(torch.tensor([[2.0, -3, -6]]) / 7, torch.eye(3)[:, :2])
    torch.testing.assert_close(level, torch.tensor([[2.0, -3, 6]]) / 7, atol=1e-6, rtol=0)
    assert level[0, 2] > 6 / 7


def test_the_product_of_two_first_levels_is_at_least_that_of_the_vectors() -> None:
    # Both are 0.6 along the direction; the rest, 0.8, is parallel, orthogonal and opposite.
    q = torch.tensor([[0.6, 0.8, 0]])
    x = torch.tensor([[0.6, 0.8, 0], [0.6, 0, 0.8], [0.6, -0.8, 0]])
    direction = torch.eye(3)[:, :1]
    product = first_level(q, direction) @ first_level(x, direction).T
    torch.testing.assert_close(product, torch.ones(1, 3), atol=1e-5, rtol=0)  # 0.36 + 0.64
    torch.testing.assert_close(q @ x.T, torch.tensor([[1, 0.36, -0.28]]))


def test_a_zero_vector_has_a_negligible_rest() -> None:
    level = first_level(torch.zeros(2, 16), torch.eye(16)[:, :4])
    assert level[:, :4].eq(0).all()
    assert level[:, 4].tolist() == pytest.approx([math.sqrt(2 * 16 * 2**-23)] * 2)


def test_first_levels_do_not_depend_on_the_block_size(generator: torch.Generator) -> None:
    vectors, directions = torch.randn(1100, 4, generator=generator), torch.eye(4)[:, 1:3]
    together = first_level(vectors, directions)
    assert together.shape == (1100, 3)
    for n in (0, 1023, 1024, 1099):
        assert first_level(vectors[n : n + 1], directions).equal(together[n : n + 1])


def test_no_vectors_have_an_empty_level() -> None:
    assert first_level(torch.empty(0, 4), torch.eye(4)[:, :2]).shape == (0, 3)


def test_a_stored_rest_is_rounded_up_and_a_coordinate_to_nearest() -> None:
    # The float16 numbers from 1/2 to 1 are 2^-11 apart.
    step = 2**-11
    level = torch.tensor([[0.5 + 0.4 * step, 0.5 + 0.4 * step], [0.5 + 0.6 * step, 0.5 + 0.6 * step], [0.5, 0.5]])
    stored = stored_first_level(level)
    assert stored.dtype == torch.float16
    assert stored[:, 0].tolist() == [0.5, 0.5 + step, 0.5]
    assert stored[:, 1].tolist() == [0.5 + step, 0.5 + step, 0.5]


def test_the_smallest_rest_is_not_stored_as_zero() -> None:
    assert stored_first_level(torch.tensor([[0.0, 1e-30]]))[0, 1].item() == 2**-24


def test_a_half_level_contains_the_stronger_coordinates_and_the_length_of_the_remainder() -> None:
    # Three of six coordinates stay; the rest is sqrt(1 + 4 + 4 + 16) = 5.
    found = halved(torch.tensor([[9.0, 8, 7, 1, 2, 2, 4]]))
    torch.testing.assert_close(found, torch.tensor([[9.0, 8, 7, 5]]), atol=1e-4, rtol=0)
    assert found[0, 3] > 5


@pytest.mark.parametrize("dim", [608, 1024])
@pytest.mark.parametrize("away", [0.0, 1e-3, 0.1, 1.0])
def test_each_step_of_a_bound_exceeds_the_exact_value_only_by_its_rounding(dim: int, away: float) -> None:
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, dim + 1) ** -0.7
    x = normalise(torch.randn(300, dim, generator=generator) * spectrum)
    q = normalise(x + away * torch.randn(300, dim, generator=generator) * spectrum)
    directions = principal_directions(x, 127)
    further = further_directions(x, directions, 128)
    # Coordinates are not stored here, so the slack without the 2^-11 for float16 must suffice.
    slack = 2 * rounding_slack(dim)
    level_q, level_x = first_level(q, directions), first_level(x, directions)
    truth = (q.double() * x.double()).sum(1)
    bound = (halved(level_q) * halved(level_x)).sum(1)
    assert (bound + first_level_slack(dim) - 2**-11 >= truth).all()
    bound += (other_half(level_q, halved(level_q), 1) * other_half(level_x, halved(level_x), -1)).sum(1)
    assert (bound + first_level_slack(dim) - 2**-11 >= truth).all()
    bound += (bound_correction(level_q, q @ further, slack, 1) * bound_correction(level_x, x @ further, slack, -1)).sum(
        1
    )
    assert (bound + refined_slack(dim) - 2**-11 >= truth).all()
