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
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

import tenacity
from fsspec.asyn import sync
from s3fs import S3FileSystem

from kt_batch.errors import MissingError, StorageError, UnreachableError, UsageError
from kt_batch.events import log_context, log_event
from kt_batch.redaction import redacted
from kt_batch.store.names import MAX_COMPONENT_BYTES, Names, check_range, is_safe_name, safe_name
from kt_batch.store.places import ANONYMOUS, REQUESTER_PAYS
from kt_batch.store.s3_errors import (
    BEYOND,
    FAILURES,
    NEVER_THERE,
    OVERLOADED,
    REFUSED,
    UNTOLD,
    error_code,
    is_transient,
    is_unreachable,
    reason_of,
)
from kt_batch.store.scratch import temporary_directory

T = TypeVar("T")

MAX_KEY_BYTES = 1024  # of S3
PART_BYTES = 16 << 20  # of a multipart upload; at most two parts are in memory
CONNECT_SECONDS = 5
READ_SECONDS = 60

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_ON, _OFF = ("1", "yes", "true", "on", "requester"), ("", "0", "no", "false", "off")


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
        return self.read_key(self._key(name))

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """See `Location`."""
        check_range(name, start, length)
        return self.read_key(self._key(name), start, length) if length else b""

    def size(self, name: str) -> int:
        """See `Location`."""
        return self.size_of_key(self._key(name))

    def refusal(self, name: str) -> str | None:
        """See `Location`."""
        size = len(self._key(name).encode())
        return f"the key has {size} bytes, over {MAX_KEY_BYTES}" if size > MAX_KEY_BYTES else None

    def longest_component(self) -> int:
        """Return the limit of names: a bucket has only one of whole keys."""
        return MAX_COMPONENT_BYTES

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `Location`."""
        return self._put_if_absent(name, lambda: data)

    def put_file_if_absent(self, name: str, file: BinaryIO, time: int | None = None) -> bool:  # noqa: ARG002
        """See `Location`."""

        def body() -> BinaryIO:
            file.seek(0)  # also for another attempt
            return file

        return self._put_if_absent(name, body)

    def _put_if_absent(self, name: str, body: Callable[[], bytes | BinaryIO]) -> bool:
        put = {"Bucket": self.bucket, "Key": self._key(name), "IfNoneMatch": "*"}
        try:
            with self._explained(name):
                _attempt(lambda fs: fs.call_s3("put_object", Body=body(), **put))
        except StorageError as error:
            if error_code(error.__cause__) in REFUSED:
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

    def size_of_key(self, key: str) -> int:
        """Return the size in bytes of an object of the bucket, by its whole key, which may be no safe name."""
        with self._explained_key(key):
            return int(self._call("head_object", Key=key)["ContentLength"])

    def read_key(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return bytes of an object of the bucket, by its whole key, which may be no safe name.

        There are fewer where the object ends, and none beyond it.
        """
        part = {} if length is None else {"Range": f"bytes={start}-{start + length - 1}"}

        def read(fs: S3FileSystem) -> bytes:
            body = fs.call_s3("get_object", Bucket=self.bucket, Key=key, **part)["Body"]
            try:
                return cast(bytes, sync(fs.loop, body.read))
            finally:
                body.close()

        try:
            with self._explained_key(key):
                return _attempt(read)
        except StorageError as error:
            if part and error_code(error.__cause__) in BEYOND:
                return b""
            raise

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

    def list_folders(self, start: str) -> Iterator[str]:
        """Yield what lies directly below `start`, the beginning of a whole key that ends in a slash or is empty: names
        that further keys follow, without a slash, in the store's order. Keys below them are not listed."""
        page: dict[str, Any] = {"NextContinuationToken": None}
        while "NextContinuationToken" in page:
            token = page["NextContinuationToken"]
            following = {"ContinuationToken": token} if token else {}
            with self._explained(start):
                page = self._call("list_objects_v2", Prefix=start, Delimiter="/", **following)
            yield from (entry["Prefix"][len(start) : -1] for entry in page.get("CommonPrefixes", ()))

    def _explained(self, name: str) -> AbstractContextManager[None]:
        return self._explained_key(f"{self.prefix}/{name}" if self.prefix else name)

    @contextmanager
    def _explained_key(self, key: str) -> Iterator[None]:
        """Turn every failure of the store into one sentence.

        Only the error's cause keeps the client's words, for a traceback.
        """
        uri = f"s3://{self.bucket}/{key}"
        try:
            with log_context(object=uri):
                yield
        except FAILURES as error:
            if error_code(error) == "NoSuchBucket":
                raise self._no_bucket() from error
            if isinstance(error, FileNotFoundError):
                self._require_bucket()
                raise MissingError(f"nothing lies at {uri}") from error
            ailment = self._ailment(error)
            kind = UnreachableError if ailment else StorageError
            raise kind(f"cannot use {uri}: {reason_of(ailment or error)}") from error

    def _require_bucket(self) -> None:
        """Raise UnreachableError when the bucket is missing.

        A HEAD answers for a missing bucket as for a missing object.
        """
        try:
            self._call("head_bucket")
        except FileNotFoundError as error:
            raise self._no_bucket() from error
        except FAILURES as error:  # some users may read objects, but not query their bucket
            if is_unreachable(error):
                raise UnreachableError(f"cannot use {self.uri}: {reason_of(error)}") from error

    def _ailment(self, error: BaseException) -> BaseException | None:
        """Return the error that affects the whole bucket.

        None when only this request failed. A fault or a cut connection may concern one object alone, and the answer to
        a HEAD has no code. In these cases the bucket is queried.
        """
        code = error_code(error)
        of_one = code not in OVERLOADED and not isinstance(error, NEVER_THERE)
        if not of_one or not (is_transient(error) or code in UNTOLD):
            return error if is_unreachable(error) else None
        try:
            self._call("list_objects_v2", MaxKeys=1)
        except FAILURES as why:
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


def _log_retry(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    pause = round(state.next_action.sleep, 3) if state.next_action else None
    why = reason_of(error) if error else ""
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
    """Return the client of this process; fsspec keeps one per process, address and settings.

    Raises:
        UsageError: the address in the environment is no URL, or a switch is neither on nor off.
    """
    endpoint = _endpoint()
    config: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "max_pool_connections": 32,
        "retries": {"mode": "standard", "total_max_attempts": 3},  # of each upload part; `_retrying` does the rest
    }
    if endpoint:  # such a store rarely has a host name per bucket
        config["s3"] = {"addressing_style": "path"}
    fs = S3FileSystem(
        endpoint_url=endpoint,
        anon=_is_on(ANONYMOUS),
        requester_pays=_is_on(REQUESTER_PAYS),
        config_kwargs=config,
        use_listings_cache=False,
    )
    fs.retries = 1
    return fs


def _endpoint() -> str | None:
    name = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if name is None:
        return None
    endpoint = os.environ[name]
    try:
        parts = urlsplit(endpoint)
        whole = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:  # the port is no number
        whole = False
    if not whole:
        raise UsageError(
            f"the address {redacted(endpoint)!r} of the object store, in {name}, is no URL; allowed is "
            "http://host:port or https://host"
        )
    return endpoint


def _is_on(name: str) -> bool:
    value = os.environ.get(name, "").lower()
    if value not in (*_ON, *_OFF):
        raise UsageError(f"{name} is {value!r}; allowed are {', '.join(_ON)} and {', '.join(filter(None, _OFF))}")
    return value in _ON
