"""Rounding bounds of scores and of their first levels."""

from __future__ import annotations

import torch

from kt_batch.kernels.bounds import first_level_slack, rounding_slack
from kt_batch.kernels.principal import first_level, stored_first_level


def test_the_slack_grows_with_the_number_of_values() -> None:
    assert rounding_slack(512) == 2**-14


def test_the_slack_of_a_first_level_sums_float16_directions_and_two_products() -> None:
    assert first_level_slack(1024) == 2**-11 + 2**-18 + 2 * 2**-13


def test_the_worst_float16_rounding_of_a_first_level_is_within_its_slack() -> None:
    # 15 of 16 coordinates are just below the middle of two float16 numbers, 1/4 and 1/4 + 2^-12, and are rounded down:
    # (15 / 16) 2^-11 is taken from the score of the vector with itself, which is 1.
    just_below = 0.25 + 2**-13 - 2**-20
    x = torch.full((1, 16), just_below)
    x[0, 15] = (1 - 15 * just_below**2) ** 0.5
    query = first_level(x, torch.eye(16))
    product = (query.double() @ stored_first_level(query).double().T).item()
    assert 1 - 2**-11 < product < 1 - 0.9 * 2**-11
    assert product + first_level_slack(16) >= 1
