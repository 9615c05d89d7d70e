"""The edit of an output, as its run records it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from kt_batch.errors import DamagedError
from kt_batch.store import layout
from kt_batch.store.run import Output, Run
from kt_batch.store.tables import read_table


@dataclass(frozen=True)
class RecordedEdit:
    """The edit of one output as its run records it; the fields as in `methods.base.EditFacts`.

    library: The paired library that it was learned from.
    """

    library: str
    coefficients: tuple[tuple[float, ...], ...]
    confidence: float
    guard: float
    strength: float


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
    if len(rows) != 1 or len(rows[0]["map"]) != 30 or not np.isfinite(rows[0]["map"]).all():
        raise DamagedError(f"'{ref.name}' at '{run.location.uri}' does not hold one edit of '{output.name}'.")
    row = rows[0]
    coefficients = tuple(tuple(row["map"][start : start + 3]) for start in range(0, 30, 3))
    return RecordedEdit(row["library"], coefficients, row["confidence"], row["guard"], row["strength"])
