"""What all tests share."""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from tests.support.collection import Collection
from tests.support.tiny import draw_all, extracted, indexed

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


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    root = tmp_path_factory.mktemp("collection")
    paintings = draw_all(root / "paintings", range(1, 5))
    photos = draw_all(root / "photos", range(11, 14))
    extracted([paintings], root / "library")
    return Collection(paintings, photos, root / "library", indexed(root / "library").index)


@pytest.fixture
def threads() -> Iterator[None]:
    """For tests that let a pipeline use more than one thread."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
