"""The edits of outputs, as their run records them, and which of them a person should look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from kt_batch.errors import DamagedError
from kt_batch.store import layout
from kt_batch.store.run import Output, Run
from kt_batch.store.schemas import EDITS_SERIES
from kt_batch.store.tables import read_table

REVIEW_BELOW = 0.5  # confidence below which an edit is to be looked at, unless a command is told otherwise
LISTED = 100  # edits to review, by name


@dataclass(frozen=True)
class SharedBy:
    """The photographs of a run that share an edit. name: Of their series, 16 hex digits. photographs: How many."""

    name: str
    photographs: int


@dataclass(frozen=True)
class RecordedEdit:
    """The edit of one output as its run records it; the fields as in `methods.base.EditFacts`.

    library: The paired library that it was learned from. series: None for an edit of the photograph's own.
    """

    library: str
    coefficients: tuple[tuple[float, ...], ...]
    confidence: float
    guard: float
    strength: float
    series: SharedBy | None = None


@dataclass(frozen=True)
class DoubtfulEdit:
    """An edit with a low confidence. name: of its photograph."""

    name: str
    output: str
    confidence: float


@dataclass(frozen=True)
class Review:
    """The edits of a run that a person should look at.

    edits: All edits of the run. below: The confidence below which one is doubtful. count: Of doubtful edits. first:
    At most LISTED of them, the lowest confidence first, ties by name.
    """

    edits: int
    below: float
    count: int
    first: tuple[DoubtfulEdit, ...]


def read_edit(run: Run, output: Output) -> RecordedEdit | None:
    """Return the edit of an output; None where its method edits nothing.

    Raises:
        DamagedError: The table of edits is damaged.
    """
    part = layout.parse_part_path(output.part.name)
    ref = run.committed.parts(layout.EDITS).get(part.unit) if part else None
    if ref is None:
        return None
    table = read_table(run.location, ref)
    rows = table.filter(pc.equal(table["output"].cast("string"), output.name)).to_pylist()
    if len(rows) != 1 or not _is_edit(rows[0]):
        raise DamagedError(f"'{ref.name}' at '{run.location.uri}' does not hold one edit of '{output.name}'.")
    row = rows[0]
    coefficients = tuple(tuple(row["map"][start : start + 3]) for start in range(0, 30, 3))
    series = _shared_by(run, row.get(EDITS_SERIES.name))
    return RecordedEdit(row["library"], coefficients, row["confidence"], row["guard"], row["strength"], series)


def _shared_by(run: Run, series: bytes | None) -> SharedBy | None:
    return SharedBy(series.hex(), count_series(run)[series.hex()]) if series else None


def count_series(run: Run) -> Counter[str]:
    """Return name -> photographs of each series; nothing where edits are not shared.

    Raises:
        DamagedError: A table of edits is damaged.
    """
    counts: Counter[str] = Counter()
    if run.header.series != "none":
        for ref in run.committed.parts(layout.EDITS).values():
            column = read_table(run.location, ref, [EDITS_SERIES.name])[EDITS_SERIES.name]
            counts.update(value.hex() for value in column.to_pylist() if value is not None)
    return counts


def _is_edit(row: Mapping[str, Any]) -> bool:
    numbers = [*row["map"], row["confidence"], row["guard"], row["strength"]]
    return len(numbers) == 33 and bool(np.isfinite(numbers).all())


def read_confidences(run: Run) -> dict[str, float]:
    """Return output name -> confidence of all edits of a run; nothing where its method edits nothing.

    Raises:
        DamagedError: A table of edits is damaged.
    """
    return {name: confidence for name, confidence, _ in _trust(run)}


def edit_facts(run: Run) -> dict[str, object] | None:
    """Return what the edits of a run are worth, as JSON-able values; None where its method edits nothing.

    Raises:
        DamagedError: A table of edits is damaged.
    """
    trust = _trust(run)
    if not trust:
        return None
    confidences = [confidence for _, confidence, _ in trust]
    return {
        "count": len(trust),
        "confidence": {"lowest": round(min(confidences), 6), "mean": round(float(np.mean(confidences)), 6)},
        "review_below": REVIEW_BELOW,
        "to_review": sum(confidence < REVIEW_BELOW for confidence in confidences),
        "guarded": sum(guard < 1 for _, _, guard in trust),
        **_series_facts(run),
    }


def _series_facts(run: Run) -> dict[str, object]:
    """Return how many series there are with more than one photograph, and photographs in them; nothing elsewhere."""
    if run.header.series == "none":
        return {}
    counts = [count for count in count_series(run).values() if count > 1]
    return {"series": {"count": len(counts), "photographs": sum(counts), "largest": max(counts, default=0)}}


def review_edits(run: Run, below: float = REVIEW_BELOW) -> Review | None:
    """Return the edits of a run whose confidence is below a limit; None where its method edits nothing.

    Raises:
        DamagedError: A table of edits is damaged.
    """
    confidences = read_confidences(run)
    if not confidences:
        return None
    doubtful = [
        DoubtfulEdit(output.input_name, output.name, confidences[output.name])
        for output in run.outputs.values()
        if confidences.get(output.name, 1.0) < below
    ]
    doubtful.sort(key=lambda edit: (edit.confidence, edit.name))
    return Review(len(confidences), below, len(doubtful), tuple(doubtful[:LISTED]))


def _trust(run: Run) -> list[tuple[str, float, float]]:
    """Return output name, confidence and guard of all edits."""
    rows = []
    for ref in run.committed.parts(layout.EDITS).values():
        table = read_table(run.location, ref, ["output", "confidence", "guard"])
        for row in table.to_pylist():
            numbers = (row["confidence"], row["guard"])
            if not all(0 <= value <= 1 for value in numbers):
                raise DamagedError(
                    f"'{ref.name}' at '{run.location.uri}' holds an edit with confidence {numbers[0]} and guard "
                    f"{numbers[1]}; allowed is 0 to 1."
                )
            rows.append((row["output"], *numbers))
    return rows
