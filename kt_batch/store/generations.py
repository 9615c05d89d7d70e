"""Generations: fresh indexes that list the parts they cover, and what each lacks of the present library.

A library only gains parts, but a repaired or rebuilt one may have others. So parts are compared by content.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from kt_batch.config import IndexConfig, ScaleKey
from kt_batch.errors import DamagedError
from kt_batch.store import layout
from kt_batch.store.indexes import IndexSummary, preference, read_index_summaries, read_index_table, table_bytes
from kt_batch.store.library import Library
from kt_batch.store.receipts import TableRef
from kt_batch.store.schemas import COVERED_PARTS

MOST_DELTA = 0.2  # share of the patches that a grown index holds beside its generation; beyond, a fresh one pays


@dataclass(frozen=True)
class Growth:
    """A generation, and the parts with patches of the present library that it does not cover. patches: In those."""

    generation: IndexSummary
    parts: tuple[TableRef, ...]
    patches: int

    @property
    def share(self) -> float:
        """Share of the library's patches that the generation lacks."""
        return self.patches / (self.patches + self.generation.patches)


def covered_parts_bytes(parts: Iterable[TableRef]) -> bytes:
    """Return the bytes of the list of the parts that an index covers: their SHA-256, ascending, each once."""
    hashes = sorted({bytes.fromhex(part.sha256) for part in parts})
    return table_bytes(pa.Table.from_arrays([pa.array(hashes, COVERED_PARTS.types[0])], schema=COVERED_PARTS))


def growth(library: Library, generation: IndexSummary) -> Growth | None:
    """Return how a generation grows to the present library; None when it holds parts that are no longer there.

    Raises:
        MissingError: Its list of parts is gone.
        DamagedError: Its list of parts is damaged.
    """
    name = layout.covered_parts_path(generation.digest)
    try:
        table = read_index_table(library.location, name, generation.parts_sha256 or "", COVERED_PARTS)
    except DamagedError as error:
        raise DamagedError(f"{error} Index the library with --fresh.") from error
    covered = {sha256.hex() for sha256 in table["part_sha256"].to_pylist()}
    present = library.parts_at(generation.key(library)).values()
    if not covered <= {part.sha256 for part in present}:
        return None
    parts = tuple(part for part in present if part.rows and part.sha256 not in covered)
    return Growth(generation, parts, sum(part.rows for part in parts))


def find_growth(library: Library, config: IndexConfig, key: ScaleKey, most: float = MOST_DELTA) -> Growth | None:
    """Return the growth of the generation that covers most patches, ties by digest.

    Args:
        library: The opened library.
        config: The configuration that the generation must have.
        key: Whose patches it must hold.
        most: The largest share of patches that it may lack.

    Returns:
        None where no finished fresh index of that configuration and key lists parts that are all still there, lacks so
        few patches, and has all its files.

    Raises:
        DamagedError: A list of parts is damaged.
    """
    names = set(library.location.list(layout.INDEX))
    summaries = sorted(read_index_summaries(library.location), key=preference)
    alike = [each for each in summaries if each.config.digest() == config.digest() and each.key(library) == key]
    for summary in alike:
        found = growth(library, summary) if is_generation(summary, names) else None
        if found and found.share <= most:
            return found
    return None


def is_generation(summary: IndexSummary, names: Collection[str]) -> bool:
    """Tell whether an index is fresh, lists its parts, and has all its files among the names of the library."""
    files = {*layout.index_files(summary.digest), *shard_names([summary])}
    if summary.leaf_statistics is None:
        files.remove(layout.leaves_path(summary.digest))
    return summary.parts_sha256 is not None and summary.generation is None and files <= set(names)


def shard_names(summaries: Sequence[IndexSummary]) -> set[str]:
    """Return the paths of the shards of indexes."""
    return {layout.shard_path(shard.sha256) for summary in summaries for shard in summary.shards}
