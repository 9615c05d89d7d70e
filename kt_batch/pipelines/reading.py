"""The images of a unit, one by one: while one of them is worked on, the next is fetched and decoded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from kt_batch.errors import Reason, RejectError
from kt_batch.events import set_context
from kt_batch.pipelines.inputs import read_image
from kt_batch.pipelines.units import by_image, check_quarantined
from kt_batch.runners.base import Heartbeat
from kt_batch.store.images.files import WorkingImage
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.units import Item, Unit

# Reasons for which an image is not rejected before it was read while nothing is computed in this worker.
LONE = frozenset({Reason.DECODER_DIED, Reason.DECODER_SLOW})

P = ParamSpec("P")
T = TypeVar("T")


class BackgroundExecutor:
    """One thread for what is done beside the work, one thing after the other. What it tells of is about the unit and
    the image that it was handed over for."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)

    def submit(self, image: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `work` done for an image."""

        def about_it() -> T:
            set_context(image=image)
            return work(*args, **kwargs)

        return self._thread.submit(copy_context().run, about_it)


@dataclass(frozen=True)
class Read:
    """The working image of items that are one image, or why there is none; the seconds that it was waited for; and
    whether the unit is done with care."""

    items: list[Item]
    result: WorkingImage | RejectError
    seconds: float
    isolated: bool


class Reader:
    """Reads and decodes the images of units; decoding is contained in a process of its own."""

    def __init__(self) -> None:
        self._decoder = ImageReaderProcess()
        self._background = BackgroundExecutor()

    def images(
        self, unit: Unit, size: int, beat: Heartbeat, others: Mapping[str, Sequence[str]] | None = None
    ) -> Iterator[Read]:
        """The images of `unit` in id order, with a heartbeat for each. `others`: more URIs where an image may be.

        Nothing is read ahead where `beat` asks for care: a process that is lost must be lost over the image that it
        named.
        """

        def read(items: Sequence[Item]) -> WorkingImage:
            image = items[0].image_id
            check_quarantined(unit, image)
            return read_image(items, size, self._decoder.decode, (others or {}).get(image, ()))

        def begin(items: Sequence[Item]) -> Future[WorkingImage]:
            return self._background.submit(items[0].image_id, read, items)

        ahead: Future[WorkingImage] | None = None
        images = by_image(unit)
        try:
            for items, following in zip(images, [*images[1:], None], strict=True):
                started = time.perf_counter()
                isolated = beat(items[0].image_id)
                found = _image_or_reject(ahead or begin(items))
                if ahead and _is_for_want_of_room(found):
                    beat(items[0].image_id)  # its time begins anew
                    found = _image_or_reject(begin(items))
                ahead = begin(following) if following and not isolated else None
                yield Read(items, found, time.perf_counter() - started, isolated)
        finally:
            if ahead:  # left in the middle
                ahead.cancel()


def _image_or_reject(reading: Future[WorkingImage]) -> WorkingImage | RejectError:
    try:
        return reading.result()
    except RejectError as error:
        return error.with_traceback(None)  # which holds the bytes of the file


def _is_for_want_of_room(found: WorkingImage | RejectError) -> bool:
    """The reason, or what is behind it where another place of the image had failed before."""
    reasons = (found, found.__cause__) if isinstance(found, RejectError) else ()
    return any(isinstance(error, RejectError) and error.reason in LONE for error in reasons)
