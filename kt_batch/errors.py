"""What can go wrong, as a small tree. Every message is one sentence for a person: what, received, allowed, which file.

KtBatchError
|-- UsageError           the call makes no sense as written          exit 2
|-- RejectError          one input cannot be used                    a reject row, exit 3 at the end
|-- StoppedError         the end was asked for (SIGTERM)           exit 1
|-- StorageError         a place cannot be read or written           exit 1
|   |-- MissingError     nothing lies there
|   |-- UnreachableError the store itself fails, whatever is asked of it
|   `-- DamagedError     something lies there, but not what its name or receipt says
|-- MismatchError        two things do not belong together (library and encoder, run and options)
`-- WeightsError         a weight file is wrong, damaged or of a refused kind
"""

from __future__ import annotations

from enum import StrEnum


class KtBatchError(Exception):
    """Base of all errors meant for a person."""

    exit_code = 1


class UsageError(KtBatchError):
    """The call makes no sense as written: an option out of range, options that exclude each other, nothing to do."""

    exit_code = 2


class Reason(StrEnum):
    """Why an input was rejected; the `reason` column of the reject tables."""

    UNREADABLE = "unreadable"  # it vanished after planning, or cannot be read where others can
    EMPTY = "empty"  # zero bytes
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    TOO_MANY_PIXELS = "too_many_pixels"  # decompression bombs and absurd sizes, judged before decoding
    UNSUPPORTED = "unsupported"  # an image, but of a kind we do not read (channels, sample format)
    NON_FINITE = "non_finite"  # NaN or infinity in a float image
    CHANGED = "changed"  # its bytes are not those that were planned
    DECODER_DIED = "decoder_died"  # decoding it ends the process that does so, each time
    DECODER_SLOW = "decoder_slow"  # decoding it takes longer than any image should
    FATAL = "fatal"  # every process that worked on it died or fell silent


class RejectError(KtBatchError):
    """One input cannot be used; it becomes a row of the reject table and the run goes on."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[RejectError], tuple[Reason, str]]:
        return RejectError, (self.reason, self.message)


class StoppedError(KtBatchError):
    """Somebody asked for the end, and what was begun is finished."""


class StorageError(KtBatchError):
    """A place cannot be read or written: no such bucket, no permission, no space."""


class MissingError(StorageError):
    """Nothing lies at this place."""


class UnreachableError(StorageError):
    """The store itself fails, whatever is asked of it: no answer, no such bucket, credentials it does not know."""


class DamagedError(StorageError):
    """What lies at this place is not what its name or its receipt says."""


class MismatchError(KtBatchError):
    """Two things do not belong together: a library and another encoder, a run and other options."""


class WeightsError(KtBatchError):
    """A weight file is missing, damaged, of a refused kind, or not for this network."""
