"""Take over one unit of a library: its parts as they are, or without the images that an earlier library owns."""

from __future__ import annotations

import time

import pyarrow as pa

from kt_batch.errors import DamagedError
from kt_batch.pipelines.merge.plan import ImageTexts, MergeUnit
from kt_batch.store import layout
from kt_batch.store.copies import read_part, take_part
from kt_batch.store.receipts import Receipt, TableRef, new_attempt, this_worker
from kt_batch.store.schemas import IMAGES, REJECTS
from kt_batch.store.tables import commit_table
from kt_batch.store.units import Ledger


def take_unit(ledger: Ledger, config_digest: str, part: MergeUnit) -> Receipt:
    """Store the tables of one unit in the new library, and commit it.

    Args:
        ledger: Of the new library.
        config_digest: Of its configuration.
        part: The unit, and where it comes from.

    Raises:
        MissingError: A part of the source is gone.
        DamagedError: A part of the source is damaged.
    """
    started = time.perf_counter()
    tables = tuple(filter(None, (_take_table(ledger, part, ref) for ref in part.receipt.tables)))
    rows = {table.kind: table.rows for table in tables}
    receipt = Receipt(
        unit=part.unit.id,
        attempt=new_attempt(),
        config_digest=config_digest,
        tables=tables,
        rejects=rows.get(layout.REJECTS, 0),
        images=sum(len(texts.uris) for texts in part.images.values()),
        patches=rows.get(layout.PATCHES, 0),
        numerics=part.receipt.numerics,
        timings={"copy": time.perf_counter() - started},
        finished=time.time(),
        worker=this_worker(),
    )
    return ledger.commit(receipt)


def _take_table(ledger: Ledger, part: MergeUnit, ref: TableRef) -> TableRef | None:
    """Store one table; return None where nothing of it is taken."""
    source, target = part.source.location, ledger.location
    if ref.kind == layout.REJECTS:
        return _take_rejects(ledger, part, ref) if part.rejects else None
    if not part.images:
        return None
    if ref.kind == layout.IMAGES and (table := _changed_images(ledger, part, ref)) is not None:
        return commit_table(target, ref.kind, part.unit.id, table)
    wanted = part.there if ref.kind == layout.IMAGES else part.images.keys()
    return take_part(source, ref, target, part.unit.id, part.there, wanted)


def _take_rejects(ledger: Ledger, part: MergeUnit, ref: TableRef) -> TableRef:
    table = read_part(part.source.location, ref, ledger.location).select(REJECTS.names)
    kept = table.filter(pa.array([uri in part.rejects for uri in table["uri"].to_pylist()], pa.bool_()))
    return commit_table(ledger.location, ref.kind, part.unit.id, kept)


def _changed_images(ledger: Ledger, part: MergeUnit, ref: TableRef) -> pa.Table | None:
    """Return the rows of the images that are taken, with the texts of all libraries; None where nothing changes."""
    table = read_part(part.source.location, ref, ledger.location)
    kept, changed = [], False
    for row in table.to_pylist():
        image = row["image_id"].hex()
        if image not in part.there:
            raise DamagedError(f"{part.source.location.uri}/{ref.name} has changed since the merge was planned")
        texts = part.images.get(image)
        changed |= texts != ImageTexts(tuple(row["uris"]), tuple(row["tags"]))
        if texts is not None:
            kept.append({**row, "uris": list(texts.uris), "tags": list(texts.tags)})
    return pa.Table.from_pylist(kept, schema=IMAGES) if changed else None
