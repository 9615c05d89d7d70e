"""Find and remove the files of a library or a run that no commit names.

A worker writes the parts and images of a unit first and its receipt last; the shards of an index are written before its
`index.json`. Until then nothing on disk distinguishes these files from those of a killed attempt. So nothing is removed
while work is unfinished, unless the caller states that no command runs there.

Only files with names that kt_batch writes are removed. All others are foreign, and only counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from kt_batch.errors import DamagedError, MissingError, StorageError, UsageError
from kt_batch.maintenance.gc_indexes import read_indexes
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.store import layout
from kt_batch.store.checkpoints import parse_checkpoint_name
from kt_batch.store.library import Library
from kt_batch.store.locations import Location
from kt_batch.store.names import TEMP_PREFIX
from kt_batch.store.opening import Opened, kind_of, open_place
from kt_batch.store.paired import PairedLibrary, fit_digests, read_fit_summaries
from kt_batch.store.plans import Unit
from kt_batch.store.receipts import Receipt
from kt_batch.store.run import Run, RunHeader
from kt_batch.store.series import read_described_receipts
from kt_batch.store.statistics import named_files, read_statistics_summaries, statistics_digests

READERS = 16  # sizes that are requested at a time


@dataclass(frozen=True)
class Survey:
    """The names in a library or a run that nothing committed refers to.

    Attributes:
        orphans: Names that kt_batch writes, in an order in which an interrupted removal is harmless.
        foreign: All other names.
        pending: Units without a receipt; their files are among the orphans.
        unfinished: Indexes whose build has begun and is not finished; their files are among the orphans.
        old_indexes: Digests of indexes of earlier snapshots whose files are among the orphans.
    """

    orphans: tuple[str, ...]
    foreign: tuple[str, ...]
    pending: int
    unfinished: int
    old_indexes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Orphan:
    """One orphan, and the bytes that its removal frees."""

    name: str
    bytes: int


@dataclass(frozen=True)
class GcSummary:
    """The result of `gc`.

    Attributes:
        place: The URI.
        kind: `library` or `run`.
        deleted: Whether the orphans were removed.
        orphans: Files that nothing committed names.
        bytes: Their size.
        foreign: The number of files that kt_batch did not write.
        pending: As in `Survey`.
        unfinished: As in `Survey`.
        old_indexes: As in `Survey`.
    """

    place: str
    kind: str
    deleted: bool
    orphans: tuple[Orphan, ...]
    bytes: int
    foreign: int
    pending: int
    unfinished: int
    old_indexes: tuple[str, ...] = ()


def gc(
    place: str, progress: Progress, *, delete: bool = False, force: bool = False, old_indexes: bool = False
) -> GcSummary:
    """Find the files that no commit names; remove them on request.

    Start no command there during a removal: it may adopt a file that is about to be removed.

    Args:
        place: A library or a run.
        progress: Called after every removal.
        delete: Remove the orphans.
        force: Remove them even if units are pending or indexes unfinished, since no command runs there.
        old_indexes: Also find the indexes of a library's earlier snapshots that `old_digests` returns.

    Raises:
        UsageError: If work is unfinished, for `delete` without `force`; for `old_indexes` of something else.
        MissingError: If there is neither a library nor a run.
        DamagedError: If a plan or a receipt cannot be read.
        StorageError: If a file cannot be removed.
    """
    opened = open_place(place)
    location = opened.location
    if old_indexes and not isinstance(opened, Library):
        raise UsageError(f"'{location.uri}' has no indexes; --old-indexes is for a knowledge library.")
    surveyed = survey(opened, old_indexes=old_indexes)
    if delete and not force and (surveyed.pending or surveyed.unfinished):
        raise UsageError(_refusal(location.uri, surveyed))
    orphans = _sizes(location, surveyed.orphans)
    if delete:
        _remove(location, orphans, progress)
    return GcSummary(
        place=location.uri,
        kind=kind_of(opened),
        deleted=delete,
        orphans=tuple(orphans),
        bytes=sum(orphan.bytes for orphan in orphans),
        foreign=len(surveyed.foreign),
        pending=surveyed.pending,
        unfinished=surveyed.unfinished,
        old_indexes=surveyed.old_indexes,
    )


def survey(opened: Opened, *, old_indexes: bool = False) -> Survey:
    """Compare the names on disk with those that plan, receipts and indexes refer to; contents are not read.

    With `old_indexes`, the indexes of earlier snapshots that `old_digests` returns refer to nothing.

    Raises:
        DamagedError: If a plan or a receipt cannot be read, since it may refer to any file.
    """
    # Names are listed before receipts are read: files that appear later are ignored.
    names = [*opened.location.list_temporary(), *opened.location.list()]
    units, receipts = opened.committed.ledger.units(), opened.committed.ledger.receipts()
    pending = sum(unit.id not in receipts for unit in units)
    planned = {unit.id for unit in units}
    committed = {table.name for receipt in receipts.values() for table in receipt.tables}
    indexes = read_indexes(opened, names, forget_old=old_indexes) if isinstance(opened, Library) else None
    series: set[str] = set()
    if isinstance(opened, Run):
        possible, made = _outputs(units, receipts, opened.header)
        if opened.header.series != "none":
            series, left_behind = _series_files(opened.location, names, planned, len(opened.committed.ledger.plans()))
            possible |= left_behind
        possible |= {name for name in names if (found := parse_checkpoint_name(name)) and found.unit in planned}
        shards = {layout.OUTPUT_SHARDS} if opened.header.output != "files" else set()
        kept, kinds = committed | made | {layout.RUN_SUMMARY}, layout.RUN_KINDS | shards
    else:
        possible, named = set(), indexes.named if indexes else set()
        kept, kinds = committed | named | {layout.LIBRARY_SUMMARY}, layout.LIBRARY_KINDS
    fits, left = _fit_files(opened.location, names) if isinstance(opened, PairedLibrary) else (set(), set())
    if isinstance(opened, Library):
        fits, left = _statistics_files(opened.location, names)
    possible = possible | left
    orphans: list[str] = []
    foreign: list[str] = []
    for name in names:
        if name in kept or layout.is_plan(name) or layout.is_options(name):
            continue
        if name in fits or name in series:
            continue
        if layout.parse_receipt_path(name) in planned:
            continue
        ours = _is_temporary(name) or name in possible or _is_part(name, kinds, planned)
        (orphans if ours or (indexes and indexes.left(name)) else foreign).append(name)
    old = indexes.old if indexes else set()
    ordered = sorted(orphans, key=partial(_removal_order, old))
    unfinished = len(indexes.unfinished) if indexes else 0
    return Survey(tuple(ordered), tuple(foreign), pending, unfinished, tuple(sorted(old)))


def _fit_files(location: Location, names: Collection[str]) -> tuple[set[str], set[str]]:
    """Return the files of fits that are kept, and the numbers that no summary names.

    While a summary is not readable, it may name any numbers.
    """
    files = {name for name in names if layout.is_fit_file(name)}
    summaries = read_fit_summaries(location)
    named = {layout.blob_path(layout.FITS, fit.arrays_sha256) for fit in summaries}
    unnamed = {name for name in files - named if layout.parse_fit_path(name) is None}
    left = unnamed if len(summaries) == len(fit_digests(location)) else set()
    return files - left, left


def _series_files(
    location: Location, names: Collection[str], planned: Collection[str], plans: int
) -> tuple[set[str], set[str]]:
    """Return the files of series that are kept, and tables of described photographs that no receipt names."""
    kept = {name for name in names if (number := layout.parse_series_path(name)) is not None and number < plans}
    described = {name for name in names if layout.parse_described_file(name) in planned}
    receipts = read_described_receipts(location)
    kept |= {layout.described_path(table.name) for receipt in receipts.values() for table in receipt.tables}
    kept |= {name for name in described if not name.endswith(".parquet")}
    return kept, described - kept


def _statistics_files(location: Location, names: Collection[str]) -> tuple[set[str], set[str]]:
    """Return the files of statistics that are kept, and those that neither a summary nor a receipt names.

    While a summary is not readable, it may name any numbers; while a receipt is not, any file may be kept.
    """
    files = {name for name in names if layout.is_statistics_file(name)}
    try:
        named = set(named_files(location)) if files else set()
    except DamagedError:
        return files, set()
    parts = {name for name in files if layout.is_statistics_part(name)}
    blobs = {name for name in files if layout.is_statistics_blob(name)}
    readable = not files or len(read_statistics_summaries(location)) == len(statistics_digests(location))
    left = (parts | (blobs if readable else set())) - named
    return files - left, left


def _outputs(units: Sequence[Unit], receipts: Mapping[str, Receipt], run: RunHeader) -> tuple[set[str], set[str]]:
    """Return the names of the files of all planned outputs, and of those that a receipt names; shards have no other."""
    if run.output != "files":
        return set(), {receipt.shard.name(unit) for unit, receipt in receipts.items() if receipt.shard}
    possible, made = set(), set()
    for unit in units:
        names = [item.output_path(run.format) for item in unit.items]
        possible |= set(names)
        outputs = receipts[unit.id].outputs if unit.id in receipts else ()
        made |= {name for name, output in zip(names, outputs, strict=False) if output}
    return possible, made


def _is_temporary(name: str) -> bool:
    return name.rpartition("/")[2].startswith(TEMP_PREFIX)


def _is_part(name: str, kinds: Collection[str], planned: Collection[str]) -> bool:
    """Tell whether a name is that of a part of a planned unit, or of its shard."""
    if layout.OUTPUT_SHARDS in kinds and layout.parse_output_shard_path(name) in planned:
        return True
    part = layout.parse_part_path(name)
    return part is not None and part.table in kinds and part.unit in planned


def _removal_order(old: Collection[str], name: str) -> tuple[int, str]:
    """Sort key: what must not outlive other files first, which are receipts of a build and `index.json` of old indexes.

    A damaged `index.json` is the last.
    """
    summary = layout.parse_index_summary_path(name)
    if layout.is_build_receipt(name) or summary in old:
        return 0, name
    return (2 if summary else 1), name


def _refusal(uri: str, surveyed: Survey) -> str:
    counts = ((surveyed.pending, "pending unit"), (surveyed.unfinished, "unfinished index"))
    plural = {"pending unit": "pending units", "unfinished index": "unfinished indexes"}
    what = " and ".join(f"{count} {name if count == 1 else plural[name]}" for count, name in counts if count)
    return (
        f"'{uri}' has {what}: files of work in progress would be removed; "
        "finish the work first, or, if nobody works there, add --force."
    )


def _sizes(location: Location, names: Sequence[str]) -> list[Orphan]:
    """Return the orphans that still exist, with their sizes, in the same order."""
    temporary = location.list_temporary()

    def look(name: str) -> Orphan | None:
        if _is_temporary(name):
            return Orphan(name, temporary[name]) if name in temporary else None
        try:
            return Orphan(name, location.size(name))
        except MissingError:
            return None

    with ThreadPoolExecutor(READERS) as pool:
        return [orphan for orphan in pool.map(look, names) if orphan]


def _remove(location: Location, orphans: Sequence[Orphan], progress: Progress) -> None:
    for number, orphan in enumerate(orphans):
        progress(Step("gc", number, len(orphans)))
        try:
            location.delete(orphan.name)
        except StorageError as error:
            raise StorageError(
                f"'{orphan.name}' at '{location.uri}' cannot be removed, after {number} of {len(orphans)} were: {error}"
            ) from error
    progress(Step("gc", len(orphans), len(orphans)))
