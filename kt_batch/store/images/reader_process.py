"""Decode images in a child process: a crash there crashes nothing else.

Results equal those of `images.files.decode`, bit for bit. The child (`reader_child`) has no credentials and hard
limits. This module starts it, enforces its deadline and replaces it. Its answers are checked like any untrusted input.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from kt_batch.errors import KtBatchError, Reason, RejectError
from kt_batch.store.images.file_bytes import Data
from kt_batch.store.images.files import WorkingImage
from kt_batch.store.images.metadata.blocks import Blocks
from kt_batch.store.images.originals import Bands, Original
from kt_batch.store.images.reader_channel import Child, Deadline, DiedError
from kt_batch.store.images.reader_child import FACTS_WANTED, GREY, INK

# The costliest allowed image takes about 50 s of one core, an ordinary one of the same size 15 s. The limit is higher,
# since a busy machine must not cause a reject. Two children in a row stay within a runner's own limit.
SECONDS = 280.0

_MODULE = "kt_batch.store.images.reader_child"
_COMMAND = (sys.executable, "-P", "-B", "-m", _MODULE)  # no modules of the current folder, no .pyc files


T = TypeVar("T")


class ImageReaderProcess:
    """A child process that decodes images; it starts at the first image.

    A child that ended is replaced. The object is for one thread. The child ends with `close`, with the object, and with
    this process.

    seconds: time limit of one image. command: the program to start, for tests.
    """

    def __init__(self, seconds: float = SECONDS, command: Sequence[str] = _COMMAND) -> None:
        self._seconds = seconds
        self._command = tuple(command)
        self._child: Child | None = None
        self._end: weakref.finalize[[], ImageReaderProcess] | None = None
        self._bands_left = False  # of an original, in the way of the next answer

    def __enter__(self) -> ImageReaderProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Return the process id of the child; None without one."""
        return self._child.process.pid if self._child else None

    def close(self) -> None:
        """End the child, if there is one; the next image would start another."""
        if self._end is not None:
            self._end()
        self._child = self._end = None
        self._bands_left = False

    def decode(self, data: Data, size: int) -> WorkingImage:
        """Decode an image as `images.files.decode` does.

        Raises:
            RejectError: also DECODER_SLOW for an image over the time limit, and DECODER_DIED when two children in a row
                died of it; one alone may have been ended from outside.
            KtBatchError: no child can be started, which is no fault of the image.
        """
        return cast("WorkingImage", self._answer(lambda child: child.ask(data, size, self._seconds)))

    def facts(self, data: Data) -> dict[str, Any]:
        """Return what is understood of a file, as `images.facts.facts_of` does. Texts in it come from the file.

        Raises:
            RejectError, KtBatchError: As `decode`.
        """
        return cast("dict[str, Any]", self._answer(lambda child: child.ask(data, FACTS_WANTED, self._seconds)))

    def metadata(self, data: Data) -> Blocks:
        """Return the metadata of a file, as `images.metadata.read.blocks_of` does.

        Raises:
            RejectError, KtBatchError: As `decode`.
        """
        return self._answer(lambda child: child.metadata(data, self._seconds))

    def converted(self, samples: NDArray[np.uint16], profile: bytes, to_srgb: bool) -> NDArray[np.uint16]:
        """Convert (h, w, 3) samples from a profile to sRGB, or from sRGB to the profile.

        Raises:
            RejectError, KtBatchError: As `decode`; also for a profile that does not convert in this direction.
        """
        return self._answer(lambda child: child.converted(samples, profile, to_srgb, self._seconds))

    def original(self, data: Data, *, ink: bool = False, grey: bool = True) -> tuple[Original, Bands]:
        """Read an image at its full size as `images.originals.read_original` does.

        Bands that are not taken before the next call cost the child.

        Raises:
            RejectError: As `decode`. While bands are taken, also for one child that died, since the caller may have
                used bands already.
            KtBatchError: No child can be started.
        """
        deadline = Deadline(self._seconds)
        options = INK * ink | GREY * grey
        original = self._answer(lambda child: child.describe(data, options, self._seconds, deadline))
        self._bands_left = True
        return original, self._bands(original, deadline)

    def _bands(self, original: Original, deadline: Deadline) -> Bands:
        left = original.height
        while left:
            try:
                band = self._once(partial(Child.band, original=original, left=left, deadline=deadline), ready=False)
            except DiedError as error:
                raise _died_of_it(error) from error
            if isinstance(band, RejectError):
                self._bands_left = False
                raise band
            left -= len(band)
            self._bands_left = left > 0
            yield band

    def _answer(self, ask: Callable[[Child], T | RejectError]) -> T:
        """Return what a child answers, or a second one where the first died."""
        try:
            answer = self._once(ask)
        except DiedError:
            try:
                answer = self._once(ask)
            except DiedError as error:
                raise _died_of_it(error) from error
        if isinstance(answer, RejectError):
            raise answer
        return answer

    def _once(self, ask: Callable[[Child], T | RejectError], ready: bool = True) -> T | RejectError:
        """Return what a child answers; one that is slow, gone or out of step with the protocol ends."""
        child = self._ready() if ready else cast("Child", self._child)
        try:
            return ask(child)
        except TimeoutError:
            self.close()
            return RejectError(Reason.DECODER_SLOW, f"decoding it takes over {self._seconds:g} seconds")
        except BaseException:
            self.close()
            raise

    def _ready(self) -> Child:
        if self._bands_left:
            self.close()
        if self._child is not None and self._child.process.poll() is None:
            return self._child
        self.close()
        try:
            self._child = Child(self._command)
            self._end = weakref.finalize(self, self._child.end)
            self._child.greet()
        except (OSError, DiedError) as error:
            self.close()
            raise KtBatchError(
                f"The process that decodes images does not start ({error}); `python -m {_MODULE}` shows why."
            ) from error
        except BaseException:
            self.close()
            raise
        return self._child


def _died_of_it(error: DiedError) -> RejectError:
    return RejectError(Reason.DECODER_DIED, f"decoding it ended the process that did so: {error}")
