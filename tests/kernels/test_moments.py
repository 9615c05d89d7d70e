"""Mean and second moment of cells, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kt_batch.kernels.cells import distinct_cells, moments_of
from kt_batch.kernels.moments import Moments, MomentSums


def test_moments_of_two_cells_of_two_channels() -> None:
    moments = moments_of(np.array([[1.0, 2.0], [3.0, 6.0]]))
    assert moments.count == 2
    assert moments.mean.tolist() == [2.0, 4.0]
    # Means of x0^2, x0 x1 and x1^2: (1 + 9) / 2, (2 + 18) / 2 and (4 + 36) / 2.
    assert moments.second.tolist() == [5.0, 10.0, 20.0]
    assert moments.matrix().tolist() == [[5.0, 10.0], [10.0, 20.0]]
    # Sample deviations of 1, 3 and of 2, 6.
    assert np.allclose(moments.deviation(), [np.sqrt(2.0), np.sqrt(8.0)])


def test_a_cell_that_several_patches_share_counts_once() -> None:
    # A map of 2 x 3 cells with the values 0 .. 5, and its two patches, which share the cells 1 and 4.
    cells = np.arange(6, dtype=np.float16)
    patches = np.stack([cells[[0, 1, 3, 4]], cells[[1, 2, 4, 5]]])[:, :, None]
    found = distinct_cells(np.array([0, 0]), np.array([0, 1]), patches)
    assert found.tolist() == [[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]]


def test_patches_apart_leave_out_the_cells_between_them() -> None:
    patches = np.arange(8, dtype=np.float16).reshape(2, 4, 1)
    found = distinct_cells(np.array([4, 0]), np.array([0, 0]), patches)  # the second patch is above the first
    assert found[:, 0].tolist() == [4.0, 5.0, 6.0, 7.0, 0.0, 1.0, 2.0, 3.0]


def test_sums_weigh_images_by_their_cells() -> None:
    sums = MomentSums(1)
    sums.add(Moments(1, np.array([2.0]), np.array([4.0])))
    sums.add(Moments(3, np.array([6.0]), np.array([40.0])))
    total = sums.total()
    # Sums over four cells: 2 + 18 of x, and 4 + 120 of its square.
    assert (total.count, total.mean.tolist(), total.second.tolist()) == (4, [5.0], [31.0])


def test_sums_have_the_same_bytes_in_any_order() -> None:
    random = np.random.default_rng(5)
    images = [moments_of(random.normal(0, 10.0 ** random.integers(-3, 4), (50, 3))) for _ in range(40)]
    totals = []
    for order in (range(40), range(39, -1, -1), random.permutation(40)):
        sums = MomentSums(3)
        for number in order:
            sums.add(images[number])
        totals.append(sums.total())
    assert len({total.mean.tobytes() + total.second.tobytes() for total in totals}) == 1


def test_sums_are_those_of_all_cells_at_once() -> None:
    random = np.random.default_rng(6)
    cells = random.normal(1.0, 3.0, (400, 4))
    sums = MomentSums(4)
    for part in np.split(cells, [10, 150]):
        sums.add(moments_of(part))
    total, expected = sums.total(), moments_of(cells)
    assert np.allclose(total.mean, expected.mean, rtol=0, atol=1e-7)
    assert np.allclose(total.second, expected.second, rtol=0, atol=1e-7)
    assert np.allclose(total.deviation(), cells.std(axis=0, ddof=1), atol=1e-6)


def test_the_largest_values_that_libraries_hold_do_not_overflow() -> None:
    largest = 32752.0
    image = Moments(2**24, np.array([largest]), np.array([largest**2]))
    sums = MomentSums(1)
    for _ in range(3):
        sums.add(image)
    assert (sums.total().mean[0], sums.total().second[0]) == (largest, largest**2)


def test_without_an_image_there_are_no_moments() -> None:
    with pytest.raises(ValueError, match="no cell yet"):
        MomentSums(2).total()
