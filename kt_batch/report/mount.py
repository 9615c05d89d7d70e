"""A location as a file system that DuckDB can read from, with nothing of the location copied."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, BinaryIO

from fsspec import AbstractFileSystem

from kt_batch.store.locations import Location

NEVER_CHANGES = datetime(2000, 1, 1, tzinfo=UTC)  # a committed part has one content for ever


class LocationFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files of `location` under `<scheme>://<name>`, for reading only."""

    cachable = False  # two locations are two file systems, whatever fsspec's cache of instances thinks

    def __init__(self, scheme: str, location: Location) -> None:
        super().__init__()
        self.protocol = scheme
        self._location = location

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size and kind of one file."""
        return {"name": path, "size": self._location.size(_name(path)), "type": "file"}

    def glob(self, path: str, **_: Any) -> list[str]:
        """Exactly the file asked for: parts are listed by their receipts, never by pattern."""
        return [path]

    def modified(self, path: str) -> datetime:
        """The same for all."""
        del path
        return NEVER_CHANGES

    def _open(self, path: str, mode: str = "rb", **_: Any) -> BinaryIO:
        del mode
        return self._location.open(_name(path))


def _name(path: str) -> str:
    """Within the location; fsspec hands paths over with their scheme in some methods and without in others."""
    return path.rpartition("://")[2]
