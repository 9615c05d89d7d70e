"""From the patches of one top-level cluster to its leaves: equal patches collapsed, split, near-duplicates merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.config import IndexConfig
from kt_batch.index.shards import PART, match_parts
from kt_batch.index.tree import Subtree
from kt_batch.kernels.haar import mean_and_std
from kt_batch.kernels.kmeans import ArrayPoints, assign, spherical_kmeans
from kt_batch.kernels.principal import first_level
from kt_batch.kernels.tiles import normalise

SAMPLE_PER_CLUSTER = 256
NORM_RATIO = 1.05  # merged patches also agree in length: a swap uses raw values, and NCC does not see brightness
MERGE_BLOCK = 4096  # rows compared with each other; a leaf that holds more (fixed clusters) is merged block by block


@dataclass(frozen=True)
class Packed:
    """One packed cluster: `order` `(n_kept,)` int64 rows of the input in leaf order, `owner` `(n,)` int64: for every
    input row the row that represents it (itself when kept)."""

    order: Tensor
    owner: Tensor
    subtree: Subtree


@dataclass(frozen=True)
class ClusterSpace:
    """Where clusters are made: in the principal coordinates of unit vectors, which is a fraction of the work and, with
    128 of 1024, found the right leaf as often; with fixed numbers per level, the paper's setting, in all D values."""

    config: IndexConfig
    directions: Tensor

    def points(self, vectors: Tensor) -> Tensor:
        """Unit vectors `(n, D)` -> the unit vectors `(n, p)` that are clustered."""
        return vectors if self.config.clusters else normalise(first_level(vectors, self.directions)[:, :-1])

    def points_of(self, packets: Tensor, rows: Tensor, mean: Tensor) -> Tensor:
        """The points `(m, p)` of rows `(m,)` of packets `(n, 4, C)`, PART at a time: float32 takes twice the room."""
        return torch.cat([self.points(match_parts(packets[part], mean)[0]) for part in rows.split(PART)])

    def lift(self, centres: Tensor) -> Tensor:
        """Centres `(k, p)` as unit vectors `(k, D)`."""
        return centres if self.config.clusters else normalise(centres @ self.directions.T)


def pack(
    packets: Tensor,
    mean: Tensor,
    centre: Tensor,
    space: ClusterSpace,
    level: int,
    pulse: Callable[[], object] = lambda: None,
) -> Packed:
    """Pack one cluster.

    packets `(n, 4, C)` float16 by ascending patch id, n >= 1; mean `(4, C)`; centre `(p,)` the cluster's own, in
    `space`. `level` is how many levels of `config.clusters` are used up already. `pulse` is called between pieces of
    the work: the beginning, every split, every leaf.
    """
    pulse()
    owner = collapse_equal(packets)
    distinct = (owner == torch.arange(len(owner), device=owner.device)).nonzero()[:, 0]
    pulse()
    builder = _Builder(space.config, space.points_of(packets, distinct, mean), centre, pulse)
    builder.split(0, torch.arange(len(distinct), device=distinct.device), level)
    order: list[Tensor] = []
    counts = []
    for members in builder.leaves:
        pulse()
        rows = distinct[members]
        kept, represents = _merged(packets[rows], mean, space.config.merge)
        owner[rows] = rows[represents]
        order.append(rows[kept])
        counts.append(len(kept))
    kept_rows = torch.cat(order)
    subtree = Subtree(
        centres=space.lift(torch.stack(builder.centres)),
        first_child=torch.tensor(builder.first_child, device=packets.device),
        child_count=torch.tensor(builder.child_count, device=packets.device),
        leaf=torch.tensor(builder.leaf, device=packets.device),
        leaf_count=torch.tensor(counts, device=packets.device),
        deviation_sum=sum(
            (mean_and_std(packets[rows].float())[1].double().sum(0) for rows in kept_rows.split(PART)),
            torch.zeros(packets.shape[2], dtype=torch.float64, device=packets.device),
        ),
    )
    return Packed(kept_rows, owner[owner], subtree)


