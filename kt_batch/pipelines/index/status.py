"""Report what each index of a library has grown from, how it fits the new patches, and whether a fresh one pays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from kt_batch.pipelines.translate.resources import open_index
from kt_batch.store import layout
from kt_batch.store.generations import MOST_DELTA, is_generation
from kt_batch.store.indexes import GrownFrom, IndexSummary, read_index_summaries
from kt_batch.store.library import Library
from kt_batch.store.names import in_command
from kt_batch.store.opening import open_library

SHARE_PAYS = MOST_DELTA / 2  # beyond, ten more additions cost as much as a fresh index
LOSS_PAYS = 0.01  # beyond, the frozen basis leaves so much more of all patches; share * (drift - 1)
LEAST_REST = 1e-3  # about the resolution of a length in float16


@dataclass(frozen=True)
class IndexStatus:
    """One index.

    Attributes:
        index: Its digest.
        key: Whose patches it holds.
        match_space: Its match space.
        state: `current`, or `stale` where the library has changed since.
        patches: All that it covers.
        can_grow: Whether it is a generation: fresh, with the list of its parts and all its files.
        generation: What it has grown from; None for a fresh one.
        generation_there: Whether that index is still there and can grow again; None for a fresh one.
        new_patches: Those that the generation does not cover.
        share: Their share of all.
        drift: Mean length of what the frozen basis leaves of a new patch, over that of a patch of the generation. None
            for a fresh index, without new patches, and where the basis leaves nothing of the generation's.
        pays: Whether a fresh index pays.
        advice: The same in a sentence; empty where there is nothing to say.
    """

    index: str
    key: str
    match_space: str
    state: str
    patches: int
    can_grow: bool
    generation: str | None = None
    generation_there: bool | None = None
    new_patches: int = 0
    share: float = 0.0
    drift: float | None = None
    pays: bool = False
    advice: str = ""


@dataclass(frozen=True)
class LibraryStatus:
    """All finished indexes of a library, by digest."""

    library: str
    indexes: tuple[IndexStatus, ...]


def index_status(place: str) -> LibraryStatus:
    """Report the indexes of a library. Shards of grown indexes of the present snapshot are opened.

    Args:
        place: The library, a path or URI.

    Raises:
        MissingError: There is no library.
        DamagedError: A summary, a tree or a shard is damaged.
    """
    library = open_library(place)
    names = set(library.location.list(layout.INDEX))
    summaries = read_index_summaries(library.location)
    generations = {summary.digest for summary in summaries if is_generation(summary, names)}
    found = [_status(library, summary, generations) for summary in summaries]
    current = {status.key for status in found if status.state == "current"}
    advised = (status if status.key in current else _behind(library, status) for status in found)
    return LibraryStatus(library.location.uri, tuple(advised))


def _behind(library: Library, status: IndexStatus) -> IndexStatus:
    """Return the status of an index where the library has changed since, and has no other index of the key."""
    command = _command(library, status.key)
    return replace(status, advice=f"The library has changed since; run: {command}")


def _command(library: Library, key: str) -> str:
    at = "" if key == str(library.config.base) else f" --at {key}"
    return f"kt-batch index {in_command(library.location.uri)}{at}"


def _status(library: Library, summary: IndexSummary, generations: set[str]) -> IndexStatus:
    current, grown = summary.snapshot == library.committed.snapshot, summary.generation
    status = IndexStatus(
        index=summary.digest,
        key=str(summary.key(library)),
        match_space=summary.config.match_space,
        state="current" if current else "stale",
        patches=summary.patches,
        can_grow=summary.digest in generations,
    )
    if grown is None:
        return status
    new = summary.patches - grown.patches
    share, there = new / summary.patches, grown.digest in generations
    drift = _drift(library, summary, grown) if current and new else None
    pays = share > SHARE_PAYS or share * ((drift or 1) - 1) > LOSS_PAYS
    return replace(
        status,
        generation=grown.digest,
        generation_there=there,
        new_patches=new,
        share=round(share, 6),
        drift=drift,
        pays=current and pays,
        advice=_advice(library, status.key, grown.digest, there=there, pays=pays) if current else "",
    )


def _drift(library: Library, summary: IndexSummary, grown: GrownFrom) -> float | None:
    """Return the drift of a grown index; None where the basis leaves nothing of the generation's patches."""
    index = open_index(library.location, summary)
    counts = index.tree.leaf_count.double()
    rests = index.statistics.rests.double() * counts
    own = index.first_rows(torch.arange(index.tree.leaves, device=index.device)) < grown.kept
    before = float(rests[own].sum() / counts[own].sum())
    after = float(rests[~own].sum() / counts[~own].sum())
    return round(after / before, 6) if before > LEAST_REST else None


def _advice(library: Library, key: str, generation: str, *, there: bool, pays: bool) -> str:
    command = f"{_command(library, key)} --fresh"
    if not there:
        return f"Its generation {generation} is missing, so it can be searched and cannot grow further; run: {command}"
    if pays:
        return f"A fresh index pays: many patches are new, or unlike those that the index was fitted to; run: {command}"
    return "A fresh index does not pay yet."
