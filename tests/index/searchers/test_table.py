"""The table of searchers."""

from __future__ import annotations

from typing import get_args

from kt_batch.config import Searcher
from kt_batch.index.searchers.table import SEARCHERS


def test_every_configurable_searcher_is_in_the_table_and_no_other() -> None:
    assert set(SEARCHERS) == set(get_args(Searcher))
