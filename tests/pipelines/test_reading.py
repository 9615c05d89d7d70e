"""The next image is read while one is processed, except in isolation."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from kt_batch.errors import Reason, RejectError, UnreachableError
from kt_batch.events import keep_events, log_context, log_event, set_context
from kt_batch.pipelines import reading
from kt_batch.pipelines.reading import Reader
from kt_batch.pipelines.units import quarantine
from kt_batch.store.images.files import WorkingImage
from kt_batch.store.plans import Item, Unit

UNIT = Unit("0" * 16, tuple(Item(letter * 16, f"/photos/{letter}.png", f"{letter}.png") for letter in "abc"))


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the first letters of the images read, in order; image b is too large."""
    letters: list[str] = []

    def read_image(items: Sequence[Item], *_: Any) -> WorkingImage:
        letters.append(items[0].image_id[0])
        log_event("storage_retry")
        if letters[-1] == "b":
            raise RejectError(Reason.TOO_MANY_PIXELS, "b is too large")
        return WorkingImage(np.zeros((2, 2, 3), np.float32), 2, 2)

    monkeypatch.setattr(reading, "read_image", read_image)
    return letters


def wait_until(letters: list[str], expected: str) -> None:
    """Wait for the reading thread, and fail if it does not arrive."""
    for _ in range(200):
        if "".join(letters) == expected:
            return
        threading.Event().wait(0.05)
    pytest.fail(f"{letters} instead of {expected}")


def test_every_image_or_its_reject_reason_arrives_in_order(begun: list[str]) -> None:
    beats: list[str] = []

    def beat(part: str) -> bool:
        beats.append(part[0])
        return False

    found = [(read.items[0].image_id[0], type(read.result)) for read in Reader().images(UNIT, 8, beat)]
    assert found == [("a", WorkingImage), ("b", RejectError), ("c", WorkingImage)]
    assert beats == begun == ["a", "b", "c"]


def test_the_next_image_is_read_while_one_is_processed(begun: list[str]) -> None:
    images = Reader().images(UNIT, 8, lambda _: False)
    next(images)
    wait_until(begun, "ab")
    next(images)
    wait_until(begun, "abc")


def test_in_isolation_no_image_is_read_before_its_heartbeat(begun: list[str]) -> None:
    named: list[str] = []

    def beat(part: str) -> bool:
        assert begun == named  # only images with a heartbeat are read
        named.append(part[0])
        return True

    assert len(list(Reader().images(UNIT, 8, beat))) == 3


def test_a_quarantined_image_is_never_read(begun: list[str]) -> None:
    unit = quarantine(UNIT, "c" * 16, "it cost three workers")
    *_, last = Reader().images(unit, 8, lambda _: False)
    assert isinstance(last.result, RejectError)
    assert last.result.reason == Reason.FATAL
    assert begun == ["a", "b"]


def test_a_storage_error_is_raised_in_the_turn_of_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_image(items: Sequence[Item], *_: Any) -> WorkingImage:
        if items[0].image_id[0] == "b":
            raise UnreachableError("the bucket is gone")
        return WorkingImage(np.zeros((2, 2, 3), np.float32), 2, 2)

    monkeypatch.setattr(reading, "read_image", read_image)
    images = Reader().images(UNIT, 8, lambda _: False)
    assert isinstance(next(images).result, WorkingImage)
    with pytest.raises(UnreachableError, match="the bucket is gone"):
        next(images)


@pytest.mark.parametrize("isolated", [False, True])
def test_storage_events_name_the_image_being_read_and_not_the_one_being_processed(
    begun: list[str], isolated: bool
) -> None:
    def beat(part: str) -> bool:
        set_context(image=part)
        return isolated

    with keep_events() as events, log_context(unit=UNIT.id):
        list(Reader().images(UNIT, 8, beat))
        told = [event["fields"] for event in events.take()]
    assert told == [{"unit": UNIT.id, "image": letter * 16} for letter in begun]


@pytest.mark.parametrize(("reason", "tries"), [(Reason.DECODER_DIED, 2), (Reason.DECODER_SLOW, 2), (Reason.EMPTY, 1)])
def test_an_image_that_concurrent_work_may_have_failed_is_read_again_alone(
    monkeypatch: pytest.MonkeyPatch, reason: Reason, tries: int
) -> None:
    letters: list[str] = []

    def read_image(items: Sequence[Item], *_: Any) -> WorkingImage:
        letters.append(items[0].image_id[0])
        raise RejectError(reason, "it cannot be read")

    monkeypatch.setattr(reading, "read_image", read_image)
    assert len(list(Reader().images(UNIT, 8, lambda _: False))) == 3
    assert letters.count("a") == 1  # the first image has no image ahead of it
    assert letters.count("b") == letters.count("c") == tries
    assert len(list(Reader().images(UNIT, 8, lambda _: True))) == 3
    assert letters.count("b") == tries + 1


def test_an_image_that_another_place_failed_for_is_read_again_alone_too(monkeypatch: pytest.MonkeyPatch) -> None:
    letters: list[str] = []

    def read_image(items: Sequence[Item], *_: Any) -> WorkingImage:
        letters.append(items[0].image_id[0])
        first = RejectError(Reason.UNREADABLE, "the first of its files is gone")
        raise first from RejectError(Reason.DECODER_SLOW, "and the second takes too long")

    monkeypatch.setattr(reading, "read_image", read_image)
    found = [read.result for read in Reader().images(UNIT, 8, lambda _: False)]
    assert [error.reason for error in found if isinstance(error, RejectError)] == [Reason.UNREADABLE] * 3
    assert "".join(letters) == "abbcc"
