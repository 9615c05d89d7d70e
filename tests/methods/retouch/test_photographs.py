"""Pairs that show one photograph are found."""

import numpy as np
import pytest

from kt_batch.methods.retouch.photographs import few_photographs, find_photographs, near_rows

ROOT_33 = 33**0.5


def moments_of(means: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return cross and power of grey pictures after with these means."""
    cross = np.zeros((len(means), 10, 3))
    cross[:, 0] = np.array(means)[:, None]
    return cross, cross[:, 0] ** 2


def test_equal_and_nearly_equal_pictures_before_are_one_photograph() -> None:
    descriptors = np.repeat([[0.3], [0.5], [0.509], [0.3]], 33, axis=1)  # root mean square differences: .2, .009, 0
    assert find_photographs(descriptors, *moments_of([0.1, 0.2, 0.3, 0.4])).tolist() == [0, 1, 1, 0]


def test_pictures_before_that_differ_by_more_are_several() -> None:
    descriptors = np.repeat([[0.5], [0.511]], 33, axis=1)
    assert find_photographs(descriptors, *moments_of([0.1, 0.2])).tolist() == [0, 1]


def test_one_picture_after_is_one_photograph() -> None:
    descriptors = np.repeat([[0.3], [0.5], [0.7]], 33, axis=1)
    assert find_photographs(descriptors, *moments_of([0.4, 0.1, 0.4])).tolist() == [0, 1, 0]
    assert find_photographs(descriptors, *moments_of([0.4, 0.1, 0.401])).tolist() == [0, 1, 2]


def test_what_is_alike_through_a_third_pair_belongs_together() -> None:
    descriptors = np.repeat([[0.518], [0.5], [0.509]], 33, axis=1)
    assert find_photographs(descriptors, *moments_of([0.1, 0.2, 0.3])).tolist() == [0, 0, 0]
    assert find_photographs(descriptors[:2], *moments_of([0.1, 0.2])).tolist() == [0, 1]


def test_near_rows_are_those_that_a_comparison_of_all_rows_finds() -> None:
    rows = np.random.default_rng(0).random((300, 3))
    found = {tuple(sorted(pair)) for pair in near_rows(rows, 0.1)}
    apart = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    assert found == {(one, other) for one, other in np.argwhere(apart <= 0.1).tolist() if one < other}
    assert len(found) > 50


def test_of_many_equal_rows_each_is_paired_with_the_first_alone() -> None:
    assert sorted(near_rows(np.zeros((4, 2)), 0.1)) == [(0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize("count", [1, 2])
def test_one_and_two_photographs_are_too_few(count: int) -> None:
    assert "too few to learn from" in (few_photographs(count) or "")


def test_three_photographs_are_enough() -> None:
    assert few_photographs(3) is None
