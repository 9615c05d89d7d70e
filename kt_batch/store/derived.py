"""Write files that follow from what is committed.

These are summaries, and the tree, the leaves and the members of an index.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from kt_batch.errors import MissingError, StorageError
from kt_batch.store.locations import Location

ROUNDS = 8  # against another driver that writes the same name
LARGEST_PUT = 5 << 30  # bytes that an object store takes in a single put
READ_BYTES = 64 << 20  # of one request for content that is there


def write_summary(location: Location, name: str, content: dict[str, Any]) -> None:
    """Replace a summary.

    Until the new one is there, readers use the plan and the receipts.
    """
    put_derived(location, name, (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def put_derived(location: Location, name: str, data: bytes) -> None:
    """Make `name` hold `data`, replacing other content.

    Raises:
        StorageError: another driver keeps replacing the content.
    """
    for _ in range(ROUNDS):
        try:
            if location.read_range(name, 0, len(data) + 1) == data:
                return
            location.delete(name)
        except MissingError:
            pass
        if location.put_if_absent(name, data):
            return
    raise StorageError(f"'{name}' at '{location.uri}' keeps being replaced by another driver.")


def put_derived_file(location: Location, name: str, path: Path) -> tuple[str, int]:
    """Make `name` hold the content of a local file, replacing other content; it is not read into memory.

    A file above LARGEST_PUT goes in parts, and no condition holds when they are joined. Of two drivers the last one
    wins, as it does below LARGEST_PUT.

    Returns:
        SHA-256 and number of bytes.

    Raises:
        StorageError: another driver keeps replacing the content.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        for _ in range(ROUNDS):
            try:
                if _holds(location, name, size, sha256):
                    return sha256, size
                location.delete(name)
            except MissingError:
                pass
            if size > LARGEST_PUT:
                location.put_content(name, path)
                return sha256, size
            if location.put_file_if_absent(name, file):
                return sha256, size
    raise StorageError(f"'{name}' at '{location.uri}' keeps being replaced by another driver.")


def _holds(location: Location, name: str, size: int, sha256: str) -> bool:
    """Tell whether `name` holds content of this size and hash, with few requests. Raises MissingError."""
    if location.size(name) != size:
        return False
    digest = hashlib.sha256()
    for start in range(0, size, READ_BYTES):
        digest.update(location.read_range(name, start, READ_BYTES))
    return digest.hexdigest() == sha256
