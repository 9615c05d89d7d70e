"""Readers of images start their own processes here: these are tested."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def own_processes(new_readers: None) -> None:
    """See `new_readers`."""
