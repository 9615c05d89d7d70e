"""What lies in a library or a run that nothing committed names, and its removal.

Whoever works on a unit writes its parts and images first and its receipt last; an index gets its shards before its
`index.json`. Until then these files look like what a killed attempt left: nothing on disk tells the two apart. So
nothing is removed while something is under way, unless the caller says that nobody works there.

Only names that kt_batch itself would have written are ever removed; everything else is foreign, and only counted.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from kt_batch.errors import DamagedError, MissingError, StorageError, UsageError
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.store import layout
from kt_batch.store.indexes import INDEX_FORMAT, read_index_summary
from kt_batch.store.inputs import output_name
from kt_batch.store.library import Library
from kt_batch.store.locations import Location
from kt_batch.store.names import TEMP_PREFIX
from kt_batch.store.opening import kind_of, open_place
from kt_batch.store.receipts import Receipt
from kt_batch.store.run import Run
from kt_batch.store.units import Unit

READERS = 16  # sizes asked for at a time


@dataclass(frozen=True)
class Survey:
    """The names in a library or a run that nothing committed accounts for.

    `orphans` have names that kt_batch writes and nothing committed holds them, in an order in which they can be removed
    at any pace; `foreign` is all else. `pending` counts units without a receipt, `unfinished` indexes without an
    `index.json`: their files are among the orphans.
    """

    orphans: tuple[str, ...]
    foreign: tuple[str, ...]
    pending: int
    unfinished: int


@dataclass(frozen=True)
class Orphan:
    """One file that nothing committed names, and the bytes that its removal frees."""

    name: str
    bytes: int


@dataclass(frozen=True)
class GcSummary:
    """What `gc` found. kind is `library` or `run`; `deleted` says whether `orphans` are gone now; `bytes` is their sum,
    `foreign` the number of names that are not kt_batch's; pending and unfinished as in `Survey`."""

    place: str
    kind: str
    deleted: bool
    orphans: tuple[Orphan, ...]
    bytes: int
    foreign: int
    pending: int
    unfinished: int


def gc(place: str, progress: Progress, *, delete: bool = False, force: bool = False) -> GcSummary:
    """Find what nothing committed names, and with `delete` remove it.

    With something pending or unfinished `delete` is a UsageError, unless `force` says that nobody works there. Also
    without that, no command should be started there until it is done: it may adopt a file that is about to go.
    Raises MissingError where there is neither library nor run, DamagedError for a plan or a receipt that is none,
    StorageError when a file cannot be removed.
    """
    opened = open_place(place)
    location = opened.location
    found = survey(opened)
    if delete and not force and (found.pending or found.unfinished):
        raise UsageError(_refusal(location.uri, found))
    orphans = _sizes(location, found.orphans)
    if delete:
        _remove(location, orphans, progress)
    return GcSummary(
        place=location.uri,
        kind=kind_of(opened),
        deleted=delete,
        orphans=tuple(orphans),
        bytes=sum(orphan.bytes for orphan in orphans),
        foreign=len(found.foreign),
        pending=found.pending,
        unfinished=found.unfinished,
    )


def survey(opened: Library | Run) -> Survey:
    """Compare the names that lie there with those that plan, receipts and indexes account for; contents are not read.

    Raises DamagedError for a plan or a receipt that is none, since it may name anything.
    """
    names = [*opened.location.list_temporary(), *opened.location.list()]  # first: what comes later is not looked at
    units, receipts = opened.committed.ledger.units(), opened.committed.ledger.receipts()
    pending = sum(unit.id not in receipts for unit in units)
    planned = {unit.id for unit in units}
    committed = {table.name for receipt in receipts.values() for table in receipt.tables}
    indexes = _read_indexes(opened.location, names) if isinstance(opened, Library) else None
    if isinstance(opened, Run):
        possible, made = _outputs(units, receipts, opened.header.format)
        kept, kinds = committed | made | {layout.RUN_SUMMARY}, layout.RUN_KINDS
    else:
        possible, named = set(), indexes.named if indexes else set()
        kept, kinds = committed | named | {layout.LIBRARY_SUMMARY}, layout.LIBRARY_KINDS
    orphans: list[str] = []
    foreign: list[str] = []
    for name in names:
        if name in kept or layout.is_plan(name) or layout.is_options(name):
            continue
        if layout.parse_receipt_path(name) in planned:
            continue
        ours = _is_temporary(name) or name in possible or _is_part(name, kinds, planned)
        (orphans if ours or (indexes and indexes.left(name)) else foreign).append(name)
    unfinished = len(indexes.unfinished) if indexes else 0
    return Survey(tuple(sorted(orphans, key=_turn)), tuple(foreign), pending, unfinished)


