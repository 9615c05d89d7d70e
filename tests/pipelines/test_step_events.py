"""Iterative methods say how far an image is, and that its worker goes on."""

from __future__ import annotations

import gc
import logging
import sys
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kt_batch.errors import StorageError
from kt_batch.events import LOGGER
from kt_batch.methods.gatys import minimised
from kt_batch.methods.gatys_refined import gradient_descent
from kt_batch.methods.steps import report_step, watched
from kt_batch.pipelines.inputs import find_images, plan_items
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate import step_events
from kt_batch.pipelines.translate.plan import TranslateJob
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.pipelines.translate.step_events import StepEvents
from kt_batch.pipelines.translate.worker import TranslateWorker
from kt_batch.store.plans import Unit
from tests.support.collection import Collection
from tests.support.tiny import SIZE, translate_request, translated


class Beats:
    """A heartbeat that keeps its parts."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def __call__(self, part: str) -> bool:
        """Keep a part."""
        self.parts.append(part)
        return False


@pytest.fixture
def logged() -> Any:
    """Yield the fields of all events that are logged."""
    fields: list[dict[str, Any]] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fields.append({"event": record.__dict__["event"], **record.__dict__["fields"]})

    keeper, level = Keeper(), LOGGER.level
    LOGGER.addHandler(keeper)
    LOGGER.setLevel(logging.INFO)
    yield fields
    LOGGER.removeHandler(keeper)
    LOGGER.setLevel(level)


def test_every_step_is_reported_with_its_loss() -> None:
    seen: list[tuple[int, int, float]] = []

    def watch(number: int, total: int, loss: Tensor | None) -> None:
        seen.append((number, total, -1.0 if loss is None else loss.item()))

    with watched(watch):
        minimised(torch.full((3, 4, 4), 0.1), lambda x: (x - 0.4).square().sum(), "adam", 3)
        gradient_descent(torch.full((3, 4, 4), 0.1), lambda x: (x - 0.4).square().sum(), 1.0, 2)
        report_step(1, 1)
    assert [each[:2] for each in seen] == [(1, 3), (2, 3), (3, 3), (1, 2), (2, 2), (1, 1)]
    assert seen[0][2] == seen[3][2] == pytest.approx(48 * 0.09)
    report_step(1, 1)  # nobody watches any more
    assert len(seen) == 6


def test_an_event_comes_when_it_is_due_and_not_before(logged: list[dict[str, Any]]) -> None:
    beats = Beats()
    for seconds in (1e6, 0.0):
        events = StepEvents("00ff", beats, seconds)
        events(1, 9, torch.tensor(0.5))
    assert beats.parts == ["00ff"]
    assert logged == [{"event": "step", "image": "00ff", "step": 1, "of": 9, "loss": 0.5}]


def test_a_worker_sends_heartbeats_within_an_image(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_events, "SECONDS", 0.0)
    config, sources = choose("gatys", {"iterations": 3}, Choice(styles=str(collection.paintings / "1.png"), size=SIZE))
    item = plan_items(find_images([str(collection.photos / "11.png")], (), no_progress).inputs, no_progress)[0]
    beats = Beats()
    worker = TranslateWorker(TranslateJob(run=str(tmp_path / "run"), config=config, sources=sources, threads=1))
    worker(Unit(id="0" * 16, items=(item,)), beats)
    assert beats.parts.count(item.image_id) >= 4  # when it begins, and at each step


def test_a_photograph_that_is_left_halfway_disturbs_no_other_context(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An error keeps what was under way until its traceback goes, perhaps at another place or in another thread.
    def fail(*_: Any) -> None:
        raise StorageError("the disk is full")

    def translate_in_vain() -> None:
        monkeypatch.setattr(TranslateWorker, "_encoding", fail)
        request = translate_request(collection.library, tmp_path / "run", collection.index)
        try:
            translated([collection.photos], request)
        except StorageError as error:
            kept.append(error)

    kept: list[StorageError] = []
    said: list[Any] = []
    copy_context().run(translate_in_vain)
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    assert [str(error) for error in kept] == ["the disk is full"]
    kept.clear()
    gc.collect()
    assert said == []
