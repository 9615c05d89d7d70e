"""Read one file at an http:// or https:// address.

An address is contacted only as the caller spelled it: redirects are not followed, so no server can send a request of
ours to another one, such as a machine's metadata service. No credentials are sent. A server that fails costs its own
files alone: others may be at other hosts.
"""

from __future__ import annotations

import http.client
import logging
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import quote, urlsplit, urlunsplit

import tenacity

from kt_batch import __version__
from kt_batch.errors import MissingError, StorageError, UsageError
from kt_batch.events import log_event

SECONDS = 60  # that a server may be silent
TRIES = 4
CHUNK = 8 << 20  # bytes read at a time: no buffer is as large as a server says
_KEPT = "%/:=&?~#+!$,;'@()*[]"  # what an address may hold as it is
_TRANSIENT = (HTTPStatus.TOO_MANY_REQUESTS, 500, 502, 503, 504)
_GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
_CUT = (OSError, http.client.HTTPException)


class _CutError(Exception):
    """A connection failed, or a server that is overloaded asked for a later try."""


def address_size(uri: str) -> int | None:
    """Return the size that the server states; None where it states none."""
    with _answer(uri, "HEAD") as answer:
        return _length(answer)


def address_chunks(uri: str, most: int, check: Callable[[int], None]) -> Iterator[bytes]:
    """Yield the bytes at an address, at most `most` at a time.

    check: called with the size that the server states, and then with the bytes that have come; raises an error for too
        many.

    Raises:
        MissingError: the server has no such file.
        StorageError: the server cannot be reached, refuses to send the file, ends the answer early, or sends the caller
            elsewhere.
        UsageError: the address has no host.
    """
    received = 0
    with _answer(uri, "GET") as answer:
        length = _length(answer)
        check(length or 0)
        while chunk := _read(uri, answer, min(most, CHUNK)):
            received += len(chunk)
            check(received)
            yield chunk
    if length is not None and received < length:
        raise StorageError(f"cannot use {uri}: the answer ended after {received} of {length} bytes")


def _read(uri: str, answer: Any, most: int) -> bytes:
    try:
        return cast(bytes, answer.read(most))
    except _CUT as error:
        raise StorageError(f"cannot use {uri}: the answer ended early ({_kind(error)})") from error


@contextmanager
def _answer(uri: str, method: str) -> Iterator[Any]:
    """Request an address and give the answer of a server that has the file."""
    request = urllib.request.Request(_encoded(uri), method=method, headers={"User-Agent": f"kt-batch/{__version__}"})  # noqa: S310 - `_encoded` checks the scheme
    try:
        answer = _retrying(_open, request)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(uri, error) from error
    except _CutError as error:
        raise StorageError(f"cannot use {uri}: {error}") from error.__cause__
    with answer:
        yield answer


def _open(request: urllib.request.Request) -> Any:
    try:
        return _opener().open(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        if error.code in _TRANSIENT:
            error.close()
            raise _CutError(f"the server answered {error.code}") from error
        raise
    except _CUT as error:
        raise _CutError(f"the request failed with {_kind(error)}") from error


def _log_retry(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log_event("storage_retry", str(error or ""), logging.WARNING, tries=state.attempt_number)


_retrying = tenacity.Retrying(
    retry=tenacity.retry_if_exception_type(_CutError),
    wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
    stop=tenacity.stop_after_attempt(TRIES),
    before_sleep=_log_retry,
    reraise=True,
)


def _opener() -> urllib.request.OpenerDirector:
    """Return a client with the user's proxies, and without handlers for redirects, passwords, files and FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _encoded(uri: str) -> str:
    """Return an address as it is sent: in ASCII, without a fragment."""
    try:
        parts = urlsplit(uri)
        host = parts.netloc.encode("ascii" if parts.netloc.isascii() else "idna").decode()
        found = parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:  # also UnicodeError
        found = False
    if not found:
        raise UsageError(f"{uri!r} names no host; allowed is https://host/path")
    return urlunsplit((parts.scheme, host, quote(parts.path or "/", _KEPT), quote(parts.query, _KEPT), ""))


def _refused(uri: str, error: urllib.error.HTTPError) -> StorageError:
    if error.code in _GONE:
        return MissingError(f"nothing lies at {uri}")
    if 300 <= error.code < 400:
        try:
            target = urlsplit(error.headers.get("Location") or "").netloc or "another address of the same server"
        except ValueError:
            target = "no valid address"
        return StorageError(
            f"cannot use {uri}: the server sends us on to {target}, and we ask nobody that was not named; name the "
            "file's own address"
        )
    return StorageError(f"cannot use {uri}: the server answered {error.code}")


def _length(answer: Any) -> int | None:
    text = answer.headers.get("Content-Length") or ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def _kind(error: BaseException) -> str:
    """Return the kind of an error; its text may repeat what a server sent."""
    reason = getattr(error, "reason", None)
    return type(reason if isinstance(reason, BaseException) else error).__name__
