"""What all tests share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

settings.register_profile("house", deadline=None)  # there are no asserts on time
settings.load_profile("house")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small tensors gain nothing from more, and tests that run side by side would fight over the cores."""
    torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    """Random numbers that are the same in every run."""
    return torch.Generator().manual_seed(0)
