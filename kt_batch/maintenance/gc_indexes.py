"""The indexes of a library, as the search for files that no commit names sees them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from kt_batch.errors import DamagedError, MissingError
from kt_batch.store import layout
from kt_batch.store.documents import read_document
from kt_batch.store.generations import shard_names
from kt_batch.store.indexes import FORMATS, IndexSummary, read_index_summary
from kt_batch.store.library import Library
from kt_batch.store.locations import Location

MOST_SUMMARY = 256 << 20  # bytes of an `index.json`


@dataclass(frozen=True)
class Indexes:
    """The names that the finished indexes of a library refer to, and the digests of its other indexes.

    Attributes:
        named: Names that a finished index refers to.
        old: Digests of finished indexes that are to be removed; they refer to nothing.
        unfinished: Digests of indexes whose build has begun, without an `index.json`.
        partial: Digests of indexes that were being removed: without an `index.json`, and without files of a build.
        damaged: Digests of indexes whose `index.json` cannot be read.
        strange: Digests of indexes of another format version. Everything in their folders may be theirs, and so may any
            shard: no shard is an orphan then.
    """

    named: set[str] = field(default_factory=set)
    old: set[str] = field(default_factory=set)
    unfinished: set[str] = field(default_factory=set)
    partial: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    strange: set[str] = field(default_factory=set)

    def left(self, name: str) -> bool:
        """Tell whether a name outside `named` was left by a build or belongs to an unreadable or an old index."""
        if layout.is_shard(name):
            return not self.strange
        if build := layout.parse_build_file(name):
            return build not in self.strange
        return layout.parse_index_file(name) in self.unfinished | self.partial | self.damaged | self.old


def read_indexes(library: Library, names: Collection[str], *, forget_old: bool = False) -> Indexes:
    """Read what the indexes of a library refer to.

    Args:
        library: The opened library.
        names: The names of its files.
        forget_old: Whether the indexes that `old_digests` returns are to be removed.
    """
    indexes, finished, location = Indexes(), list[IndexSummary](), library.location
    building = {digest for name in names if (digest := layout.parse_build_file(name))}
    for digest in sorted({digest for name in names if (digest := layout.parse_in_index(name))}):
        try:
            summary = read_index_summary(location, digest)
        except DamagedError:
            strange = _is_strange(location, layout.index_summary_path(digest))
            (indexes.strange if strange else indexes.damaged).add(digest)
            continue
        if summary is None:
            (indexes.unfinished if digest in building else indexes.partial).add(digest)
            continue
        finished.append(summary)
    if forget_old:
        indexes.old.update(old_digests(finished, library.committed.snapshot))
    kept = [summary for summary in finished if summary.digest not in indexes.old]
    indexes.named.update(*(layout.index_files(summary.digest) for summary in kept), shard_names(kept))
    return indexes


def old_digests(summaries: Sequence[IndexSummary], snapshot: str) -> set[str]:
    """Return the digests of the indexes that nothing of the present snapshot needs.

    They are of another snapshot, no index of this one has grown from them, and of their patches, those of a layer and a
    scale, there is an index of this one.

    Args:
        summaries: All finished indexes of a library.
        snapshot: Its present one.
    """
    present = [summary for summary in summaries if summary.snapshot == snapshot]
    needed = {summary.generation.digest for summary in present if summary.generation}
    keys = {(summary.layer, summary.scale) for summary in present}
    return {
        summary.digest
        for summary in summaries
        if summary.snapshot != snapshot and summary.digest not in needed and (summary.layer, summary.scale) in keys
    }


def _is_strange(location: Location, name: str) -> bool:
    """Tell whether an unreadable `index.json` states another format."""
    try:
        content = read_document(location, name, MOST_SUMMARY)
    except (MissingError, DamagedError):
        return False
    return content.get("format") not in (None, *FORMATS)
