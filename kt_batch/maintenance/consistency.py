"""Check that a unit's receipt and tables agree with its plan, which hashes alone do not tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kt_batch.store import layout
from kt_batch.store.plans import Unit
from kt_batch.store.receipts import Receipt
from kt_batch.store.units import Attempt

SHOWN = 3  # ids or names in a sentence


def unplanned(receipts: Iterable[str], units: Iterable[Unit]) -> list[str]:
    """Return the units of receipts that no plan holds; nothing reads these receipts.

    receipts: their names, listed before the plan was read: a plan comes before its receipts.
    """
    named = {unit for name in receipts if (unit := layout.parse_receipt_path(name))}
    return sorted(named - {unit.id for unit in units})


def receipt_faults(attempts: Iterable[Attempt], image_format: str | None) -> list[str]:
    """Return a fault for every receipt that contradicts the plan or another receipt.

    image_format: of a run; None for a library.
    """
    faults: list[str] = []
    owners: dict[str, str] = {}
    for unit, receipt in attempts:
        if receipt is None:
            continue
        kinds = {table.kind for table in receipt.tables}
        outputs = _outputs(unit, receipt, image_format) if image_format else []
        if outputs and layout.PROVENANCE not in kinds:
            faults.append(f"The receipt of unit {unit.id} has outputs, such as {_some(outputs)}, and no provenance.")
        if receipt.rejects and layout.REJECTS not in kinds:
            faults.append(f"The receipt of unit {unit.id} counts {receipt.rejects} rejects and names no table of them.")
        if image_format and receipt.images != len(outputs):
            faults.append(f"The receipt of unit {unit.id} counts {receipt.images} images and has {len(outputs)}.")
        claimed = [name for name in outputs if owners.setdefault(name, unit.id) != unit.id]
        faults += [f"The units {owners[name]} and {unit.id} both claim the output '{name}'." for name in claimed]
    return faults


def table_faults(kind: str, table: pa.Table, unit: Unit, receipt: Receipt, image_format: str | None) -> list[str]:
    """Return a fault for every way in which a table is not that of its unit."""
    what = f"The {kind} of unit {unit.id}"
    if kind == layout.REJECTS:
        strange = set(table["uri"].to_pylist()) - {item.uri for item in unit.items}
        faults = [f"{what} name inputs of no such unit: {_some(sorted(strange))}."] if strange else []
        return faults + _count_faults(what, table.num_rows, receipt.rejects)
    if kind == layout.PROVENANCE and image_format:
        return _provenance_faults(what, table, receipt, _outputs(unit, receipt, image_format))
    if layout.table_of(kind) in (layout.IMAGES, layout.PATCHES, layout.WORKING, layout.PAIRS):
        ids = {value.hex() for value in table["image_id"].unique().to_pylist()}
        strange = ids - {item.image_id for item in unit.items}
        faults = [f"{what} name images of no such unit: {_some(sorted(strange))}."] if strange else []
        there = _uris(table) if kind == layout.IMAGES else table.num_rows
        return faults + _count_faults(what, there, _counted(kind, receipt, there))
    return []


def _provenance_faults(what: str, table: pa.Table, receipt: Receipt, outputs: Sequence[str]) -> list[str]:
    levels = next(ref.levels for ref in receipt.tables if ref.kind == layout.PROVENANCE)
    named = ["output", "level"] if levels else ["output"]
    if ("level" in table.column_names) != bool(levels):
        return [f"{what} has {'no levels' if levels else 'levels'}, and its receipt says otherwise."]
    there = _runs(table, named)
    expected = [(output, level) for output in outputs for level in levels] if levels else [(name,) for name in outputs]
    alike = len([*takewhile(lambda pair: pair[0] == pair[1], zip(there, expected, strict=False))])
    shown, wanted = ([" at ".join(names) for names in each[alike:]] for each in (there, expected))
    faults = [] if there == expected else [f"{what} is of {_some(shown)}, not of {_some(wanted)}."]
    best = table["rank"].to_numpy() == 0 if "rank" in table.column_names else np.zeros(0, bool)
    if levels:
        best &= pc.equal(table["level"].cast("string"), levels[0]).to_numpy()
    return faults + _count_faults(what, int(np.count_nonzero(best)), receipt.patches)


def _runs(table: pa.Table, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the values of some columns of text wherever one of them changes."""
    encoded = [table[name].cast("string").dictionary_encode() for name in columns]
    codes = [np.concatenate([chunk.indices.to_numpy() for chunk in each.chunks] or [[]]) for each in encoded]
    changes = np.any([np.diff(each, prepend=-1) != 0 for each in codes], axis=0)
    texts = [column.filter(pa.array(changes)).to_pylist() for column in encoded]
    return list(zip(*texts, strict=True))


def _counted(kind: str, receipt: Receipt, there: int) -> int:
    """Return how many rows, or of images how many names, the receipt counts; `there` where it counts none."""
    if kind not in (layout.IMAGES, layout.PATCHES, layout.WORKING, layout.PAIRS):
        return there  # of a further layer@scale
    if kind == layout.PATCHES:
        return receipt.patches
    if kind == layout.WORKING:
        return sum(table.rows for table in receipt.tables if table.kind == layout.IMAGES)
    return receipt.images


def _outputs(unit: Unit, receipt: Receipt, image_format: str) -> list[str]:
    pairs = zip(unit.items, receipt.outputs, strict=False)
    return [item.output_path(image_format) for item, output in pairs if output]


def _count_faults(what: str, there: int, counted: int) -> list[str]:
    return [] if there == counted else [f"{what} hold {there} of them, and the receipt counts {counted}."]


def _uris(table: pa.Table) -> int:
    return sum(len(uris) for uris in table["uris"].to_pylist())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "") or "nothing"
