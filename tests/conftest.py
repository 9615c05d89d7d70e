"""Fixtures and settings of all tests."""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

import os
import time
from collections.abc import Generator, Iterator

import pytest
import torch
from hypothesis import settings

from kt_batch.store.images import reader_process
from kt_batch.store.images.reader_channel import Child
from tests.support.collection import Collection
from tests.support.idle_readers import kept_readers
from tests.support.tiny import draw_all, extracted, indexed

settings.register_profile("house", deadline=None)  # no test asserts durations
settings.load_profile("house")


def pytest_runtest_setup() -> None:
    """Skip what begins after TESTS_UNTIL, in seconds since 1970: `.ci/run` sets it, since its time is limited."""
    until = float(os.environ.get("TESTS_UNTIL", "inf"))
    if time.time() > until:
        pytest.skip("the time of this run is up (TESTS_UNTIL)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what a test logged or printed and UTF-8 cannot hold: parallel workers send their reports as UTF-8."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Limit torch to one thread, since parallel tests compete for the cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's own cache folder out of the tests, and what they write out of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def readers_stay() -> Iterator[None]:
    """Let the readers of all runs in this process share one decoding process, since each takes long to start."""
    with kept_readers():
        yield


@pytest.fixture(autouse=True, scope="session")
def nothing_waits_for_the_disk() -> Iterator[None]:
    """Take out the waits for the disk: no test cuts the power, and the order of calls is tested with calls recorded.

    The processes of commands keep them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def new_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every reader a decoding process of its own, as outside tests."""
    monkeypatch.setattr(reader_process, "Child", Child)


@pytest.fixture
def generator() -> torch.Generator:
    """Return a random generator with a fixed seed."""
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
    """Restore the number of threads after a test that changes it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
