"""Translate images of a unit beside each other, where searches wait for the owners of an index.

Images compute in turn (index.turns), so that a worker takes no more processors than with one image at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

from kt_batch.index.turns import Turns
from kt_batch.pipelines.reading import Read
from kt_batch.store.images.files import WorkingImage
from kt_batch.store.plans import Item

R = TypeVar("R")

IMAGES = 4  # under way at a time, at most
ALWAYS = 2  # whatever their size; further ones where all have
PIXELS = 512 * 512  # at most, together


@dataclass(frozen=True)
class Wanted:
    """A readable image, and those of its items whose outputs are to be made."""

    read: Read
    items: list[Item]

    @property
    def working(self) -> WorkingImage:
        """The working image."""
        return cast("WorkingImage", self.read.result)

    @property
    def image(self) -> str:
        """The id of the image."""
        return self.items[0].image_id

    @property
    def pixels(self) -> int:
        """The number of its pixels."""
        return self.working.width * self.working.height


class Beside:
    """Translates some images at a time, on threads that compute in turn."""

    def __init__(self) -> None:
        self._turns = Turns(IMAGES)

    def __call__(
        self, images: Iterable[Wanted], translate: Callable[[Wanted], Iterable[R]]
    ) -> Generator[tuple[Wanted, Iterable[R]]]:
        """Yield each image with its results, in order. In isolation they are made one by one, as `one_by_one` does.

        An error of an image is raised when its results are due. Nothing is under way any more when this ends.
        """
        begun: deque[tuple[Wanted, Future[list[R]]]] = deque()
        try:
            for image in images:
                if image.read.isolated:
                    yield image, translate(image)
                    continue
                begun.append((image, self._turns.submit(partial(_all_of, translate, image))))
                while full(begun):
                    yield _first(begun)
            while begun:
                yield _first(begun)
        finally:
            for _, results in begun:
                results.cancel()
            wait([results for _, results in begun])


def one_by_one(
    images: Iterable[Wanted], translate: Callable[[Wanted], Iterable[R]]
) -> Generator[tuple[Wanted, Iterable[R]]]:
    """Yield each image with its results, which are made one after another as they are taken."""
    for image in images:
        yield image, translate(image)


def full(begun: Iterable[tuple[Wanted, object]]) -> bool:
    """Return whether images that were begun leave no room for another one as large as the largest of them."""
    pixels = [image.pixels for image, _ in begun]
    return len(pixels) >= IMAGES or (len(pixels) >= ALWAYS and sum(pixels) + max(pixels) > PIXELS)


def _all_of(translate: Callable[[Wanted], Iterable[R]], image: Wanted) -> list[R]:
    return list(translate(image))


def _first(begun: deque[tuple[Wanted, Future[list[R]]]]) -> tuple[Wanted, list[R]]:
    found = begun[0][1].result()  # where it fails, all are still known
    return begun.popleft()[0], found
