"""The sheet's view of an edit: its tone curve, the pairs that shaped it most, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kt_batch.errors import MismatchError, StorageError, UsageError
from kt_batch.report.page_files import PageFolder, Picture
from kt_batch.report.plots import tone_curve
from kt_batch.report.recorded_edits import SharedBy, read_confidences, read_edit
from kt_batch.report.session import Session
from kt_batch.report.sources import follows
from kt_batch.store import layout
from kt_batch.store.opening import open_paired
from kt_batch.store.paired import PairedLibrary
from kt_batch.store.run import Output
from kt_batch.store.schemas import IMAGE_ID
from kt_batch.store.tables import read_table

PAIRS_SHOWN = 3  # for each edit


@dataclass(frozen=True)
class Pair:
    """A pair with its signed share of an edit; its pictures are None when its library is not at hand."""

    name: str
    uri: str
    share: float
    before: Picture | None
    after: Picture | None
    license: str
    attribution: str


@dataclass(frozen=True)
class ShownEdit:
    """The edit of one output. curve: SVG. doubtful: Its confidence is below the page's limit. series: The photographs
    that share it; None for an edit of its own.
    """

    title: str
    curve: str
    confidence: float
    guard: float
    strength: float
    doubtful: bool
    pairs: tuple[Pair, ...]
    series: SharedBy | None = None


@dataclass
class PairedSources:
    """The paired libraries of a page's runs, each opened once."""

    opened: dict[str, PairedLibrary | None] = field(default_factory=dict)

    def library(self, session: Session, place: str) -> PairedLibrary | None:
        """Return a library that a run names; None when it is not at hand, or must be asked for in another store."""
        if place not in self.opened:
            try:
                self.opened[place] = open_paired(place) if follows(session.run.location, place) else None
            except (StorageError, MismatchError, UsageError):
                self.opened[place] = None
        return self.opened[place]


def has_edits(session: Session) -> bool:
    """Tell whether a run records edits."""
    return bool(session.run.committed.parts(layout.EDITS))


def lowest_confidences(sessions: Sequence[Session]) -> dict[str, float]:
    """Return photograph's name -> the lowest confidence that a run has in an edit of it."""
    lowest: dict[str, float] = {}
    for session in sessions:
        confidences = read_confidences(session.run)
        for output in session.run.outputs.values():
            if (found := confidences.get(output.name)) is not None:
                lowest[output.input_name] = min(found, lowest.get(output.input_name, 1.0))
    return lowest


def show_edit(
    title: str, session: Session, output: Output, below: float, sources: PairedSources, folder: PageFolder
) -> ShownEdit | None:
    """Return the view of an output's edit; None where its run records none.

    title: Of the run. below: Confidence below which an edit is doubtful.
    """
    edit = read_edit(session.run, output)
    if edit is None:
        return None
    library = sources.library(session, edit.library)
    return ShownEdit(
        title=title,
        curve=tone_curve(np.array(edit.coefficients)),
        confidence=edit.confidence,
        guard=edit.guard,
        strength=edit.strength,
        doubtful=edit.confidence < below,
        pairs=tuple(_pairs(session.provenance(output), library, folder)),
        series=edit.series if edit.series and edit.series.photographs > 1 else None,
    )


def _pairs(provenance: pa.Table, library: PairedLibrary | None, folder: PageFolder) -> list[Pair]:
    """Return the pairs with the largest shares, whatever their sign."""
    rows = sorted(provenance.to_pylist(), key=lambda row: (-abs(row["share"]), row["source_image_id"]))[:PAIRS_SHOWN]
    known = known_pairs(library, {row["source_image_id"].hex() for row in rows}) if library else {}
    pairs = []
    for row in rows:
        found, uri = known.get(row["source_image_id"].hex(), {}), row["source_uri"]
        before, after = (
            folder.put_photo(found[column]) if found.get(column) else None
            for column in ("preview_before", "preview_after")
        )
        name = found.get("name") or PurePosixPath(uri).name or f"pair {row['source_image_id'].hex()}"
        credit = found.get("license") or "", found.get("attribution") or ""
        pairs.append(Pair(name, uri, row["share"], before, after, *credit))
    return pairs


def known_pairs(library: PairedLibrary, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return id -> row of the pairs with these ids. Only the parts that hold them are read."""
    wanted = pa.array([bytes.fromhex(pair) for pair in sorted(ids)], IMAGE_ID)
    holding = {unit.id for unit in library.committed.ledger.units() if any(item.image_id in ids for item in unit.items)}
    columns = ["image_id", "name", "license", "attribution", "preview_before", "preview_after"]
    known = {}
    for unit, part in library.committed.parts(layout.PAIRS).items():
        if unit in holding:
            table = read_table(library.location, part, columns)
            for row in table.filter(pc.is_in(table["image_id"], wanted)).to_pylist():
                known[row["image_id"].hex()] = row
    return known
