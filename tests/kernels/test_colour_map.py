"""Colour maps of tensors are those of numpy, byte for byte, on any device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kt_batch.kernels.colour_map import map_colours
from kt_batch.kernels.quadratic import BLOCK, IDENTITY, apply_map
from kt_batch.methods.retouch.method import ColourMap
from tests.support.other_device import DEVICE, OtherDevice


def pixels(rows: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, width, 3), dtype=np.float32)


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**32), st.floats(0, 3))
def test_a_tensor_is_mapped_as_an_array_is(rows: int, width: int, seed: int, spread: float) -> None:
    picture = pixels(rows, width, seed)
    coefficients = IDENTITY + np.random.default_rng(seed).normal(size=(10, 3)) * spread
    mapped = map_colours(torch.from_numpy(picture), coefficients)
    assert np.array_equal(mapped.numpy(), apply_map(picture, coefficients))


def test_an_edit_on_another_device_has_the_same_bytes() -> None:
    picture = (pixels(3, BLOCK, 0) * 1.2 - 0.1).astype(np.float32)  # some colours are outside sRGB
    coefficients = IDENTITY + np.random.default_rng(0).normal(size=(10, 3)) * 0.2
    here = ColourMap(coefficients).apply(picture, 0, 3)
    with OtherDevice():
        there = ColourMap(coefficients, DEVICE).apply(picture, 0, 3)
    assert there.tobytes() == here.tobytes()


@pytest.mark.gpu
def test_an_edit_on_a_gpu_has_the_same_bytes() -> None:
    if not torch.cuda.is_available():
        pytest.skip("this torch sees no GPU")
    picture = pixels(300, 400, 0)
    coefficients = IDENTITY + np.random.default_rng(0).normal(size=(10, 3)) * 0.2
    there = ColourMap(coefficients, torch.device("cuda")).apply(picture, 0, 300)
    assert there.tobytes() == ColourMap(coefficients).apply(picture, 0, 300).tobytes()
