"""Read the images of a unit one by one, and fetch and decode the next one while one is processed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

from kt_batch.errors import Reason, RejectError
from kt_batch.events import set_context
from kt_batch.pipelines.inputs import read_image
from kt_batch.pipelines.units import by_image, check_quarantined
from kt_batch.runners.base import Heartbeat
from kt_batch.store.images.file_bytes import Data
from kt_batch.store.images.files import WorkingImage
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.plans import Item, Unit

# An image fails for these reasons also when memory is short. It is read once more while nothing is computed.
RETRIED_ALONE = frozenset({Reason.DECODER_DIED, Reason.DECODER_SLOW})

P = ParamSpec("P")
T = TypeVar("T")


class BackgroundExecutor:
    """Runs functions on one background thread, in order. Events they log carry the unit and image of the caller."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)

    def submit(self, image: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `work` for an image."""

        def about_it() -> T:
            set_context(image=image)
            return work(*args, **kwargs)

        return self._thread.submit(copy_context().run, about_it)


@dataclass(frozen=True)
class Read:
    """One image of a unit.

    items: Its names. result: The working image, or why there is none. seconds: How long the worker waited for it.
    isolated: Whether the unit is done in isolation.
    """

    items: list[Item]
    result: WorkingImage | RejectError
    seconds: float
    isolated: bool


class Reader:
    """Reads and decodes the images of units. Decoding runs in a process of its own."""

    def __init__(self) -> None:
        self._decoder = ImageReaderProcess()
        self._background = BackgroundExecutor()

    def images(
        self,
        unit: Unit,
        size: int,
        beat: Heartbeat,
        other_uris: Mapping[str, Sequence[str]] | None = None,
        metadata: bool = False,
        further: Sequence[int] = (),
    ) -> Iterator[Read]:
        """Yield the images of a unit in id order.

        In isolation nothing is read ahead: a process that dies must die over the image that its heartbeat named.

        Args:
            unit: The unit.
            size: Long side of the working images.
            beat: Called for each image.
            other_uris: Image id -> more URIs where the image may be.
            metadata: Whether the working images are to have the metadata of their files.
            further: More sizes at which each image is wanted.
        """

        def decode(data: Data) -> WorkingImage:
            working = self._decoder.decode(data, size)
            if further:
                working = replace(working, further=tuple(self._decoder.decode(data, side) for side in further))
            return replace(working, blocks=self._decoder.metadata(data)) if metadata else working

        def read(items: Sequence[Item]) -> WorkingImage:
            image = items[0].image_id
            check_quarantined(unit, image)
            return read_image(items, decode, (other_uris or {}).get(image, ()))

        def begin(items: Sequence[Item]) -> Future[WorkingImage]:
            return self._background.submit(items[0].image_id, read, items)

        ahead: Future[WorkingImage] | None = None
        images = by_image(unit)
        try:
            for items, following in zip(images, [*images[1:], None][: len(images)], strict=True):
                started = time.perf_counter()
                isolated = beat(items[0].image_id)
                result = _image_or_reject(ahead or begin(items))
                if ahead and _may_lack_memory(result):
                    beat(items[0].image_id)  # its deadline starts again
                    result = _image_or_reject(begin(items))
                ahead = begin(following) if following and not isolated else None
                yield Read(items, result, time.perf_counter() - started, isolated)
        finally:
            if ahead:  # the caller stopped early
                ahead.cancel()


def _image_or_reject(reading: Future[WorkingImage]) -> WorkingImage | RejectError:
    try:
        return reading.result()
    except RejectError as error:
        return error.with_traceback(None)  # the traceback holds the bytes of the file


def _may_lack_memory(result: WorkingImage | RejectError) -> bool:
    """Tell whether the image may have failed for lack of memory, at this URI or at another one."""
    errors = (result, result.__cause__) if isinstance(result, RejectError) else ()
    return any(isinstance(error, RejectError) and error.reason in RETRIED_ALONE for error in errors)
