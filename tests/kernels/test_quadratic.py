"""Quadratic colour maps."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_batch.kernels.quadratic import (
    BLOCK,
    IDENTITY,
    apply_map,
    basis,
    change_along,
    moments,
    reference_map,
    slopes,
    towards_identity,
)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)


def some_map(seed: int = 0) -> np.ndarray:
    found: np.ndarray = IDENTITY + np.random.default_rng(seed).normal(size=(10, 3)) * 0.2
    return found


def test_the_basis_is_a_constant_the_channels_their_squares_and_their_products() -> None:
    assert basis(np.array([2.0, 3.0, 5.0])).tolist() == [1, 2, 3, 5, 4, 9, 25, 6, 10, 15]


def test_moments_are_means_over_all_pixels() -> None:
    before = np.array([[[0, 0, 0], [1, 0.5, 0]]], np.float32)
    after = np.array([[[0.2, 0, 0], [0.6, 1, 0]]], np.float32)
    found = moments(before, after)
    assert found.power == pytest.approx([(0.04 + 0.36) / 2, 0.5, 0])
    assert found.gram[0] == pytest.approx([1, 0.5, 0.25, 0, 0.5, 0.125, 0, 0.25, 0, 0])
    assert found.cross[1] == pytest.approx([0.3, 0.5, 0])


def test_moments_of_many_chunks_are_those_of_one_product() -> None:
    before, after = picture(300, 400), picture(300, 400, 1)
    found = moments(before, after)
    features = basis(before.reshape(-1, 3).astype(np.float64))
    assert found.gram == pytest.approx(features.T @ features / len(features), abs=1e-12)
    assert found.cross == pytest.approx(features.T @ after.reshape(-1, 3).astype(float) / len(features), abs=1e-12)


def test_pictures_of_two_sizes_are_no_pair() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        moments(picture(3, 4), picture(4, 3))


def test_the_fast_map_agrees_with_the_definition() -> None:
    pixels = picture(70, 90)
    assert np.abs(apply_map(pixels, some_map()) - reference_map(pixels, some_map())).max() < 1e-6


def test_the_identity_leaves_every_pixel_as_it_is() -> None:
    pixels = picture(70, 90)
    assert apply_map(pixels, IDENTITY).tobytes() == pixels.tobytes()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 199), max_size=6), st.integers(0, 9))
def test_bands_give_the_bytes_of_the_whole(cuts: list[int], seed: int) -> None:
    pixels = picture(200, 3 * BLOCK // 200 + 1, seed)
    edges = [0, *sorted(set(cuts)), 200]
    bands = [apply_map(pixels[top:end], some_map(seed)) for top, end in pairwise(edges)]
    assert np.concatenate(bands).tobytes() == apply_map(pixels, some_map(seed)).tobytes()


def test_slopes_are_the_derivatives_of_the_map() -> None:
    pixels, step = picture(1, 5).reshape(-1, 3).astype(np.float64), 1e-6
    found = slopes(some_map(), pixels)
    for channel in range(3):
        nudge = np.eye(3)[channel] * step
        change = (basis(pixels + nudge) - basis(pixels - nudge)) @ some_map() / (2 * step)
        assert found[:, channel] == pytest.approx(change, abs=1e-8)


def test_strength_goes_from_no_edit_to_the_whole_edit() -> None:
    assert (towards_identity(some_map(), 0) == IDENTITY).all()
    assert towards_identity(some_map(), 1) == pytest.approx(some_map(), abs=1e-15)
    assert towards_identity(some_map(), 0.5) == pytest.approx((IDENTITY + some_map()) / 2)


def test_a_change_along_a_step_is_the_slopes_times_the_step() -> None:
    random = np.random.default_rng(4)
    coefficients, pixels = random.normal(size=(10, 3)), random.random((50, 3)).astype(np.float32)
    steps = random.normal(size=(50, 3)).astype(np.float32)
    expected = np.einsum("nic,ni->nc", slopes(coefficients, pixels), steps)
    assert change_along(coefficients, pixels, steps) == pytest.approx(expected, abs=1e-5)
