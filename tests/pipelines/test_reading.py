"""While one image is worked on the next is read, unless a lost worker must be blamed on the right one."""

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
from kt_batch.store.units import Item, Unit

UNIT = Unit("0" * 16, tuple(Item(letter * 16, f"/photos/{letter}.png", f"{letter}.png") for letter in "abc"))


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first letters of the images that were begun to be read, in order. Image b is too large."""
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
    """A thread of its own reads; what never comes fails here."""
    for _ in range(200):
        if "".join(letters) == expected:
            return
        threading.Event().wait(0.05)
    pytest.fail(f"{letters} instead of {expected}")


def test_every_image_comes_in_turn_or_the_reason_why_it_cannot(begun: list[str]) -> None:
    beats: list[str] = []

    def beat(part: str) -> bool:
        beats.append(part[0])
        return False

    found = [(read.items[0].image_id[0], type(read.result)) for read in Reader().images(UNIT, 8, beat)]
    assert found == [("a", WorkingImage), ("b", RejectError), ("c", WorkingImage)]
    assert beats == begun == ["a", "b", "c"]


def test_the_next_image_is_read_while_one_is_worked_on(begun: list[str]) -> None:
    images = Reader().images(UNIT, 8, lambda _: False)
    next(images)
    wait_until(begun, "ab")
    next(images)
    wait_until(begun, "abc")


def test_with_care_nothing_is_read_before_it_was_named(begun: list[str]) -> None:
    named: list[str] = []

    def beat(part: str) -> bool:
        assert begun == named  # all that was named before is read, and nothing else
        named.append(part[0])
        return True

    assert len(list(Reader().images(UNIT, 8, beat))) == 3


def test_a_condemned_image_is_never_read(begun: list[str]) -> None:
    unit = quarantine(UNIT, "c" * 16, "it cost three workers")
    *_, last = Reader().images(unit, 8, lambda _: False)
    assert isinstance(last.result, RejectError)
    assert last.result.reason == Reason.FATAL
    assert begun == ["a", "b"]


def test_a_store_that_fails_is_raised_when_the_image_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_what_the_store_tells_of_is_about_the_image_that_is_read_and_not_the_one_that_is_worked_on(
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
def test_what_may_have_failed_for_want_of_room_beside_other_work_is_read_once_more_alone(
    monkeypatch: pytest.MonkeyPatch, reason: Reason, tries: int
) -> None:
    letters: list[str] = []

    def read_image(items: Sequence[Item], *_: Any) -> WorkingImage:
        letters.append(items[0].image_id[0])
        raise RejectError(reason, "it cannot be read")

    monkeypatch.setattr(reading, "read_image", read_image)
    assert len(list(Reader().images(UNIT, 8, lambda _: False))) == 3
    assert letters.count("a") == 1  # of which nothing was ahead
    assert letters.count("b") == letters.count("c") == tries
    assert len(list(Reader().images(UNIT, 8, lambda _: True))) == 3
    assert letters.count("b") == tries + 1


def test_so_is_one_that_another_place_had_failed_for_before(monkeypatch: pytest.MonkeyPatch) -> None:
    letters: list[str] = []

    def read_image(items: Sequence[Item], *_: Any) -> WorkingImage:
        letters.append(items[0].image_id[0])
        first = RejectError(Reason.UNREADABLE, "the first of its files is gone")
        raise first from RejectError(Reason.DECODER_SLOW, "and the second takes too long")

    monkeypatch.setattr(reading, "read_image", read_image)
    found = [read.result for read in Reader().images(UNIT, 8, lambda _: False)]
    assert [error.reason for error in found if isinstance(error, RejectError)] == [Reason.UNREADABLE] * 3
    assert "".join(letters) == "abbcc"
