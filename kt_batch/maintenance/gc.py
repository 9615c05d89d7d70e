"""Find and remove the files of a library or a run that no commit names.

A worker writes the parts and images of a unit first and its receipt last; the shards of an index are written before its
`index.json`. Until then nothing on disk distinguishes these files from those of a killed attempt. So nothing is removed
while work is unfinished, unless the caller states that no command runs there.

Only files with names that kt_batch writes are removed. All others are foreign, and only counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from kt_batch.errors import DamagedError, MissingError, StorageError, UsageError
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.store import layout
from kt_batch.store.documents import read_document
from kt_batch.store.indexes import INDEX_FORMAT, read_index_summary
from kt_batch.store.library import Library
from kt_batch.store.locations import Location
from kt_batch.store.names import TEMP_PREFIX
from kt_batch.store.opening import Opened, kind_of, open_place
from kt_batch.store.paired import PairedLibrary, fit_digests, read_fit_summaries
from kt_batch.store.plans import Unit
from kt_batch.store.receipts import Receipt
from kt_batch.store.run import Run, RunHeader
from kt_batch.store.series import read_described_receipts

MOST_SUMMARY = 256 << 20  # bytes of an `index.json`
READERS = 16  # sizes that are requested at a time


@dataclass(frozen=True)
class Survey:
    """The names in a library or a run that nothing committed refers to.

    Attributes:
        orphans: Names that kt_batch writes, in an order in which an interrupted removal is harmless.
        foreign: All other names.
        pending: Units without a receipt; their files are among the orphans.
        unfinished: Indexes without an `index.json`; their files are among the orphans.
    """

    orphans: tuple[str, ...]
    foreign: tuple[str, ...]
    pending: int
    unfinished: int


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
    """

    place: str
    kind: str
    deleted: bool
    orphans: tuple[Orphan, ...]
    bytes: int
    foreign: int
    pending: int
    unfinished: int


def gc(place: str, progress: Progress, *, delete: bool = False, force: bool = False) -> GcSummary:
    """Find the files that no commit names; remove them on request.

    Start no command there during a removal: it may adopt a file that is about to be removed.

    Args:
        place: A library or a run.
        progress: Called after every removal.
        delete: Remove the orphans.
        force: Remove them even if units are pending or indexes unfinished, since no command runs there.

    Raises:
        UsageError: If work is unfinished, for `delete` without `force`.
        MissingError: If there is neither a library nor a run.
        DamagedError: If a plan or a receipt cannot be read.
        StorageError: If a file cannot be removed.
    """
    opened = open_place(place)
    location = opened.location
    surveyed = survey(opened)
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
    )


def survey(opened: Opened) -> Survey:
    """Compare the names on disk with those that plan, receipts and indexes refer to; contents are not read.

    Raises:
        DamagedError: If a plan or a receipt cannot be read, since it may refer to any file.
    """
    # Names are listed before receipts are read: files that appear later are ignored.
    names = [*opened.location.list_temporary(), *opened.location.list()]
    units, receipts = opened.committed.ledger.units(), opened.committed.ledger.receipts()
    pending = sum(unit.id not in receipts for unit in units)
    planned = {unit.id for unit in units}
    committed = {table.name for receipt in receipts.values() for table in receipt.tables}
    indexes = _read_indexes(opened.location, names) if isinstance(opened, Library) else None
    series: set[str] = set()
    if isinstance(opened, Run):
        possible, made = _outputs(units, receipts, opened.header)
        if opened.header.series != "none":
            series, left_behind = _series_files(opened.location, names, planned, len(opened.committed.ledger.plans()))
            possible |= left_behind
        shards = {layout.OUTPUT_SHARDS} if opened.header.output != "files" else set()
        kept, kinds = committed | made | {layout.RUN_SUMMARY}, layout.RUN_KINDS | shards
    else:
        possible, named = set(), indexes.named if indexes else set()
        kept, kinds = committed | named | {layout.LIBRARY_SUMMARY}, layout.LIBRARY_KINDS
    fits, left = _fit_files(opened.location, names) if isinstance(opened, PairedLibrary) else (set(), set())
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
    unfinished = len(indexes.unfinished) if indexes else 0
    return Survey(tuple(sorted(orphans, key=_removal_order)), tuple(foreign), pending, unfinished)


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


@dataclass(frozen=True)
class _Indexes:
    """The names that the finished indexes of a library refer to, and the digests of its other indexes.

    Attributes:
        named: Names that a finished index refers to.
        unfinished: Digests of indexes without an `index.json`.
        damaged: Digests of indexes whose `index.json` cannot be read.
        strange: Digests of indexes of another format version. Everything in their folders may be theirs, and so may any
            shard: no shard is an orphan then.
    """

    named: set[str] = field(default_factory=set)
    unfinished: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    strange: set[str] = field(default_factory=set)

    def left(self, name: str) -> bool:
        """Tell whether a name outside `named` was left by a build or belongs to an unreadable index."""
        if layout.is_shard(name):
            return not self.strange
        if build := layout.parse_build_file(name):
            return build not in self.strange
        return layout.parse_index_file(name) in self.unfinished | self.damaged


def _read_indexes(location: Location, names: Collection[str]) -> _Indexes:
    indexes = _Indexes()
    for digest in sorted({digest for name in names if (digest := layout.parse_in_index(name))}):
        try:
            summary = read_index_summary(location, digest)
        except DamagedError:
            strange = _is_strange(location, layout.index_summary_path(digest))
            (indexes.strange if strange else indexes.damaged).add(digest)
            continue
        if summary is None:
            indexes.unfinished.add(digest)
            continue
        indexes.named.update(layout.index_files(digest), layout.index_files(summary.digest))
        indexes.named.update(layout.shard_path(shard.sha256) for shard in summary.shards)
    return indexes


def _is_strange(location: Location, name: str) -> bool:
    """Tell whether an unreadable `index.json` states another format."""
    try:
        content = read_document(location, name, MOST_SUMMARY)
    except (MissingError, DamagedError):
        return False
    return content.get("format") not in (None, INDEX_FORMAT)


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


def _removal_order(name: str) -> tuple[int, str]:
    """Sort key: receipts of a build first, since they must not outlive its files; a damaged `index.json` last."""
    if layout.is_build_receipt(name):
        return 0, name
    return (2 if layout.parse_index_summary_path(name) else 1), name


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
