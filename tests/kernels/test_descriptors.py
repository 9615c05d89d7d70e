"""Descriptors of pictures."""

import numpy as np
import pytest

from kt_batch.kernels.descriptors import DESCRIPTORS, describe


def value(pixels: np.ndarray, name: str) -> float:
    return float(describe(pixels.astype(np.float32))[DESCRIPTORS.index(name)])


def constant(colour: tuple[float, float, float], height: int = 6, width: int = 9) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.float32), (height, width, 3))


def test_there_are_33_descriptors_with_33_names() -> None:
    assert len(DESCRIPTORS) == len(set(DESCRIPTORS)) == 33
    assert describe(constant((0.2, 0.5, 0.9))).shape == (33,)


@pytest.mark.parametrize(
    "picture",
    [
        constant((0, 0, 0)),
        constant((1, 1, 1)),
        constant((0.5, 0.5, 0.5)),
        constant((1, 0, 0)),
        constant((0.3, 0.6, 0.1), 1, 1),
        constant((0.3, 0.6, 0.1), 40, 1),
        constant((0.3, 0.6, 0.1), 1, 40),
        np.array([[[0, 0, 0], [1, 1, 1]]], np.float32),
    ],
    ids=["black", "white", "grey", "red", "one pixel", "one column", "one row", "black beside white"],
)
def test_every_picture_has_finite_descriptors(picture: np.ndarray) -> None:
    assert np.isfinite(describe(picture)).all()


def test_grey_has_no_colour_and_its_own_luminance() -> None:
    grey = constant((0.5, 0.5, 0.5))
    assert value(grey, "luminance_percentile_50") == pytest.approx(0.5)
    assert value(grey, "log_luminance_mean") == pytest.approx(np.log(0.52))
    for name in ("luminance_range", "red_minus_green", "log_blue_over_green", "saturation_mean", "lab_chroma_mean"):
        assert value(grey, name) == pytest.approx(0, abs=2e-4), name


def test_colours_are_told_by_differences_and_ratios_of_the_channel_means() -> None:
    picture = constant((0.8, 0.4, 0.2))
    assert value(picture, "red_minus_green") == pytest.approx(0.4)
    assert value(picture, "blue_minus_yellow") == pytest.approx(0.2 - 0.6)
    assert value(picture, "log_red_over_green") == pytest.approx(np.log(2))
    assert value(picture, "log_blue_over_green") == pytest.approx(np.log(0.5))
    assert value(picture, "saturation_mean") == pytest.approx(0.6 / 0.85)
    assert value(picture, "darkest_channel_median") == pytest.approx(0.2)


def test_the_lab_values_of_red_are_those_of_the_tables() -> None:
    red = constant((1, 0, 0))
    assert value(red, "lab_a_mean") == pytest.approx(80.09 / 50, abs=1e-3)
    assert value(red, "lab_b_mean") == pytest.approx(67.20 / 50, abs=1e-3)


def test_a_bright_sky_over_dark_ground() -> None:
    picture = np.zeros((9, 4, 3), np.float32)
    picture[:3] = 0.9
    assert value(picture, "top_minus_bottom") == pytest.approx(0.9)
    assert value(picture, "bright_share") == pytest.approx(1 / 3)
    assert value(picture, "dark_share") == pytest.approx(2 / 3)
    # Mean 0.3; deviations 0.6 (a third) and -0.3: (0.216 - 2 * 0.027) / 3 = 0.054 over (0.18 ** 1.5).
    assert value(picture, "luminance_skewness") == pytest.approx(0.054 / 0.18**1.5, rel=1e-5)


def test_a_bright_spot_in_the_middle_raises_the_centre() -> None:
    picture = np.zeros((30, 30, 3), np.float32)
    picture[13:18, 13:18] = 1
    assert value(picture, "centre_minus_mean") > 0.02


def test_the_same_picture_has_the_same_bytes() -> None:
    picture = np.random.default_rng(1).random((31, 17, 3), dtype=np.float32)
    assert describe(picture).tobytes() == describe(picture.copy()).tobytes()
