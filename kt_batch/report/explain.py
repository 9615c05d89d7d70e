"""Explain one pixel of an output. For many pixels, open a `Session` once."""

from __future__ import annotations

from collections.abc import Sequence

from kt_batch.report.contributions import Explanation
from kt_batch.report.session import Session


def explain(run: str, output: str, x: int, y: int, library: str | Sequence[str] | None = None) -> Explanation:
    """Explain pixel (x, y) of an output of the run at `run`; see `Session.explain`.

    library: where the run's library is now, if it has moved; of several, where all of them are, in their order.
    """
    return Session.open(run, library).explain(output, x, y)
