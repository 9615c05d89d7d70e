"""Pack a top-level cluster into leaves: collapse equal patches, split the cluster, merge near-duplicates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.config import IndexConfig
from kt_batch.index.shards import PART, ROWS, match_parts
from kt_batch.index.tree import Subtree
from kt_batch.kernels.haar import mean_and_std
from kt_batch.kernels.kmeans import ArrayPoints, assign, spherical_kmeans
from kt_batch.kernels.principal import first_level
from kt_batch.kernels.tiles import normalise

SAMPLE_PER_CLUSTER = 256
NORM_RATIO = 1.05  # of merged patches: NCC ignores brightness, and a swap transfers it
DEEPEST = 64  # levels of splits by k-means; millions of patches have five or six
MERGE_BLOCK = 4096  # rows compared with each other; a larger leaf (fixed clusters) is merged block by block


@dataclass(frozen=True)
class Packed:
    """A packed cluster of n input rows.

    order: `(n_kept,)` int64, the kept rows in leaf order.
    owner: `(n,)` int64, the kept row that represents each row; a kept row represents itself.
    """

    order: Tensor
    owner: Tensor
    subtree: Subtree

    def on_processor(self) -> Packed:
        """Return the same in the memory of the processor."""
        return Packed(self.order.cpu(), self.owner.cpu(), self.subtree.on_processor())


@dataclass(frozen=True)
class ClusterSpace:
    """The space in which patches are clustered.

    It is that of principal coordinates, a fraction of the work: 128 of 1024 find the right leaf as often. With fixed
    numbers per level, the paper's setting, it is that of all D values.
    """

    config: IndexConfig
    directions: Tensor

    def points(self, vectors: Tensor) -> Tensor:
        """Return the unit vectors `(n, p)` that are clustered for unit vectors `(n, D)`."""
        return vectors if self.config.clusters else normalise(first_level(vectors, self.directions)[:, :-1])

    def points_of(self, packets: Tensor, rows: Tensor, mean: Tensor) -> Tensor:
        """Return the points `(m, p)` of rows `(m,)` of packets `(n, 4, C)` float16, ROWS at a time to bound memory."""
        values, directions = self.directions.shape
        points = torch.empty(len(rows), values if self.config.clusters else directions, device=packets.device)
        for part, out in zip(rows.split(ROWS), points.split(ROWS), strict=True):
            out.copy_(self.points(match_parts(packets[part], mean)[0]))
        return points

    def lift(self, centres: Tensor) -> Tensor:
        """Return centres `(k, p)` as unit vectors `(k, D)`."""
        return centres if self.config.clusters else normalise(centres @ self.directions.T)


def pack(
    packets: Tensor,
    mean: Tensor,
    centre: Tensor,
    space: ClusterSpace,
    level: int,
    pulse: Callable[[], object] = lambda: None,
) -> Packed:
    """Pack one cluster, on the device of its packets.

    Args:
        packets: `(n, 4, C)` float16 by ascending patch id, n >= 1.
        mean: `(4, C)` float32, subtracted in match space.
        centre: The cluster's centre `(p,)`, in `space`.
        space: Where patches are clustered.
        level: Levels of `config.clusters` above this cluster.
        pulse: Called between parts of the work: at the beginning, at every split, and at every leaf.
    """
    pulse()
    owner = collapse_equal(packets)
    distinct = (owner == torch.arange(len(owner), device=owner.device)).nonzero()[:, 0]
    pulse()
    builder = _Builder(space.config, space.points_of(packets, distinct, mean), centre, pulse)
    builder.split(0, torch.arange(len(distinct), device=distinct.device), level)
    del builder.vectors  # a hundred megabytes
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
        deviation_sum=_deviation_sum(packets, kept_rows),
    )
    return Packed(kept_rows, owner[owner], subtree)


def _deviation_sum(packets: Tensor, rows: Tensor) -> Tensor:
    """Return the sum `(C,)` float64 of the deviations of rows of packets, in blocks of fixed size."""
    total = torch.zeros(packets.shape[2], dtype=torch.float64, device=packets.device)
    deviations = torch.empty(min(PART, len(rows)), packets.shape[2], dtype=torch.float64, device=packets.device)
    for block in rows.split(PART):
        for part, out in zip(block.split(ROWS), deviations.split(ROWS), strict=False):
            out[: len(part)] = mean_and_std(packets[part].float())[1]
        total += deviations[: len(block)].sum(0)
    return total


def _merged(packets: Tensor, mean: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Merge the near-duplicates of one leaf of packets `(m, 4, C)`: see `merge_near`."""
    if threshold >= 1:
        everyone = torch.arange(len(packets), device=packets.device)
        return everyone, everyone
    norms = packets.double().square().sum((1, 2)).sqrt()
    return merge_near(match_parts(packets, mean)[0], norms, threshold)


