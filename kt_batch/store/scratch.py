"""Local files on their way into a location."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from kt_batch.errors import StorageError
from kt_batch.store.locations import Location
from kt_batch.store.names import TEMP_PREFIX


@contextmanager
def scratch_file(location: Location, suffix: str) -> Iterator[Path]:
    """Yield a path for a file on its way into `location`.

    The file is removed afterwards.

    Raises:
        StorageError: the file cannot be written.
    """
    with scratch_path(location, suffix) as path, writing_scratch(path):
        yield path


@contextmanager
def writing_scratch(path: Path) -> Iterator[None]:
    """Raise StorageError where a scratch file cannot be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StorageError(f"cannot write {path}: {_reason(error)}") from error


@contextmanager
def scratch_path(location: Location, suffix: str) -> Iterator[Path]:
    """Yield a path as `scratch_file` does, and leave all errors as they are.

    It is for a file that is written first and then used for long, since errors of other work are none of the file's.
    """
    path = location.scratch_directory() / f"{TEMP_PREFIX}{secrets.token_hex(12)}{suffix}"
    try:
        yield path
    finally:
        with suppress(OSError):  # a disk that has turned read-only keeps the file, and `gc` finds it
            path.unlink(missing_ok=True)


def temporary_directory() -> Path:
    """Return the machine's directory for temporary files.

    Raises:
        StorageError: there is none that can be written to.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise StorageError(
            "no directory for temporary files can be written to (tried TMPDIR, /tmp, /var/tmp and the current one); "
            "name one with TMPDIR=/a/directory"
        ) from error


def _reason(error: OSError | SafetensorError) -> str:
    """Return the system's words where there are some.

    Arrow's own text is for programmers.
    """
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
