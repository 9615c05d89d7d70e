"""L*a*b*."""

import numpy as np
import pytest
from skimage.color import lab2rgb, rgb2lab

from kt_batch.kernels.lab import from_lab, lab


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
    ],
)
def test_known_colours(colour: tuple[float, ...], expected: tuple[float, ...]) -> None:
    assert lab(np.array(colour)) == pytest.approx(np.array(expected), abs=0.02)


def test_a_grid_of_colours_agrees_with_scikit_image_and_comes_back() -> None:
    steps = np.linspace(0, 1, 9)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    assert np.abs(lab(grid) - rgb2lab(grid)).max() < 0.01
    assert np.abs(from_lab(lab(grid)) - grid).max() < 1e-9
    assert np.abs(from_lab(rgb2lab(grid)) - lab2rgb(rgb2lab(grid))).max() < 1e-3
