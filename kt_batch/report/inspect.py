"""What a library or a run holds, as numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kt_batch.config import EncoderConfig
from kt_batch.errors import MismatchError, MissingError, StorageError
from kt_batch.report.sources import library_of, named_library, source_images
from kt_batch.store import layout
from kt_batch.store.indexes import IndexSummary, read_index_summaries
from kt_batch.store.library import Library
from kt_batch.store.opening import open_place
from kt_batch.store.run import Run
from kt_batch.store.tables import read_table

BINS = 20  # of the NCC histogram, over [0, 1]
TOP_SOURCES = 10


@dataclass
class Matches:
    """Sums over the provenance of a run, or of one output.

    NCC and certificates are those of first matches; weights are those of all, and sum to 1 for each patch.
    """

    patches: int = 0
    certified: int = 0
    ncc_sum: float = 0.0
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    weights: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # by source image id

    def add(self, provenance: pa.Table) -> None:
        """Count the rows of a provenance table in."""
        first = provenance["rank"].to_numpy() == 0
        ncc = provenance["ncc"].to_numpy()[first].astype(np.float64)
        self.patches += int(first.sum())
        self.certified += int(np.count_nonzero(provenance["certified"].to_numpy()[first]))
        self.ncc_sum += float(ncc.sum())
        self.histogram += np.histogram(ncc.clip(0.0, 1.0), BINS, (0.0, 1.0))[0]
        totals = provenance.group_by("source_image_id", use_threads=False).aggregate([("weight", "sum")])
        for row in totals.to_pylist():
            self.weights[row["source_image_id"].hex()] += row["weight_sum"]

    @property
    def ncc_mean(self) -> float | None:
        """None when there is no match."""
        return round(self.ncc_sum / self.patches, 6) if self.patches else None

    @property
    def certified_share(self) -> float | None:
        """None when there is no match."""
        return round(self.certified / self.patches, 6) if self.patches else None

    def top(self, count: int) -> list[tuple[str, float]]:
        """The images used most with their share of all patches, ties by id."""
        ranked = sorted(self.weights.items(), key=lambda item: (-item[1], item[0]))
        return [(image_id, weight / self.patches) for image_id, weight in ranked[:count] if weight > 0]


MATCH_COLUMNS = ("rank", "weight", "source_image_id", "ncc", "certified")


def inspect(place: str) -> dict[str, Any]:
    """What lies at a path or s3:// URI, JSON-able; `kind` is `library` or `run`.

    Raises MissingError when it is neither.
    """
    found = open_place(place)
    return _library(found) if isinstance(found, Library) else _run(found)


def _library(library: Library) -> dict[str, Any]:
    summaries = read_index_summaries(library.location)
    receipts = library.committed.receipts.values()
    shards = {shard.sha256: shard.bytes for summary in summaries for shard in summary.shards}
    parts = sum(table.bytes for receipt in receipts for table in receipt.tables)
    trees = sum(summary.tree_bytes + _members_bytes(library, summary) for summary in summaries)
    return {
        "kind": "library",
        "place": library.location.uri,
        **_encoder(library.config.encoder),
        "stride": library.config.stride,
        "max_patches": library.config.max_patches,
        "snapshot": library.committed.snapshot,
        "images": sum(receipt.images for receipt in receipts),
        "distinct_images": sum(table.rows for table in library.committed.parts(layout.IMAGES).values()),
        "patches": library.patches,
        "rejects": _rejects(library),
        "units": _units(library),
        "bytes": {"tables": parts, "indexes": sum(shards.values()) + trees},
        "indexes": [_index(library, summary) for summary in summaries],
    }


def _index(library: Library, summary: IndexSummary) -> dict[str, Any]:
    shards = sum(shard.bytes for shard in summary.shards)
    return {
        "digest": summary.digest,
        "state": "current" if summary.snapshot == library.committed.snapshot else "stale",
        "match_space": summary.config.match_space,
        "leaves": summary.leaves,
        "patches": summary.patches,
        "kept": summary.kept,
        "merged_share": round(1 - summary.kept / summary.patches, 6),
        "bytes": shards + summary.tree_bytes + _members_bytes(library, summary),
    }


def _run(run: Run) -> dict[str, Any]:
    matches = Matches()
    for part in run.committed.parts(layout.PROVENANCE).values():
        matches.add(read_table(run.location, part, MATCH_COLUMNS))
    receipts = run.committed.receipts.values()
    config = run.config
    return {
        "kind": "run",
        "place": run.location.uri,
        "library": named_library(run) if matches.patches else None,
        "index": run.header.index_digest,
        **(_encoder(run.header.encoder) if run.header.encoder else {}),
        "swap": config["swap"],
        "alpha": config["alpha"],
        "search": config["search"],
        "query_stride": config["query_stride"],
        "images": sum(receipt.images for receipt in receipts),
        "patches": sum(receipt.patches for receipt in receipts),
        "rejects": _rejects(run),
        "units": _units(run),
        "bytes": {
            "tables": sum(table.bytes for receipt in receipts for table in receipt.tables),
            "images": sum(output[1] for receipt in receipts for output in receipt.outputs if output),
        },
        "seconds": _seconds(run),
        "ncc": {
            "mean": matches.ncc_mean,
            "edges": [round(edge / BINS, 6) for edge in range(BINS + 1)],
            "counts": matches.histogram.tolist(),
        },
        "certified_share": matches.certified_share,
        "sources": _sources(run, matches),
    }


def _sources(run: Run, matches: Matches) -> list[dict[str, Any]]:
    """The images used most; without URIs when the library is not at hand."""
    top = matches.top(TOP_SOURCES)
    try:
        images = source_images(library_of(run), [image_id for image_id, _ in top]) if top else {}
    except (StorageError, MismatchError):
        images = {}
    return [
        {
            "image_id": image_id,
            "share": round(share, 6),
            "uris": list(images[image_id].uris) if image_id in images else [],
        }
        for image_id, share in top
    ]


def _encoder(config: EncoderConfig) -> dict[str, Any]:
    return {
        "encoder": config.encoder,
        "weights_sha256": config.weights_sha256,
        "layer": config.layer,
        "size": config.size,
    }


def _rejects(place: Library | Run) -> dict[str, int]:
    """Rejected inputs by reason, the commonest first."""
    reasons = Counter(place.committed.rejects.rows["reason"].to_pylist())
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def _units(place: Library | Run) -> dict[str, int]:
    return {"done": len(place.committed.receipts), "planned": len(place.committed.ledger.units())}


def _seconds(run: Run) -> dict[str, float]:
    """Worker seconds per stage, over all units."""
    total: defaultdict[str, float] = defaultdict(float)
    for receipt in run.committed.receipts.values():
        for stage, seconds in receipt.timings.items():
            total[stage] += seconds
    return {stage: round(seconds, 3) for stage, seconds in total.items()}


def _members_bytes(library: Library, summary: IndexSummary) -> int:
    try:
        return library.location.size(layout.members_path(summary.digest))
    except MissingError:  # an index is a cache, and someone may have thinned it out
        return 0
