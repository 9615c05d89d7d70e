"""Present a location to DuckDB as a file system, without copying anything."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, BinaryIO

from fsspec import AbstractFileSystem

from kt_batch.store.locations import Location

NEVER_CHANGES = datetime(2000, 1, 1, tzinfo=UTC)  # the content of a committed part never changes


class LocationFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The files of `location` under `<scheme>://<name>`, read-only."""

    cachable = False  # fsspec would return one instance for two locations

    def __init__(self, scheme: str, location: Location) -> None:
        super().__init__()
        self.protocol = scheme
        self._location = location

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return size and kind of one file."""
        return {"name": path, "size": self._location.size(_name(path)), "type": "file"}

    def glob(self, path: str, **_: Any) -> list[str]:
        """Return exactly the requested file: receipts list the parts, never a pattern."""
        return [path]

    def modified(self, path: str) -> datetime:
        """Return the same time for all files."""
        del path
        return NEVER_CHANGES

    def _open(self, path: str, mode: str = "rb", **_: Any) -> BinaryIO:
        del mode
        return self._location.open(_name(path))


def _name(path: str) -> str:
    """Return the name within the location.

    fsspec passes paths with their scheme to some methods and without it to others.
    """
    return path.rpartition("://")[2]
