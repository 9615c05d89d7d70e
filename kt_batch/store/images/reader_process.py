"""Decode images in a child process: a crash there crashes nothing else.

Results equal those of `images.files.decode`, bit for bit. The child (`reader_child`) has no credentials and hard
limits. This module starts it, enforces its deadline and replaces it. Its answers are checked like any untrusted input.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from kt_batch.errors import KtBatchError, Reason, RejectError
from kt_batch.store.images.file_bytes import Data
from kt_batch.store.images.files import WorkingImage
from kt_batch.store.images.metadata.blocks import Blocks
from kt_batch.store.images.originals import Bands, Original
from kt_batch.store.images.reader_channel import Answer, Child, Deadline, DiedError
from kt_batch.store.images.reader_child import FACTS_WANTED, INK, SRGB

# The costliest allowed image takes about 50 s of one core, an ordinary one of the same size 15 s. The limit is higher,
# since a busy machine must not cause a reject. Two children in a row stay within a runner's own limit.
SECONDS = 280.0

_MODULE = "kt_batch.store.images.reader_child"
_COMMAND = (sys.executable, "-P", "-B", "-m", _MODULE)  # no modules of the current folder, no .pyc files


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

    def decode(self, data: Data, size: int) -> WorkingImage:
        """Decode an image as `images.files.decode` does.

        Raises:
            RejectError: also DECODER_SLOW for an image over the time limit, and DECODER_DIED when two children in a row
                died of it; one alone may have been ended from outside.
            KtBatchError: no child can be started, which is no fault of the image.
        """
        return cast("WorkingImage", self._answer(data, size))

    def facts(self, data: Data) -> dict[str, Any]:
        """Return what is understood of a file, as `images.facts.facts_of` does. Texts in it come from the file.

        Raises:
            RejectError, KtBatchError: As `decode`.
        """
        return cast("dict[str, Any]", self._answer(data, FACTS_WANTED))

    def _answer(self, data: Data, size: int) -> Answer:
        try:
            answer = self._ask(data, size)
        except DiedError:
            answer = self._ask_again(data, size)
        if isinstance(answer, RejectError):
            raise answer
        return answer

    def original(self, data: Data, *, ink: bool, srgb: bool) -> tuple[Original, Bands]:
        """Read an image at its full size as `images.originals.read_original` does.

        The bands have to be taken before the next image is asked for. A child that dies is not asked again, since the
        caller may have used bands already.

        Raises:
            RejectError: As `decode` does; also while bands are taken.
            KtBatchError: No child can be started.
        """
        child = self._ready()
        deadline = Deadline(self._seconds)
        with self._in_step():
            original = child.describe(data, INK * ink | SRGB * srgb, self._seconds, deadline)
        if isinstance(original, RejectError):
            raise original
        return original, self._bands(child, original, deadline)

    def metadata(self, data: Data) -> Blocks:
        """Return the metadata of a file, as `images.metadata.read.blocks_of` does.

        Raises:
            RejectError: Reading it takes too long, or ended the child.
            KtBatchError: No child can be started.
        """
        child = self._ready()
        with self._in_step():
            blocks = child.metadata(data, self._seconds)
        if isinstance(blocks, RejectError):
            raise blocks
        return blocks

    def _bands(self, child: Child, original: Original, deadline: Deadline) -> Bands:
        left = original.height
        finished = False
        try:
            while left:
                with self._in_step():
                    band = child.band(original, left, deadline)
                if isinstance(band, RejectError):
                    finished = True
                    raise band
                left -= len(band)
                yield band
            finished = True
        finally:
            if not finished:  # bands that nobody took would be in the way of the next answer
                self.close()

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        """Turn what happens to a child into a reject; a child that is out of step ends."""
        try:
            yield
        except TimeoutError as error:
            self.close()
            raise self._too_slow() from error
        except DiedError as error:
            self.close()
            raise _died_of_it(error) from error
        except BaseException:
            self.close()
            raise

    def _too_slow(self) -> RejectError:
        return RejectError(Reason.DECODER_SLOW, f"decoding it takes over {self._seconds:g} seconds")

    def _ask_again(self, data: Data, size: int) -> Answer | RejectError:
        try:
            return self._ask(data, size)
        except DiedError as error:
            return _died_of_it(error)

    def _ask(self, data: Data, size: int) -> Answer | RejectError:
        child = self._ready()
        try:
            return child.ask(data, size, self._seconds)
        except TimeoutError:
            self.close()
            return self._too_slow()
        except BaseException:  # the child is gone, or out of step with the protocol
            self.close()
            raise

    def _ready(self) -> Child:
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
