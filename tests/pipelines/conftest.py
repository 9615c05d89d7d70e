"""Fixtures of several modules of this folder."""

from __future__ import annotations

import pytest

from tests.support.shelf import Shelf, make_shelf


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return make_shelf(tmp_path_factory.mktemp("shelf"))
