"""Sum provenance: which sources were used how much, and how well patches matched."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kt_batch.store.schemas import ProvenanceKind

BINS = 20  # of the NCC histogram, over [0, 1]

USAGE_COLUMNS: dict[ProvenanceKind, tuple[str, ...]] = {
    "patches": ("rank", "weight", "source_image_id", "ncc", "certified"),
    "sources": ("output", "source_image_id", "source_uri", "share"),
}


def _weights() -> defaultdict[str, float]:
    return defaultdict(float)


@dataclass
class Matches:
    """Sums over provenance per patch, of a run or of one output.

    NCC and certificates are those of the best matches. Weights are those of all matches and sum to 1 for each patch.
    """

    patches: int = 0
    certified: int = 0
    ncc_sum: float = 0.0
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    weights: defaultdict[str, float] = field(default_factory=_weights)  # by source image id

    def add(self, provenance: pa.Table) -> None:
        """Add the rows of a provenance table."""
        first = provenance["rank"].to_numpy() == 0
        ncc = provenance["ncc"].to_numpy()[first].astype(np.float64)
        self.patches += int(first.sum())
        self.certified += int(np.count_nonzero(provenance["certified"].to_numpy()[first]))
        self.ncc_sum += float(ncc.sum())
        self.histogram += np.histogram(ncc.clip(0.0, 1.0), BINS, (0.0, 1.0))[0]
        _add_weights(self.weights, provenance, "weight")

    @property
    def ncc_mean(self) -> float | None:
        """Return the mean NCC; None without a match."""
        return round(self.ncc_sum / self.patches, 6) if self.patches else None

    @property
    def certified_share(self) -> float | None:
        """Return the share of certified matches; None without a match."""
        return round(self.certified / self.patches, 6) if self.patches else None

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the most used image ids with their share of all patches, ties by id."""
        return _top(self.weights, self.patches, count)


@dataclass
class Shares:
    """Sums over provenance per source, of a run or of one output.

    The shares of one output sum to 1.
    """

    outputs: int = 0
    weights: defaultdict[str, float] = field(default_factory=_weights)  # by source image id
    uris: dict[str, str] = field(default_factory=dict)  # by source image id

    def add(self, provenance: pa.Table) -> None:
        """Add the rows of a provenance table that holds all rows of each of its outputs."""
        self.outputs += len(provenance["output"].unique())
        _add_weights(self.weights, provenance, "share")
        pairs = provenance.select(["source_image_id", "source_uri"]).group_by(["source_image_id", "source_uri"])
        for row in pairs.aggregate([]).to_pylist():
            self.uris.setdefault(row["source_image_id"].hex(), row["source_uri"])

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the most used image ids with their mean share of an output, ties by id."""
        return _top(self.weights, self.outputs, count)


def new_usage(kind: ProvenanceKind) -> Matches | Shares:
    """Return empty sums for provenance of this kind."""
    return Matches() if kind == "patches" else Shares()


def _add_weights(weights: defaultdict[str, float], provenance: pa.Table, column: str) -> None:
    totals = provenance.group_by("source_image_id", use_threads=False).aggregate([(column, "sum")])
    for row in totals.to_pylist():
        weights[row["source_image_id"].hex()] += row[f"{column}_sum"]


def _top(weights: dict[str, float], total: int, count: int) -> list[tuple[str, float]]:
    if not total:
        return []
    ranked = sorted(weights.items(), key=lambda item: (-item[1], item[0]))
    return [(image_id, weight / total) for image_id, weight in ranked[:count] if weight > 0]
