"""Images of a unit are translated beside each other, and handed on in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from kt_batch.index.turns import waiting
from kt_batch.pipelines.reading import Read
from kt_batch.pipelines.translate.beside import Beside, Wanted, full, one_by_one
from kt_batch.store.images.files import WorkingImage
from kt_batch.store.plans import Item

TIMEOUT = 60


def wanted(letter: str, side: int = 8, *, isolated: bool = False) -> Wanted:
    items = [Item(letter * 16, f"/photos/{letter}.png", f"{letter}.png")]
    working = WorkingImage(np.broadcast_to(np.float32(0), (side, side, 3)), side, side)
    return Wanted(Read(items, working, 0.0, isolated), items)


class Translations:
    """Makes results of images, and notes which have begun; those in `together` wait for each other."""

    def __init__(self, together: str = "") -> None:
        self.begun: list[str] = []
        self.together, self.meeting = together, threading.Barrier(max(1, len(together)))

    def __call__(self, image: Wanted) -> Iterator[str]:
        letter = image.image[0]
        self.begun.append(letter)
        if letter in self.together:
            with waiting():
                self.meeting.wait(TIMEOUT)
        yield letter + "1"
        if letter == "x":
            raise ValueError("x")
        yield letter + "2"


def test_images_wait_beside_each_other_and_arrive_in_order() -> None:
    translations = Translations("abcd")
    images = [wanted(letter) for letter in "abcde"]
    found = [(image.image[0], list(results)) for image, results in Beside()(images, translations)]
    assert found == [(letter, [letter + "1", letter + "2"]) for letter in "abcde"]
    assert "".join(translations.begun) == "abcde"


def test_in_isolation_an_image_begins_when_the_one_before_is_handed_on() -> None:
    for each_image in (Beside(), one_by_one):
        translations = Translations()
        images = [wanted(letter, isolated=True) for letter in "ab"]
        for number, (_, results) in enumerate(each_image(images, translations)):
            assert len(translations.begun) == number
            assert next(iter(results))[1] == "1"


@pytest.mark.parametrize(("sides", "expected"), [((512,), False), ((512, 512), True), ((256, 256, 256), False)])
def test_large_images_are_two_at_a_time(sides: tuple[int, ...], expected: bool) -> None:
    assert full([(wanted("a", side), None) for side in sides]) == expected
    assert not full([(wanted("a", 4096), None)])
    assert full([(wanted("a"), None)] * 4)


def test_an_error_is_raised_when_its_image_is_due_and_nothing_is_left_under_way() -> None:
    translations, found = Translations(), list[str]()

    def take_all() -> None:
        with closing(Beside()([wanted(letter) for letter in "axbc"], translations)) as translated:
            for _, results in translated:
                found.extend(results)

    with pytest.raises(ValueError, match="x"):
        take_all()
    assert found == ["a1", "a2"]
    begun = list(translations.begun)
    threading.Event().wait(0.05)
    assert translations.begun == begun