def _merged(packets: Tensor, mean: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """`merge_near` of the packets `(m, 4, C)` of one leaf."""
    if threshold >= 1:
        everyone = torch.arange(len(packets), device=packets.device)
        return everyone, everyone
    norms = packets.double().square().sum((1, 2)).sqrt()
    return merge_near(match_parts(packets, mean)[0], norms, threshold)


class _Builder:
    """Grows the node arrays while clusters are split."""

    def __init__(self, config: IndexConfig, vectors: Tensor, centre: Tensor, pulse: Callable[[], object]) -> None:
        self.config = config
        self.pulse = pulse
        self.vectors = vectors
        self.centres = [centre]
        self.first_child = [0]
        self.child_count = [0]
        self.leaf = [-1]
        self.leaves: list[Tensor] = []

    def split(self, node: int, members: Tensor, level: int) -> None:
        """Split `members` (rows, ascending) below `node`, or make it a leaf."""
        self.pulse()
        k = fan_out(len(members), level, self.config)
        groups = self._cluster(members, k) if k > 1 else []
        if len(groups) < 2:
            self.leaf[node] = len(self.leaves)
            self.leaves.append(members)
            return
        self.first_child[node] = len(self.centres)
        self.child_count[node] = len(groups)
        first = len(self.centres)
        for centre, _ in groups:
            self.centres.append(centre)
            self.first_child.append(0)
            self.child_count.append(0)
            self.leaf.append(-1)
        for number, (_, rows) in enumerate(groups):
            self.split(first + number, rows, level + 1)

    def _cluster(self, members: Tensor, k: int) -> list[tuple[Tensor, Tensor]]:
        """(centre, rows) of each cluster that is not empty."""
        vectors = self.vectors[members]
        picked = spread(len(members), SAMPLE_PER_CLUSTER * k, members.device)
        sample = ArrayPoints(vectors[picked])
        centres = spherical_kmeans(sample, k, self.config.iterations, len(picked), self.config.seed)
        labels, _ = assign(vectors, centres)
        found = [(centres[j], members[labels == j]) for j in range(k)]
        return [(centre, rows) for centre, rows in found if len(rows)]


def fan_out(count: int, level: int, config: IndexConfig) -> int:
    """Into how many clusters `count` patches are split at `level`; 1 makes a leaf.

    Fixed numbers per level where `config.clusters` gives them. Otherwise a node within reach of its leaves is split
    into as many as make leaves of two thirds of `max_leaf`, and a larger one into `config.fan_out`.
    """
    if config.clusters:
        return min(config.clusters[level], count) if level < len(config.clusters) else 1
    if count <= config.max_leaf:
        return 1
    return min(config.fan_out, -(-3 * count // (2 * config.max_leaf)))


def spread(count: int, size: int, device: torch.device | str = "cpu") -> Tensor:
    """At most `size` row numbers spread evenly over `count` rows."""
    if count <= size:
        return torch.arange(count, device=device)
    return torch.arange(size, device=device) * count // size


def collapse_equal(packets: Tensor) -> Tensor:
    """For each of n rows the first row with the very same bytes, `(n,)` int64."""
    raw = packets.contiguous().flatten(1).view(torch.int16).numpy().view(np.uint16)
    owner = np.arange(len(raw), dtype=np.int64)
    groups = _groups(_row_hashes(raw))
    for rows in groups:
        for row in rows[1:]:
            same = next((r for r in rows if r < row and owner[r] == r and np.array_equal(raw[r], raw[row])), row)
            owner[row] = same
    return torch.from_numpy(owner)


def _row_hashes(raw: NDArray[np.uint16]) -> NDArray[np.uint64]:
    factors = np.random.default_rng(0).integers(1, 2**63, raw.shape[1], dtype=np.uint64) | np.uint64(1)
    out = np.empty(len(raw), dtype=np.uint64)
    for start in range(0, len(raw), 4096):
        out[start : start + 4096] = (raw[start : start + 4096] * factors).sum(1, dtype=np.uint64)
    return out


def _groups(hashes: NDArray[np.uint64]) -> list[NDArray[np.int64]]:
    """Rows of equal hash, ascending, for each hash that occurs more than once."""
    order = np.argsort(hashes, kind="stable")
    edges = np.flatnonzero(np.diff(hashes[order])) + 1
    return [np.sort(rows) for rows in np.split(order, edges) if len(rows) > 1]


def merge_near(vectors: Tensor, norms: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Merge near-duplicates of one leaf.

    vectors `(m, D)` unit, norms `(m,)` of the raw patches, rows by ascending patch id. A row joins the first earlier
    leader with cosine >= threshold and a norm within NORM_RATIO; the group is then represented by its medoid, the
    member with the largest sum of cosines to the others (ties to the smaller id). Returns the kept rows, ascending,
    and for each row the row that represents it.
    """
    count = len(vectors)
    everyone = torch.arange(count, device=vectors.device)
    if threshold >= 1 or count < 2:
        return everyone, everyone
    if count > MERGE_BLOCK:
        blocks = everyone.split(MERGE_BLOCK)
        represents = torch.cat([b[merge_near(vectors[b], norms[b], threshold)[1]] for b in blocks])
        return represents.unique(), represents
    cosine = vectors @ vectors.T
    ratio = norms[:, None] / norms[None].clamp(min=1e-12)
    near = (cosine >= threshold) & (ratio <= NORM_RATIO) & (ratio >= 1 / NORM_RATIO)
    near.fill_diagonal_(True)
    earlier = near & (everyone[None] < everyone[:, None])
    if not earlier.any():
        return everyone, everyone
    leader = list(range(count))
    for row in earlier.any(1).nonzero()[:, 0].tolist():
        leader[row] = next((j for j in earlier[row].nonzero()[:, 0].tolist() if leader[j] == j), row)
    groups = torch.tensor(leader, device=vectors.device)
    represents = everyone.clone()
    for head in groups.unique().tolist():
        members = (groups == head).nonzero()[:, 0]
        if len(members) > 1:
            centrality = cosine[members][:, members].double().sum(1)
            represents[members] = members[centrality.argmax()]
    return represents.unique(), represents
