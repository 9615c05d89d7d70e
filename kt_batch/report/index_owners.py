"""The use of the owners of a shared index, from the log of a run (`--log-file`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kt_batch.errors import DamagedError, MissingError, UsageError
from kt_batch.events import LINE_START
from kt_batch.store.documents import parse_document

MOST_BYTES = 1 << 20  # of a line of a log


@dataclass(frozen=True)
class OwnerShare:
    """The use of one owner of an index and its replicas, over all calls that divided the index in the same way.

    owner: Its number. index_bytes: Of its shards. calls: That asked it. queries: Sent to it. visits: Leaves of its
    shards that they looked into. bytes: Of the messages to and from it. seconds: For which workers waited for it;
    owners work at the same time, so the seconds of several overlap. lost: Requests that were lost with a process, and
    sent again; 0 where an earlier version wrote the log.
    """

    owner: int
    index_bytes: int
    calls: int
    queries: int
    visits: int
    bytes: int
    seconds: float
    lost: int = 0


def read_owners(log: Path, run: str) -> tuple[OwnerShare, ...]:
    """Return the owners that the log names for a run, by number; lines of others are passed over.

    Raises:
        MissingError: There is no such file, or it cannot be read.
        UsageError: It holds nothing of owners for this run.
        DamagedError: An event of an owner lacks a figure.
    """
    found: dict[tuple[int, int], OwnerShare] = {}
    for event in _events(log):
        if event.get("event") == "index_owner" and event.get("run") == run:
            one = _share(event, log)
            key = one.owner, one.index_bytes
            found[key] = _joined(found[key], one) if key in found else one
    if not found:
        raise UsageError(f"The log '{log}' names no owners of an index for the run '{run}'; leave --log out.")
    return tuple(found[key] for key in sorted(found))


def _events(log: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the events of a log; other lines, and the last one of a process that was killed, are passed over."""
    try:
        with log.open("rb") as file:
            while line := file.readline(MOST_BYTES):
                if line.startswith(LINE_START):
                    try:
                        yield parse_document(line, str(log))
                    except DamagedError:
                        continue
    except OSError as error:
        raise MissingError(f"The log '{log}' cannot be read: {error.strerror}.") from error


def _share(event: Mapping[str, Any], log: Path) -> OwnerShare:
    names = ("owner", "index_bytes", "queries", "visits", "bytes", "seconds")
    values = {**{name: event.get(name) for name in names}, "lost": event.get("lost", 0)}
    if not all(isinstance(value, (int, float)) and value >= 0 for value in values.values()):
        raise DamagedError(f"The log '{log}' has an event of an owner without one of {', '.join(names)}.")
    return OwnerShare(calls=1, **values)


def _joined(one: OwnerShare, other: OwnerShare) -> OwnerShare:
    return OwnerShare(
        owner=one.owner,
        index_bytes=one.index_bytes,
        calls=one.calls + other.calls,
        queries=one.queries + other.queries,
        visits=one.visits + other.visits,
        bytes=one.bytes + other.bytes,
        seconds=round(one.seconds + other.seconds, 3),
        lost=one.lost + other.lost,
    )
