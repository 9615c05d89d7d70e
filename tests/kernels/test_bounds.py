"""Upper bounds of a score."""

from __future__ import annotations

import math

import pytest
import torch

from kt_batch.kernels.bounds import radius_bound, rounding_slack
from kt_batch.kernels.tiles import unit

SLACK = rounding_slack(2)


def cosine(degrees: float) -> torch.Tensor:
    return torch.tensor([[math.cos(math.radians(degrees))]])


@pytest.mark.parametrize(("centre", "radius", "nearest"), [(90, 30, 60), (50, 20, 30), (120, 90, 30), (170, 10, 160)])
def test_a_query_is_as_near_as_its_angle_less_the_radius(centre: float, radius: float, nearest: float) -> None:
    bound = radius_bound(cosine(centre), cosine(radius)[0], SLACK)
    torch.testing.assert_close(bound, cosine(nearest), atol=1e-5, rtol=0)
    assert bound >= cosine(nearest)


def test_a_query_inside_a_leaf_may_find_itself_there() -> None:
    assert radius_bound(cosine(20), cosine(30)[0], SLACK) >= 1
    assert radius_bound(cosine(0), cosine(0)[0], SLACK) >= 1


def test_a_leaf_of_one_patch_is_bounded_by_its_cosine() -> None:
    torch.testing.assert_close(radius_bound(cosine(40), cosine(0)[0], SLACK), cosine(40), atol=1e-5, rtol=0)


def test_cosines_that_rounding_has_pushed_beyond_one_are_read_as_one() -> None:
    bound = radius_bound(torch.tensor([[1.0000002, -1.0000002]]), torch.tensor([1.0000002, -1.0000002]), SLACK)
    assert bound.isfinite().all()
    assert (bound >= 1).tolist() == [[True, True]]


def test_rounding_cannot_hide_a_patch_on_the_far_side() -> None:
    # In float32 the query lies exactly opposite to the centre, the leaf reaches to 90 degrees, and yet the product of
    # the query with the member at 90 degrees is 0.0001.
    query, centre, member = unit(torch.tensor([[-1.0, 1e-4], [1, 0], [0, 1]])).split(1)
    assert (query @ centre.T).item() == -1
    assert radius_bound(query @ centre.T, (centre @ member.T)[0], SLACK) >= query @ member.T


def test_the_slack_grows_with_the_number_of_values() -> None:
    assert rounding_slack(512) == 2**-14
