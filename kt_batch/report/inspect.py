"""The content of a library or a run in numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from kt_batch.config import EncoderConfig
from kt_batch.errors import MissingError
from kt_batch.report.recorded_edits import edit_facts
from kt_batch.report.session import Session
from kt_batch.report.sources import further_places
from kt_batch.report.usage import BINS, USAGE_COLUMNS, Matches, Shares, new_usage
from kt_batch.store import layout
from kt_batch.store.committed import Committed
from kt_batch.store.indexes import IndexSummary, read_index_summaries
from kt_batch.store.library import Library
from kt_batch.store.opening import open_place
from kt_batch.store.paired import PairedLibrary, read_fit_summaries
from kt_batch.store.run import Run, RunHeader, coarse_provenance
from kt_batch.store.statistics import StatisticsSummary, read_statistics_summaries

TOP_SOURCES = 10


def inspect(place: str) -> dict[str, Any]:
    """Return what lies at a path or URI as JSON-able values.

    The value of `kind` is `library`, `pairs` or `run`.

    Raises:
        MissingError: it is neither.
    """
    opened = open_place(place)
    if isinstance(opened, PairedLibrary):
        return _inspect_pairs(opened)
    return _inspect_library(opened) if isinstance(opened, Library) else inspect_run(Session(opened))


def _inspect_library(library: Library) -> dict[str, Any]:
    summaries = read_index_summaries(library.location)
    receipts = library.committed.receipts.values()
    shards = {shard.sha256: shard.bytes for summary in summaries for shard in summary.shards}
    parts = sum(table.bytes for receipt in receipts for table in receipt.tables)
    trees = sum(_own_bytes(library, summary) for summary in summaries)
    return {
        "kind": "library",
        "place": library.location.uri,
        **_encoder(library.config.encoder),
        "stride": library.config.stride,
        "max_patches": library.config.max_patches,
        "working_images": sum(table.rows for table in library.committed.parts(layout.WORKING).values()),
        "snapshot": library.committed.snapshot,
        "images": sum(receipt.images for receipt in receipts),
        "distinct_images": sum(table.rows for table in library.committed.parts(layout.IMAGES).values()),
        "patches": library.patches,
        "patches_also": {str(key): library.patches_at(key) for key in library.config.keys[1:]},
        "rejects": _rejects(library.committed),
        "units": _units(library.committed),
        "bytes": {"tables": parts, "indexes": sum(shards.values()) + trees},
        "indexes": [_index(library, summary) for summary in summaries],
        "statistics": [_statistics(library, summary) for summary in read_statistics_summaries(library.location)],
    }


def _inspect_pairs(library: PairedLibrary) -> dict[str, Any]:
    receipts = library.committed.receipts.values()
    fits = read_fit_summaries(library.location)
    return {
        "kind": "pairs",
        "place": library.location.uri,
        "size": library.config.size,
        "snapshot": library.committed.snapshot,
        "pairs": library.pairs if receipts else 0,
        "rejects": _rejects(library.committed),
        "units": _units(library.committed),
        "bytes": {
            "tables": sum(table.bytes for receipt in receipts for table in receipt.tables),
            "fits": sum(fit.arrays_bytes for fit in fits),
        },
        "fits": [
            {
                "digest": fit.digest,
                "state": "current" if fit.snapshot == library.committed.snapshot else "stale",
                "pairs": fit.pairs,
                "bytes": fit.arrays_bytes,
            }
            for fit in fits
        ],
    }


def _index(library: Library, summary: IndexSummary) -> dict[str, Any]:
    """Return what an index holds. `generation` is what it has grown from, `share` that of the patches added since."""
    grown = summary.generation
    shards = sum(shard.bytes for shard in summary.shards)
    return {
        "digest": summary.digest,
        "key": str(summary.key(library)),
        "state": "current" if summary.snapshot == library.committed.snapshot else "stale",
        "match_space": summary.config.match_space,
        "leaves": summary.leaves,
        "patches": summary.patches,
        "kept": summary.kept,
        "merged_share": round(1 - summary.kept / summary.patches, 6) if summary.patches else 0.0,
        "generation": grown.digest if grown else None,
        "share": round(1 - grown.patches / summary.patches, 6) if grown else 0.0,
        "bytes": shards + _own_bytes(library, summary),
    }


def _statistics(library: Library, summary: StatisticsSummary) -> dict[str, Any]:
    return {
        "digest": summary.digest,
        "key": str(summary.key),
        "state": "current" if summary.snapshot == library.committed.snapshot else "stale",
        "images": summary.images,
        "count": summary.count,
    }


def inspect_run(session: Session) -> dict[str, Any]:
    """Return what an opened run holds.

    `edits` is there for runs that record edits. The method's own settings stand under their own names. A setting whose
    name is taken by a fact gets the method's name in front.
    """
    run, usage = session.run, _usage(session)
    receipts = run.committed.receipts.values()
    matches = usage if isinstance(usage, Matches) else None
    facts: dict[str, Any] = {
        "images": sum(receipt.images for receipt in receipts),
        "patches": sum(receipt.patches for receipt in receipts),
        "rejects": _rejects(run.committed),
        "units": _units(run.committed),
        "bytes": {
            "tables": sum(table.bytes for receipt in receipts for table in receipt.tables),
            "images": sum(output[1] for receipt in receipts for output in receipt.outputs if output),
        },
        "seconds": _seconds(run),
        "ncc": _ncc(matches) if matches else None,
        "certified_share": matches.certified_share if matches else None,
        "sources": _sources(session, usage),
    }
    if (edits := edit_facts(run)) is not None:
        facts["edits"] = edits
    head = {
        "kind": "run",
        "place": run.location.uri,
        "method": run.header.method,
        "library": session.named_library if any(receipt.images for receipt in receipts) else None,
        **(
            {"library_weight": run.header.library_weight, "further_libraries": _further(run)}
            if run.header.further_libraries
            else {}
        ),
        "index": run.header.index_digest,
        **(_encoder(run.header.encoder) if run.header.encoder else {}),
    }
    taken = head.keys() | facts.keys()
    settings = {f"{run.header.method}_{key}" if key in taken else key: run.config[key] for key in own_settings(run)}
    return {**head, **settings, **facts}


def _further(run: Run) -> list[dict[str, Any]]:
    """Return place, index and weight of each library beside the first one."""
    named = zip(further_places(run), run.header.further_libraries, strict=False)
    return [{"library": place, "index": each.index_digest, "weight": each.weight} for place, each in named]


def own_settings(run: Run) -> list[str]:
    """Return the names of the method's own settings.

    The other fields of a configuration are those of every run's header.
    """
    return [key for key in run.config if key not in RunHeader.model_fields or key in ("format", "output", "series")]


def _usage(session: Session) -> Matches | Shares:
    """Return the sums over all provenance of a run; of a method with levels, over the coarse one.

    Before the first result they are empty.
    """
    kind = session.provenance_kind
    usage = new_usage(kind)
    for part in session.run.committed.parts(layout.PROVENANCE).values():
        usage.add(coarse_provenance(session.run, part, USAGE_COLUMNS[kind]))
    return usage


def _ncc(matches: Matches) -> dict[str, Any]:
    return {
        "mean": matches.ncc_mean,
        "edges": [round(edge / BINS, 6) for edge in range(BINS + 1)],
        "counts": matches.histogram.tolist(),
    }


def _sources(session: Session, usage: Matches | Shares) -> list[dict[str, Any]]:
    """Return the most used images.

    URIs come from the library, or from provenance per source.
    """
    top = usage.top(TOP_SOURCES)
    if isinstance(usage, Shares):
        uris = {image_id: [uri] for image_id, uri in usage.uris.items()}
    else:
        images = session.images([image_id for image_id, _ in top])
        uris = {image_id: list(image.uris) for image_id, image in images.items()}
    return [{"image_id": image_id, "share": round(share, 6), "uris": uris.get(image_id, [])} for image_id, share in top]


def _encoder(config: EncoderConfig) -> dict[str, Any]:
    return {
        "encoder": config.encoder,
        "weights_sha256": config.weights_sha256,
        "layer": config.layer,
        "size": config.size,
    }


def _rejects(committed: Committed) -> dict[str, int]:
    """Count rejected inputs by reason, the most frequent first."""
    reasons = Counter(committed.rejects.rows["reason"].to_pylist())
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def _units(committed: Committed) -> dict[str, int]:
    return {"done": len(committed.receipts), "planned": len(committed.ledger.units())}


def _seconds(run: Run) -> dict[str, float]:
    """Sum worker seconds per stage over all units."""
    total: defaultdict[str, float] = defaultdict(float)
    for receipt in run.committed.receipts.values():
        for stage, seconds in receipt.timings.items():
            total[stage] += seconds
    return {stage: round(seconds, 3) for stage, seconds in total.items()}


def _own_bytes(library: Library, summary: IndexSummary) -> int:
    """Return the bytes of the tree, the leaves, and the lists of merged patches and, if there is one, of parts."""
    paths = [layout.members_path(summary.digest)]
    if summary.parts_sha256:
        paths.append(layout.covered_parts_path(summary.digest))
    return summary.tree_bytes + (summary.leaves_bytes or 0) + sum(_size(library, path) for path in paths)


def _size(library: Library, path: str) -> int:
    try:
        return library.location.size(path)
    except MissingError:  # an index is a cache, and its files may have been removed
        return 0
