"""Inputs that are objects of a store: keys of a bucket, and what fsspec reads where a package for it is installed.

A key may be anything, also what is no safe name: it is read exactly as it is listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kt_batch.errors import StorageError, UsageError
from kt_batch.redaction import redacted
from kt_batch.store.patterns import MAGIC
from kt_batch.store.places import S3, scheme_of
from kt_batch.store.web import address_chunks, address_size

# Stores that only hold inputs: not all of them can put an object only if it is absent.
READ_ONLY_SCHEMES = ("gs", "az", "http", "https")
WEB = ("http", "https")
_PACKAGES = {"gs": "gcsfs", "az": "adlfs"}


def is_object(uri: str) -> bool:
    """Tell whether an input lies in a store and not in a file."""
    return scheme_of(uri) in ("s3", *READ_ONLY_SCHEMES)


def object_size(uri: str) -> int | None:
    """Return the size of an object in bytes; None where the store does not say.

    Raises:
        StorageError: there is no such object, or it cannot be read.
        UnreachableError: the store fails.
    """
    if uri.startswith(S3):
        bucket, key = bucket_and_key(uri)
        return int(_bucket(bucket).size_of_key(key))
    if scheme_of(uri) in WEB:
        return address_size(uri)
    with _explained(uri):
        size = _filesystem(uri).info(uri).get("size")
    return size if isinstance(size, int) and size >= 0 else None


def object_chunks(uri: str, size: int | None, most: int) -> Iterator[bytes]:
    """Yield the bytes of an object, at most `most` at a time.

    Args:
        uri: The object.
        size: As `object_size` returned it.
        most: Bytes of a chunk.

    Raises as `object_size` does.
    """
    if scheme_of(uri) in WEB:
        yield from address_chunks(uri, most, lambda _: None)
        return
    if not uri.startswith(S3):
        yield from _chunks_of_remote(uri, most)
        return
    bucket, key = bucket_and_key(uri)
    location = _bucket(bucket)
    if size is None or size <= most:
        yield location.read_key(key)
        return
    for start in range(0, size, most):
        yield location.read_key(key, start, most)


def object_range(uri: str, start: int, length: int) -> bytes:
    """Return bytes of an object; fewer where it ends, and none beyond it.

    Raises as `object_size` does, and:
        UsageError: the object lies on a web server, which may not send ranges.
    """
    if uri.startswith(S3):
        bucket, key = bucket_and_key(uri)
        return bytes(_bucket(bucket).read_key(key, start, length))
    if scheme_of(uri) in WEB:
        raise UsageError(f"{uri!r} is not read in parts; copy the archive to a file or to object storage")
    with _explained(uri):
        return bytes(_filesystem(uri).cat_file(uri, start=start, end=start + length))


def keys(bucket: str, start: str) -> Iterator[str]:
    """Yield all keys of a bucket that begin with `start`, in the store's order."""
    return _bucket(bucket).list_keys(start)  # type: ignore[no-any-return]


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Split s3://bucket/key. Raises UsageError without a bucket."""
    bucket, _, key = uri.removeprefix(S3).partition("/")
    if not bucket or MAGIC.search(bucket):
        raise UsageError(f"{uri!r} names no bucket; allowed is s3://bucket/prefix")
    return bucket, key


def list_remote(argument: str) -> tuple[str, list[str]]:
    """Return what an argument of another store stands for, as (root, paths below it); no paths for one object.

    Raises:
        UsageError: no installed package reads the store.
        StorageError: it cannot be listed.
    """
    root = argument.rstrip("/")
    if scheme_of(argument) in WEB:
        return argument, []  # web servers list nothing
    with _explained(argument):
        files = _filesystem(argument)
        if files.isfile(root):
            return root, []
        return root, [files.unstrip_protocol(path).removeprefix(f"{root}/") for path in files.find(root)]


def _bucket(name: str) -> Any:
    from kt_batch.store.s3 import S3Location  # importing it takes half a second

    return S3Location(name, "")


def _filesystem(uri: str) -> Any:
    import fsspec

    scheme = str(scheme_of(uri))
    try:
        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{redacted(uri)!r} cannot be read: {scheme}:// needs the package {_PACKAGES.get(scheme, scheme)}, which "
            "is not installed; without it allowed are a path, file:// and s3://"
        ) from error


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn failures of a store into one sentence; its client may raise anything."""
    try:
        yield
    except (StorageError, UsageError):
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError):
            raise StorageError(f"nothing lies at {uri}") from error
        raise StorageError(f"{uri} cannot be read: {type(error).__name__}") from error


def _chunks_of_remote(uri: str, most: int) -> Iterator[bytes]:
    with _explained(uri), _filesystem(uri).open(uri, "rb") as file:
        while chunk := file.read(min(most, 8 << 20)):
            yield chunk
