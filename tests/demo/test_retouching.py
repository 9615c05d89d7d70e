"""The demo's second page: a scripted hand is learned from pairs, and nearer to it than no edit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kt_batch.config import RunOptions
from kt_batch.demo.bundled import bundled
from kt_batch.demo.retouching import HELD_OUT, LEARNED_FROM, RetouchingSummary, demo_retouching, quarters
from kt_batch.pipelines.progress import no_progress
from kt_batch.runners.local import LocalRunner
from tests.report.test_sheet import Page


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def summary(out: Path) -> RetouchingSummary:
    return demo_retouching(
        out, bundled(LEARNED_FROM), bundled(HELD_OUT), RunOptions(threads=1), LocalRunner(), no_progress
    )


def test_no_photograph_is_both_learned_from_and_held_out() -> None:
    assert not set(LEARNED_FROM) & set(HELD_OUT)


def test_quarters_are_the_whole_picture() -> None:
    picture = np.arange(5 * 7 * 3.0).reshape(5, 7, 3)
    upper_left, upper_right, lower_left, lower_right = quarters(picture)
    upper, lower = np.hstack([upper_left, upper_right]), np.hstack([lower_left, lower_right])
    assert np.array_equal(np.vstack([upper, lower]), picture)


def test_the_learned_edits_are_nearer_to_the_scripted_ones_than_no_edit(summary: RetouchingSummary) -> None:
    assert (summary.pairs, summary.photographs) == (20, 4)
    assert summary.learned_db > summary.unedited_db + 5


def test_before_learned_and_scripted_edit_are_side_by_side(summary: RetouchingSummary) -> None:
    page = Page(Path(summary.page))
    words = " ".join(page.text.split())
    assert words.count("Before Learned edit Scripted edit") == 4
    assert len(page.all("img")) == 4 * (3 + 3 * 2)
    assert "the quarters of 5 bundled pictures" in words
    assert f"learned edits {summary.learned_db:.1f} dB" in words


def test_a_second_call_finds_everything_done(summary: RetouchingSummary, out: Path) -> None:
    again = demo_retouching(
        out, bundled(LEARNED_FROM), bundled(HELD_OUT), RunOptions(threads=1), LocalRunner(), no_progress
    )
    assert again == summary