@dataclass(frozen=True)
class _Indexes:
    """What the finished indexes of a library name, and the digests of those that are not finished or cannot be read.

    `strange` are of a version that writes another format: whatever lies in their folders is theirs, and any shard may
    be, so then no shard is an orphan.
    """

    named: set[str] = field(default_factory=set)
    unfinished: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    strange: set[str] = field(default_factory=set)

    def left(self, name: str) -> bool:
        """Whether a name, which is not among `named`, was left by a build or belongs to an index that is none."""
        if layout.is_shard(name):
            return not self.strange
        if build := layout.parse_build_file(name):
            return build not in self.strange
        return layout.parse_index_file(name) in self.unfinished | self.damaged


def _read_indexes(location: Location, names: Collection[str]) -> _Indexes:
    found = _Indexes()
    for digest in sorted({digest for name in names if (digest := layout.parse_in_index(name))}):
        try:
            summary = read_index_summary(location, digest)
        except DamagedError:
            strange = _is_strange(location, layout.index_summary_path(digest))
            (found.strange if strange else found.damaged).add(digest)
            continue
        if summary is None:
            found.unfinished.add(digest)
            continue
        found.named.update(layout.index_files(digest), layout.index_files(summary.digest))
        found.named.update(layout.shard_path(shard.sha256) for shard in summary.shards)
    return found


def _is_strange(location: Location, name: str) -> bool:
    """Whether an `index.json` that cannot be read says itself that it is of another format."""
    try:
        content = json.loads(location.read_bytes(name))
    except (MissingError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") not in (None, INDEX_FORMAT)


def _outputs(units: Sequence[Unit], receipts: Mapping[str, Receipt], image_format: str) -> tuple[set[str], set[str]]:
    """The names of all outputs that were ever planned, and of those that a receipt says were made."""
    possible, made = set(), set()
    for unit in units:
        names = [output_name(item.name, image_format) for item in unit.items]
        possible |= set(names)
        outputs = receipts[unit.id].outputs if unit.id in receipts else ()
        made |= {name for name, output in zip(names, outputs, strict=False) if output}
    return possible, made


def _is_temporary(name: str) -> bool:
    return name.rpartition("/")[2].startswith(TEMP_PREFIX)


def _is_part(name: str, kinds: Collection[str], planned: Collection[str]) -> bool:
    """Whether a name is that of a part of a planned unit."""
    part = layout.parse_part_path(name)
    return part is not None and part.kind in kinds and part.unit in planned


def _turn(name: str) -> tuple[int, str]:
    """What goes first: the receipts of a build, which must not outlive its pieces; last the mark of a damaged index."""
    if layout.is_build_receipt(name):
        return 0, name
    return (2 if layout.parse_index_summary_path(name) else 1), name


def _refusal(uri: str, found: Survey) -> str:
    counts = ((found.pending, "pending unit"), (found.unfinished, "unfinished index"))
    plural = {"pending unit": "pending units", "unfinished index": "unfinished indexes"}
    what = " and ".join(f"{count} {name if count == 1 else plural[name]}" for count, name in counts if count)
    return (
        f"'{uri}' has {what}: whoever works there has written files that nothing names yet, and they would be removed; "
        "finish the work first, or, if surely nobody works there, add --force."
    )


def _sizes(location: Location, names: Sequence[str]) -> list[Orphan]:
    """The orphans that are still there, in the same order."""
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
