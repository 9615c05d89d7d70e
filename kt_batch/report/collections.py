"""The libraries at a place or below it, as one row each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kt_batch.errors import KtBatchError
from kt_batch.redaction import redacted
from kt_batch.store import layout
from kt_batch.store.collections import places_below
from kt_batch.store.indexes import preference, read_index_summaries
from kt_batch.store.library import Library
from kt_batch.store.opening import Kind, kind_of, open_place
from kt_batch.store.paired import PairedLibrary, read_fit_summaries
from kt_batch.store.run import Run
from kt_batch.store.tables import read_table


@dataclass(frozen=True)
class LibraryRow:
    """One library.

    kind: `library` or `pairs`; None for one that cannot be read. images: Images, or pairs. patches: Those of the base
    key. keys: Each layer@scale; of pairs their size. licenses: Those of the images, sorted, without the empty one.
    bytes: Tables, indexes and fits. index: The digest of the index (or fit) that is preferred: of what the library
    holds now, else of an earlier state; None without one. index_state: `current` or `stale`. reason: Why a damaged one
    cannot be read.
    """

    place: str
    kind: Kind | None = None
    images: int = 0
    patches: int = 0
    keys: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    bytes: int = 0
    index: str | None = None
    index_state: str | None = None
    reason: str = ""


def list_libraries(place: str) -> list[LibraryRow]:
    """Return the libraries at a place or below it, by place; runs are left out.

    A library that cannot be read is a row with a reason. Links are not followed.

    Raises:
        StorageError: The place cannot be listed.
    """
    rows = (_row(each) for each in places_below(place))
    return [row for row in rows if row is not None]


def _row(place: str) -> LibraryRow | None:
    try:
        opened = open_place(place)
        if isinstance(opened, Run):
            return None
        row = _of_pairs(opened) if isinstance(opened, PairedLibrary) else _of_library(opened)
        return replace(row, place=place)
    except (KtBatchError, OSError) as error:
        return LibraryRow(place, reason=redacted(str(error)))


def _of_library(library: Library) -> LibraryRow:
    summaries = read_index_summaries(library.location)
    current = [summary for summary in summaries if summary.snapshot == library.committed.snapshot]
    searched = min(current or summaries, key=preference, default=None)
    shards = {shard.sha256: shard.bytes for summary in summaries for shard in summary.shards}
    trees = sum(each.tree_bytes + (each.leaves_bytes or 0) for each in summaries)
    tables = [table for receipt in library.committed.receipts.values() for table in receipt.tables]
    images = library.committed.parts(layout.IMAGES).values()
    columns = [read_table(library.location, part, ["license"])["license"] for part in images]
    return LibraryRow(
        place=library.location.uri,
        kind=kind_of(library),
        images=sum(part.rows for part in images),
        patches=library.patches,
        keys=tuple(map(str, library.config.keys)),
        licenses=tuple(sorted({text for column in columns for text in column.unique().to_pylist() if text})),
        bytes=sum(table.bytes for table in tables) + sum(shards.values()) + trees,
        index=searched.digest if searched else None,
        index_state=None if searched is None else "current" if current else "stale",
    )


def _of_pairs(library: PairedLibrary) -> LibraryRow:
    fits = read_fit_summaries(library.location)
    current = [fit for fit in fits if fit.snapshot == library.committed.snapshot]
    newest = next(iter([*current, *fits]), None)
    receipts = library.committed.receipts.values()
    tables = sum(table.bytes for receipt in receipts for table in receipt.tables)
    return LibraryRow(
        place=library.location.uri,
        kind=kind_of(library),
        images=library.pairs if receipts else 0,
        keys=(str(library.config.size),),
        licenses=(library.config.license,) if library.config.license else (),
        bytes=tables + sum(fit.arrays_bytes for fit in fits),
        index=newest.digest if newest else None,
        index_state=None if newest is None else "current" if current else "stale",
    )
