"""The scripted hand exposes for middle grey, adds contrast and warms."""

from __future__ import annotations

import numpy as np
import pytest

from kt_batch.demo.hand import exposed, scripted_edit


def flat(value: float) -> np.ndarray:
    return np.full((4, 4, 3), value)


def test_a_stop_doubles_light() -> None:
    assert exposed(flat(0.4), 1.0) ** 2.2 == pytest.approx(2 * flat(0.4) ** 2.2)


def test_dark_pictures_are_brightened_and_bright_ones_darkened() -> None:
    # 0.2 is 0.029 of white in light; 2.5 ** 0.8 = 2.08 times that is 0.279, and 0.248 on the curve.
    assert scripted_edit(flat(0.2))[0, 0, 1] == pytest.approx(0.248, abs=0.001)
    # 0.9 is 0.793 in light; (0.2 / 0.793 = 1 / 2.5 at most) ** 0.8 = 0.48 times that is 0.645, and 0.668 on the curve.
    assert scripted_edit(flat(0.9))[0, 0, 1] == pytest.approx(0.668, abs=0.001)


def test_the_same_light_is_edited_otherwise_in_another_picture() -> None:
    with_sky = np.concatenate([flat(0.3), flat(0.95)])
    assert scripted_edit(with_sky)[0, 0, 0] < scripted_edit(flat(0.3))[0, 0, 0] - 0.1


def test_grey_becomes_warm() -> None:
    red, green, blue = scripted_edit(flat(0.5))[0, 0]
    assert red > green > blue
