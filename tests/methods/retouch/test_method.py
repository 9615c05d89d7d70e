"""What a run records of an edit."""

from __future__ import annotations

import numpy as np
import pytest

from kt_batch.kernels.quadratic import IDENTITY
from kt_batch.methods.base import SourceProvenance
from kt_batch.methods.retouch.method import MOST_SHARES, largest_shares
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
