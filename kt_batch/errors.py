"""The exceptions. A message is one sentence for a person: what was wrong, the value received, what is allowed, where.

KtBatchError
|-- UsageError           the call is wrong as written                exit 2
|-- RejectError          one input cannot be used                    a reject row, exit 3 at the end
|-- StoppedError         shutdown was requested (SIGTERM)            exit 1
|-- StorageError         a place cannot be read or written           exit 1
|   |-- MissingError     nothing is there
|   |-- UnreachableError the store itself fails for every request
|   |-- NameRefusedError the file system takes no file of that name
|   `-- DamagedError     the content is not what its name or receipt says
|-- MismatchError        two things do not belong together (library and encoder, run and options)
`-- WeightsError         a weight file is wrong, damaged or of a refused kind
"""

from __future__ import annotations

from enum import StrEnum

from kt_batch.redaction import redacted


class KtBatchError(Exception):
    """Base of all errors that are meant for a person. A message holds no credentials, whatever place it repeats."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class UsageError(KtBatchError):
    """The call is wrong as written: an option out of range, options that exclude each other, nothing to do."""

    exit_code = 2


class Reason(StrEnum):
    """Why an input was rejected; the `reason` column of the reject tables."""

    UNREADABLE = "unreadable"  # the file vanished after planning, or cannot be read where others can
    EMPTY = "empty"  # zero bytes
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    TOO_MANY_PIXELS = "too_many_pixels"  # decompression bombs and absurd sizes, found before decoding
    UNSUPPORTED = "unsupported"  # an image whose channels or sample format are not supported
    NON_FINITE = "non_finite"  # NaN or infinity in a float image
    CHANGED = "changed"  # the bytes are not those that were planned
    NAME_REFUSED = "name_refused"  # the run's file system takes no output of that name
    DECODER_DIED = "decoder_died"  # decoding ends the reader process every time
    DECODER_SLOW = "decoder_slow"  # decoding exceeds its deadline
    NOT_A_PAIR = "not_a_pair"  # before and after are not one picture: cropped, turned, shifted, or equal
    MASK = "mask"  # the label image of a photograph is missing, cannot be used, or does not fit
    FATAL = "fatal"  # quarantined: every worker that processed it died or fell silent


class RejectError(KtBatchError):
    """One input cannot be used; it becomes a reject row and the run continues."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = str(self)

    def __reduce__(self) -> tuple[type[RejectError], tuple[Reason, str]]:
        return RejectError, (self.reason, self.message)


class StoppedError(KtBatchError):
    """Shutdown was requested, and the running units are finished."""


class StorageError(KtBatchError):
    """A place cannot be read or written: no such bucket, no permission, no space."""


class MissingError(StorageError):
    """The named place does not exist."""


class UnreachableError(StorageError):
    """The store itself fails for every request: no answer, no such bucket, unknown credentials."""


class NameRefusedError(StorageError):
    """The file system takes no file of this name."""


class DamagedError(StorageError):
    """The content of this place is not what its name or its receipt says."""


class MismatchError(KtBatchError):
    """Two things do not belong together: a library and another encoder, a run and other options."""


class WeightsError(KtBatchError):
    """A weight file is missing, damaged, of a refused kind, or not for this network."""
