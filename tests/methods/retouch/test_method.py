"""What a run records of an edit."""

from __future__ import annotations

import numpy as np
import pytest

from kt_batch.kernels.quadratic import IDENTITY
from kt_batch.methods.base import SourceProvenance
from kt_batch.methods.retouch.method import MOST_SHARES, ColourMap, largest_shares
from kt_batch.methods.retouch.predict import Prediction
from kt_batch.pipelines.translate.provenance import source_shares
from kt_batch.store.plans import Item


def predicted(*shares: float) -> Prediction:
    return Prediction(IDENTITY, 1.0, 1.0, np.array(shares))


def test_shares_keep_their_signs_and_sum_to_one() -> None:
    made = largest_shares(("a", "b", "c"), predicted(1.5, -0.7, 0.2))
    assert made == {"a": 1.5, "b": -0.7, "c": 0.2}
    assert sum(made.values()) == pytest.approx(1)


def test_of_many_pairs_those_with_the_largest_shares_are_kept_as_they_are() -> None:
    shares = [0.001] * 100 + [-2.0, 2.9]
    made = largest_shares(tuple(f"{number:03d}" for number in range(102)), predicted(*shares))
    assert len(made) == MOST_SHARES
    assert (made["100"], made["101"]) == (-2.0, 2.9)


def test_the_sources_of_a_picture_in_a_shard_hold_negative_shares_too() -> None:
    found = source_shares(SourceProvenance({"a": 0.4, "b": -0.9, "c": 1.5, "d": 0.0}), Item("0" * 16, "u", "n"))
    assert found == [("c", 1.5), ("b", -0.9), ("a", 0.4)]


def mapped(coefficients: np.ndarray, *pixel: float) -> list[float]:
    """Return what a map makes of a pixel that lies beside one inside sRGB."""
    band = np.array([[[0.2, 0.4, 0.6], pixel]], np.float32)
    made = ColourMap(coefficients).apply(band, 0, 1)
    assert made.dtype == np.float32
    found: list[float] = made[0, 1].tolist()
    return found


def test_no_edit_leaves_colours_outside_srgb_as_they_are() -> None:
    assert mapped(IDENTITY, 1.09, -0.23, -0.15) == pytest.approx([1.09, -0.23, -0.15])


def test_a_gain_is_one_of_colours_outside_srgb_too() -> None:
    assert mapped(1.2 * IDENTITY, 0.5, -0.1, 0.2) == pytest.approx([0.6, -0.12, 0.24])
    assert mapped(0.5 * IDENTITY, 1.1, -0.2, 0.4) == pytest.approx([0.55, -0.1, 0.2])


def test_outside_srgb_a_map_goes_on_as_it_rises_at_the_border() -> None:
    squares = np.zeros((10, 3))
    squares[4:7] = np.eye(3) / 2  # half of the square of each channel: at 1 it is .5 and rises by 1, at 0 by nothing
    squares[7, 0] = 0.25  # and red takes a quarter of red times green: at red 1, green rises it by .25
    assert mapped(squares, 1.1, -0.2, 0.4) == pytest.approx([0.5 + 0.1 - 0.2 * 0.25, 0, 0.08])
