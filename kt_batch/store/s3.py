"""A location in a bucket of an S3-compatible object store.

Importing this module imports s3fs, which is slow, so it is imported late.

Commits are plain puts with `If-None-Match: *`: exactly one of several writers succeeds. Some stores ignore
that condition when a multipart upload completes. Multipart uploads are therefore for `put_content` alone, whose names
hold a hash.

Credentials, region and profile come from the usual places of S3 clients, the address from AWS_ENDPOINT_URL. No message
contains them: errors name the location and the store's error code.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import aiohttp
import tenacity
from botocore import exceptions as botocore_errors
from s3fs import S3FileSystem

from kt_batch.errors import MissingError, StorageError, UnreachableError
from kt_batch.events import log_context, log_event
from kt_batch.store.names import Names, check_range, is_safe_name, safe_name
from kt_batch.store.scratch import temporary_directory

T = TypeVar("T")

PART_BYTES = 16 << 20  # of a multipart upload; at most two parts are in memory
CONNECT_SECONDS = 5
READ_SECONDS = 60

_REFUSED = ("PreconditionFailed", "412")
_UNTOLD = ("400", "403")  # answers to a HEAD, which have no body and so no code
_BEYOND = ("InvalidRange", "416")
# Answers that allow a retry: overload, a fault of the store, or another conditional put of the name in progress.
_OVERLOADED = ("SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "503")
_STUMBLED = ("InternalError", "RequestTimeout", "500", "502", "504")
_TRANSIENT = (*_OVERLOADED, *_STUMBLED, "ConditionalRequestConflict")
# Answers that hold for the whole bucket until somebody creates it or changes the credentials.
_LOCKED_OUT = (
    "NoSuchBucket",
    "AccountProblem",
    "AllAccessDisabled",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "UserSuspended",
)
_CUT = (
    ConnectionError,
    TimeoutError,
    aiohttp.ClientPayloadError,
    botocore_errors.ConnectionError,
    botocore_errors.ConnectionClosedError,
    botocore_errors.ReadTimeoutError,
    botocore_errors.IncompleteReadError,
    botocore_errors.ResponseStreamingError,
)
_NO_CREDENTIALS = (
    botocore_errors.CredentialRetrievalError,
    botocore_errors.NoCredentialsError,
    botocore_errors.PartialCredentialsError,
    botocore_errors.TokenRetrievalError,
    botocore_errors.UnauthorizedSSOTokenError,
)
_NEVER_THERE = (botocore_errors.EndpointConnectionError, botocore_errors.ConnectTimeoutError)
_FAILURES = (OSError, botocore_errors.BotoCoreError, botocore_errors.ClientError, aiohttp.ClientError)


@dataclass(frozen=True)
class S3Location:
    """A prefix of a bucket, or the whole bucket. `Location` documents the methods."""

    bucket: str
    prefix: str  # no slash at either end

    @property
    def uri(self) -> str:
        """Return s3://bucket/prefix."""
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

    def read_bytes(self, name: str) -> bytes:
        """See `Location`."""
        path = f"{self.bucket}/{self._key(name)}"
        with self._explained(name):
            return cast(bytes, _attempt(lambda fs: fs.cat_file(path, max_concurrency=1)))

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """See `Location`."""
        check_range(name, start, length)
        if length == 0:
            return b""
        path = f"{self.bucket}/{self._key(name)}"
        try:
            with self._explained(name):
                return cast(
                    bytes,
                    _attempt(lambda fs: fs.cat_file(path, start=start, end=start + length)),
                )
        except StorageError as error:
            if error_code(error.__cause__) in _BEYOND:
                return b""
            raise

    def size(self, name: str) -> int:
        """See `Location`."""
        with self._explained(name):
            return int(self._call("head_object", Key=self._key(name))["ContentLength"])

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `Location`."""
        try:
            with self._explained(name):
                self._call("put_object", Key=self._key(name), Body=data, IfNoneMatch="*")
        except StorageError as error:
            if error_code(error.__cause__) in _REFUSED:
                return False
            raise
        return True

    def put_content(self, name: str, source: Path) -> None:
        """See `Location`; content of another size under the name is replaced."""
        path = f"{self.bucket}/{self._key(name)}"
        with suppress(MissingError):
            if self.size(name) == source.stat().st_size:
                return
        with self._explained(name):
            _attempt(lambda fs: fs.put_file(str(source), path, chunksize=PART_BYTES, max_concurrency=2))

    def list(self, prefix: str = "") -> Names:
        """See `Location`."""
        below = f"{self.prefix}/" if self.prefix else ""
        folder = prefix.rstrip("/")
        start = f"{below}{safe_name(folder)}/" if folder else below
        keys = [key[len(below) :] for key in self.list_keys(start)]
        return sorted(name for name in keys if is_safe_name(name))

    def open(self, name: str) -> BinaryIO:
        """See `Location`."""
        return cast(BinaryIO, RangeReader(self, name))

    def local_path(self, name: str) -> Path | None:
        """Return None: an object is no file."""
        safe_name(name)
        return None

    def list_temporary(self) -> dict[str, int]:
        """Return nothing: an object is there as a whole.

        Unfinished multipart uploads are left to the bucket's lifecycle rules.
        """
        return {}

    def delete(self, name: str) -> None:
        """See `Location`."""
        with self._explained(name):
            self._call("delete_object", Key=self._key(name))

    def free_bytes(self) -> int | None:
        """Return None: a bucket has no limit."""
        return None

    def publishing(self) -> None:
        """Return None: `If-None-Match` excludes writers on all hosts."""

    def scratch_directory(self) -> Path:
        """Return the machine's directory for temporary files."""
        return temporary_directory()

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{safe_name(name)}" if self.prefix else safe_name(name)

    def _call(self, method: str, **arguments: Any) -> Any:
        return _attempt(lambda fs: fs.call_s3(method, Bucket=self.bucket, **arguments))

    def list_keys(self, start: str) -> Iterator[str]:
        """Yield all keys of the bucket that begin with `start`, in the store's order.

        `start` is the beginning of a whole key, not of a name below the prefix. Unlike `list`, this keeps keys that are
        no safe names: an input may be called anything.
        """
        page: dict[str, Any] = {"NextContinuationToken": None}
        while "NextContinuationToken" in page:
            token = page["NextContinuationToken"]
            following = {"ContinuationToken": token} if token else {}
            with self._explained(start):
                page = self._call("list_objects_v2", Prefix=start, **following)
            yield from (entry["Key"] for entry in page.get("Contents", ()))

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turn every failure of the store into one sentence.

        Only the error's cause keeps the client's words, for a traceback.
        """
        try:
            with log_context(object=f"{self.uri}/{name}"):
                yield
        except _FAILURES as error:
            if error_code(error) == "NoSuchBucket":
                raise self._no_bucket() from error
            if isinstance(error, FileNotFoundError):
                self._require_bucket()
                raise MissingError(f"nothing lies at {self.uri}/{name}") from error
            ailment = self._ailment(error)
            kind = UnreachableError if ailment else StorageError
            raise kind(f"cannot use {self.uri}/{name}: {_reason(ailment or error)}") from error

    def _require_bucket(self) -> None:
        """Raise UnreachableError when the bucket is missing.

        A HEAD answers for a missing bucket as for a missing object.
        """
        try:
            self._call("head_bucket")
        except FileNotFoundError as error:
            raise self._no_bucket() from error
        except _FAILURES as error:  # some users may read objects, but not query their bucket
            if is_unreachable(error):
                raise UnreachableError(f"cannot use {self.uri}: {_reason(error)}") from error

    def _ailment(self, error: BaseException) -> BaseException | None:
        """Return the error that affects the whole bucket.

        None when only this request failed. A fault or a cut connection may concern one object alone, and the answer to
        a HEAD has no code. In these cases the bucket is queried.
        """
        code = error_code(error)
        of_one = code not in _OVERLOADED and not isinstance(error, _NEVER_THERE)
        if not of_one or not (is_transient(error) or code in _UNTOLD):
            return error if is_unreachable(error) else None
        try:
            self._call("list_objects_v2", MaxKeys=1)
        except _FAILURES as why:
            return why if is_unreachable(why) else None
        return None

    def _no_bucket(self) -> UnreachableError:
        return UnreachableError(f"there is no bucket {self.bucket!r}, named by {self.uri}; create it first")


class RangeReader(io.RawIOBase):
    """A seekable reader of one object.

    Each read is one ranged request, so a Parquet footer costs only itself.
    """

    def __init__(self, location: S3Location, name: str) -> None:
        super().__init__()
        self._location, self._name = location, name
        self._size, self._position = location.size(name), 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it, in bytes."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}; allowed is 0 and more")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, less only at the end of the object; return the bytes read."""
        wanted = min(len(buffer), max(self._size - self._position, 0))
        data = self._location.read_range(self._name, self._position, wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def is_transient(error: BaseException) -> bool:
    """Tell whether a retry may help.

    It may after a cut or silent connection, and with an overloaded or failing store.
    """
    code = error_code(error)
    if code is not None:
        return code in _TRANSIENT
    return isinstance(error, _CUT) and not isinstance(error, botocore_errors.SSLError)


def is_unreachable(error: BaseException) -> bool:
    """Tell whether an error means that nothing in the bucket can be read now.

    The error must answer a request that is about no object in particular. It means so when it is transient and all
    retries are spent, or when access is denied to everything.
    """
    if error_code(error) in _LOCKED_OUT:
        return True
    return is_transient(error) or isinstance(error, (*_NO_CREDENTIALS, botocore_errors.SSLError))


def error_code(error: BaseException | None) -> str | None:
    """Return the store's error code, such as NoSuchKey; None when it never answered."""
    for candidate in (error, getattr(error, "__cause__", None)):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", "unknown"))
    return None


def _reason(error: BaseException) -> str:
    code = error_code(error)
    if isinstance(error, PermissionError):
        return f"access was denied ({code})"
    return f"the store answered {code}" if code else f"the request failed with {type(error).__name__}"


def _log_retry(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    pause = round(state.next_action.sleep, 3) if state.next_action else None
    why = _reason(error) if error else ""
    log_event("storage_retry", why, logging.WARNING, tries=state.attempt_number, seconds=pause)


_retrying = tenacity.Retrying(
    retry=tenacity.retry_if_exception(is_transient),
    wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
    stop=tenacity.stop_after_attempt(5),
    before_sleep=_log_retry,
    reraise=True,
)


def _attempt(operation: Callable[[S3FileSystem], T]) -> T:
    return _retrying(lambda: operation(_filesystem()))


def _filesystem() -> S3FileSystem:
    """Return the client of this process; fsspec keeps one per process and address."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "max_pool_connections": 32,
        "retries": {"mode": "standard", "total_max_attempts": 3},  # of each upload part; `_retrying` does the rest
    }
    if endpoint:  # such a store rarely has a host name per bucket
        config["s3"] = {"addressing_style": "path"}
    fs = S3FileSystem(endpoint_url=endpoint, config_kwargs=config, use_listings_cache=False)
    fs.retries = 1
    return fs
