"""Synthetic befores: darker, paler, hazier, and the same for the same photograph."""

from __future__ import annotations

import numpy as np
import pytest

from kt_batch.kernels.synthetic_befores import BLACK, CHROMA, STOPS, Variation, synthetic_before, variation

IMAGE = "0123456789abcdef"


def before(colour: tuple[float, float, float], how: Variation) -> list[float]:
    return list(synthetic_before(np.array([[colour]], np.float32), how)[0, 0])


def test_a_stop_halves_linear_light() -> None:
    # 0.735357 is 0.5 in linear light, 0.537099 is 0.25.
    assert before((0.735357,) * 3, Variation(-1.0, 0.0, 1.0)) == pytest.approx([0.537099] * 3, abs=1e-5)


def test_chroma_is_the_distance_from_grey() -> None:
    # The luminance of pure red is 0.2126: halfway to grey, red is 0.6063 and the others are 0.1063.
    assert before((1.0, 0.0, 0.0), Variation(0.0, 0.0, 0.5)) == pytest.approx([0.6063, 0.1063, 0.1063], abs=1e-6)


def test_black_is_lifted_and_white_stays() -> None:
    how = Variation(0.0, 0.08, 1.0)
    assert before((0.0,) * 3, how) == pytest.approx([0.08] * 3)
    assert before((1.0,) * 3, how) == pytest.approx([1.0] * 3)


def test_what_becomes_brighter_than_white_is_white() -> None:
    assert before((1.0,) * 3, Variation(0.2, 0.0, 1.0)) == [1.0] * 3


def test_a_variation_follows_from_the_image_and_its_number() -> None:
    assert variation(IMAGE, 1) == variation(IMAGE, 1)
    assert len({variation(IMAGE, 0), variation(IMAGE, 1), variation("f" * 16, 0)}) == 3


def test_variations_are_spread_over_their_ranges() -> None:
    drawn = [variation(f"{number:016x}", 0) for number in range(1000)]
    for name, (low, high) in (("stops", STOPS), ("black", BLACK), ("chroma", CHROMA)):
        values = np.array([getattr(each, name) for each in drawn])
        assert low <= values.min() < values.max() <= high
        assert np.quantile(values, [0.25, 0.5, 0.75]) == pytest.approx(
            [low + share * (high - low) for share in (0.25, 0.5, 0.75)], abs=0.05 * (high - low)
        )
