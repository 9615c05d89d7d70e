"""Write files that follow from what is committed.

These are summaries, and the tree and the members of an index.
"""

from __future__ import annotations

import json
from typing import Any

from kt_batch.errors import MissingError, StorageError
from kt_batch.store.locations import Location

ROUNDS = 8  # against another driver that writes the same name


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
