"""The rate of two workers counts only while both are at work."""

from __future__ import annotations

import pytest

from benchmarks.retouch_on_ray import rate
from kt_batch.store.receipts import Receipt


def receipt(worker: str, finished: float, images: int) -> Receipt:
    name = "0" * 16
    return Receipt(unit=name, attempt=name, config_digest=name, worker=worker, finished=finished, images=images)


def test_start_up_and_the_idle_end_are_left_out() -> None:
    commits = [("a:1", 10, 8), ("a:1", 14, 8), ("a:1", 18, 8), ("b:2", 12, 8), ("b:2", 16, 8), ("b:2", 20, 4)]
    found = rate(receipt(*each) for each in commits)
    # Both have committed at 12, and a is the first to end, at 18: within are those at 14, 16 and 18.
    assert found == {"photographs": 24, "seconds": 6.0, "rate": 4.0}


def test_workers_that_were_never_at_work_together_have_no_rate() -> None:
    with pytest.raises(SystemExit, match="give more photographs"):
        rate([receipt("a:1", 10, 8), receipt("b:2", 12, 8)])