class _Builder:
    """Builds the node arrays while clusters are split."""

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
        """Split the ascending rows `members` below `node`, or make `node` a leaf."""
        self.pulse()
        k = fan_out(len(members), level, self.config)
        groups = self._groups(node, members, k, level) if k > 1 else []
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

    def _groups(self, node: int, members: Tensor, k: int, level: int) -> list[tuple[Tensor, Tensor]]:
        """Return (centre, rows) of each child: clusters, or below DEEPEST levels plain parts that fit into a leaf.

        Patches can be such that every split takes off but a few of them.
        """
        if level < DEEPEST or self.config.clusters:
            return self._cluster(members, k)
        return [(self.centres[node], part) for part in members.split(self.config.max_leaf)]

    def _cluster(self, members: Tensor, k: int) -> list[tuple[Tensor, Tensor]]:
        """Return (centre, rows) of each cluster that is not empty."""
        vectors = self.vectors if len(members) == len(self.vectors) else self.vectors[members]
        picked = spread(len(members), SAMPLE_PER_CLUSTER * k, members.device)
        sample = ArrayPoints(vectors[picked])
        centres = spherical_kmeans(sample, k, self.config.iterations, len(picked), self.config.seed)
        labels, _ = assign(vectors, centres)
        found = [(centres[j], members[labels == j]) for j in range(k)]
        return [(centre, rows) for centre, rows in found if len(rows)]


def fan_out(count: int, level: int, config: IndexConfig) -> int:
    """Return the number of clusters into which `count` patches are split at `level`; 1 makes a leaf.

    `config.clusters` fixes the numbers per level. Without it, a node is split into as many clusters as give leaves of
    two thirds of `max_leaf`, at most `config.fan_out`.
    """
    if config.clusters:
        return min(config.clusters[level], count) if level < len(config.clusters) else 1
    if count <= config.max_leaf:
        return 1
    return min(config.fan_out, -(-3 * count // (2 * config.max_leaf)))


def spread(count: int, size: int, device: torch.device | str = "cpu") -> Tensor:
    """Return at most `size` row numbers, spread evenly over `count` rows."""
    if count <= size:
        return torch.arange(count, device=device)
    return torch.arange(size, device=device) * count // size


def collapse_equal(packets: Tensor) -> Tensor:
    """Return for each of n rows the first row with the same bytes, `(n,)` int64."""
    raw = packets.cpu().contiguous().flatten(1).view(torch.int16).numpy().view(np.uint16)
    owner = np.arange(len(raw), dtype=np.int64)
    for rows in _groups(_row_hashes(raw)):
        equal = np.concatenate(
            [(raw[part] == raw[rows[0]]).all(1) for part in np.array_split(rows, -(-len(rows) // PART))]
        )
        owner[rows[equal]] = rows[0]
        others = rows[~equal]
        if len(others):  # different patches of one hash, which a stranger can make on purpose
            whole = np.ascontiguousarray(raw[others]).view(f"V{raw.shape[1] * raw.itemsize}")[:, 0]
            _, first, which = np.unique(whole, return_index=True, return_inverse=True)
            owner[others] = others[first[which]]
    return torch.from_numpy(owner).to(packets.device)


def _row_hashes(raw: NDArray[np.uint16]) -> NDArray[np.uint64]:
    factors = np.random.default_rng(0).integers(1, 2**63, raw.shape[1], dtype=np.uint64) | np.uint64(1)
    out = np.empty(len(raw), dtype=np.uint64)
    for start in range(0, len(raw), 4096):
        out[start : start + 4096] = (raw[start : start + 4096] * factors).sum(1, dtype=np.uint64)
    return out


def _groups(hashes: NDArray[np.uint64]) -> list[NDArray[np.int64]]:
    """Return the ascending rows of each hash that occurs more than once."""
    order = np.argsort(hashes, kind="stable")
    edges = np.flatnonzero(np.diff(hashes[order])) + 1
    return [np.sort(rows) for rows in np.split(order, edges) if len(rows) > 1]


def _leaders(earlier: Tensor) -> Tensor:
    """Return the leader `(m,)` of each row: the first leader among the earlier rows near it, or the row itself.

    earlier: `(m, m)` bool, the earlier rows near each row.
    """
    near = earlier.cpu().numpy()
    leader, leads = np.arange(len(near)), np.ones(len(near), dtype=bool)
    for row in np.flatnonzero(near.any(1)):
        candidates = near[row, :row] & leads[:row]
        first = candidates.argmax()
        if candidates[first]:
            leader[row], leads[row] = first, False
    return torch.from_numpy(leader).to(earlier.device)


def merge_near(vectors: Tensor, norms: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Merge near-duplicates of one leaf.

    A row joins the first earlier leader with cosine >= threshold and a norm within NORM_RATIO. The medoid represents a
    group: the member with the largest sum of cosines to the others, ties to the smaller id.

    Args:
        vectors: Unit vectors `(m, D)`, by ascending patch id.
        norms: Norms of the raw patches, `(m,)`.
        threshold: The least cosine of a merged row and its leader.

    Returns:
        The kept rows, ascending, and for each of the m rows the row that represents it.
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
    groups = _leaders(earlier)
    represents = everyone.clone()
    for head in groups.unique().tolist():
        members = (groups == head).nonzero()[:, 0]
        if len(members) > 1:
            centrality = cosine[members][:, members].double().sum(1)
            represents[members] = members[centrality.argmax()]
    return represents.unique(), represents
