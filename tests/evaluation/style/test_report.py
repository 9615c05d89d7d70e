"""Means and intervals over pairs of photographs and paintings."""

from __future__ import annotations

import pytest

from kt_batch.evaluation.style.measures import StyleValues
from kt_batch.evaluation.style.report import PairReport, bootstrap_mean, curve_name, differences_of, means_of


def values(structure: float | None) -> StyleValues:
    return StyleValues(None, structure, 0.5, 0.5, None, 0.1, 0.1, None, [0.5] * 4)


def test_equal_values_have_an_interval_without_width() -> None:
    mean = bootstrap_mean({(photograph, painting): 0.25 for photograph in "abc" for painting in "xy"})
    assert (mean.mean, mean.low, mean.high, mean.pairs) == (0.25, 0.25, 0.25, 6)


def test_few_paintings_widen_the_interval_though_there_are_many_pairs() -> None:
    # 40 photographs after two paintings: the value is 0 after one and 1 after the other. A quarter of the draws has
    # one painting twice, a quarter the other: the interval is all of [0, 1].
    cells = {(str(photograph), painting): float(painting == "y") for photograph in range(40) for painting in "xy"}
    mean = bootstrap_mean(cells)
    assert (mean.mean, mean.low, mean.high, mean.pairs) == (0.5, 0, 1, 80)


def test_a_constant_gain_is_certain_though_pairs_differ() -> None:
    hard, easy = (PairReport("a", name, {}, {}) for name in "xy")
    hard.values.update(one=values(0.2), other=values(0.1))
    easy.values.update(one=values(0.9), other=values(0.8))
    mean, difference = means_of("one", [hard, easy]), differences_of("one", "other", [hard, easy])
    assert (mean["structure"].low, mean["structure"].high) == (0.2, 0.9)
    assert (difference["structure"].low, difference["structure"].high) == (0.1, 0.1)


def test_measures_and_differences_are_of_the_pairs_that_have_them() -> None:
    pairs = [PairReport("a", name, {}, {}) for name in "xyz"]
    for pair, structure in zip(pairs, (0.5, None, 0.7), strict=True):
        pair.values["one"] = values(structure)
    pairs[0].values["other"] = values(0.4)
    assert means_of("one", pairs)["structure"].pairs == 2
    assert differences_of("one", "other", pairs)["structure"].pairs == 1
    assert "blotchiness" not in means_of("one", pairs)


def test_missing_pairs_are_left_out_of_the_mean() -> None:
    mean = bootstrap_mean({("a", "x"): 1.0, ("a", "y"): 2.0, ("b", "x"): 6.0})
    assert (mean.mean, mean.pairs) == (3, 3)
    assert mean.low >= 1
    assert mean.high <= 6


def test_the_interval_is_the_same_every_time() -> None:
    cells = {(one, other): ord(one) * ord(other) % 7 / 7 for one in "abcd" for other in "xyz"}
    assert bootstrap_mean(cells) == bootstrap_mean(cells)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"swap": "geometric", "alpha": 1.0}, {"swap": "geometric", "alpha": 0.5}, True),
        ({"strength": 1.0}, {"strength": 0.2}, True),
        ({"swap": "geometric", "alpha": 1.0}, {"swap": "statistics", "alpha": 1.0}, False),
    ],
)
def test_methods_that_differ_in_strength_alone_share_a_curve(
    one: dict[str, object], other: dict[str, object], same: bool
) -> None:
    assert (curve_name("m", one) == curve_name("m", other)) is same
