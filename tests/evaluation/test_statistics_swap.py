"""The statistics swap of the paper beside the other ways to edit after pairs."""

from __future__ import annotations

import numpy as np
import pytest

from kt_batch.evaluation.colour_maps import nearest_pairs
from kt_batch.evaluation.likeness import detail_kept
from kt_batch.evaluation.pairs import evaluate_pairs
from kt_batch.evaluation.statistics_swap import APPLIED, DECODED, StatisticsSwap
from kt_batch.methods.retouch.config import FitConfig
from tests.evaluation.test_pairs import Pairs, brighter, picture, table_of

SIDES = 48, 64


def pairs_of(count: int) -> Pairs:
    pictures = {f"{seed:016x}": picture(seed, *SIDES) for seed in range(count)}
    return {pair: (before, brighter(before)) for pair, before in pictures.items()}


def edits(pairs: Pairs, pair: str, asked: list[str] | None = None) -> dict[str, np.ndarray]:
    """Return both edits of the photograph of a pair."""

    def after(wanted: str) -> np.ndarray:
        if asked is not None:
            asked.append(wanted)
        return pairs[wanted][1]

    methods = StatisticsSwap(table_of(pairs), after).methods()
    return {name: method(pair, pairs[pair][0]) for name, method in methods.items()}


def test_both_forms_have_the_size_of_the_photograph_and_differ() -> None:
    pairs = pairs_of(3)
    found = edits(pairs, f"{0:016x}")
    assert found.keys() == {DECODED, APPLIED}
    for edited in found.values():
        assert edited.shape == (*SIDES, 3)
        assert edited.min() >= 0
        assert edited.max() <= 1
    assert np.abs(found[DECODED] - found[APPLIED]).max() > 0.01


def test_at_full_size_the_photograph_keeps_its_detail() -> None:
    pairs = pairs_of(3)
    before = pairs[f"{0:016x}"][0]
    found = edits(pairs, f"{0:016x}")
    assert detail_kept(before, found[APPLIED]) > max(0.98, detail_kept(before, found[DECODED]))


def test_a_photograph_never_sees_its_own_edit_and_others_are_read_once() -> None:
    pairs, asked = pairs_of(9), list[str]()
    table = table_of(pairs)
    own = f"{4:016x}"
    edits(pairs, own, asked)
    assert len(asked) == len(set(asked)) == 5
    rest = table.take(place for place, pair in enumerate(table.ids) if pair != own)
    nearest = nearest_pairs(rest, table.descriptors[table.ids.index(own)])
    assert set(asked) == {rest.ids[place] for place in nearest}


def test_the_report_has_a_row_for_each_form() -> None:
    pairs = pairs_of(3)
    table = table_of(pairs)
    swap = StatisticsSwap(table, lambda pair: pairs[pair][1])
    report = evaluate_pairs(table, pairs.__getitem__, FitConfig(), swap.methods())
    assert {DECODED, APPLIED} < report.methods.keys()
    assert report.methods[APPLIED].detail > report.methods[DECODED].detail


def test_photographs_after_teach_the_swap_their_brightness() -> None:
    # The same pictures before and after, but for the brightness: the swap finds it in the photographs after.
    dark = {f"{seed:016x}": 0.5 * picture(seed, *SIDES) for seed in range(4)}
    pairs = {pair: (before, (before + 0.3).astype(np.float32)) for pair, before in dark.items()}
    before, after = pairs[f"{1:016x}"]
    for edited in edits(pairs, f"{1:016x}").values():
        assert edited.mean() == pytest.approx(after.mean(), abs=0.15)
        assert edited.mean() > before.mean() + 0.05
