"""Synthetic patches like those of a network, and indexes of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.config import IndexConfig
from kt_batch.index.ids import pack_ids, sort_order
from kt_batch.index.index import Index, build_in_memory, library_mean
from kt_batch.index.packing import ClusterSpace, pack
from kt_batch.index.shards import make_shard, match_parts
from kt_batch.index.tree import join
from kt_batch.kernels.haar import haar
from kt_batch.kernels.kmeans import ArrayPoints, assign, spherical_kmeans
from kt_batch.kernels.quantised import fit_basis
from kt_batch.kernels.tiles import canonical_scores

Ids = NDArray[np.uint8]


def clustered(count: int, channels: int = 8, clusters: int = 12, seed: int = 0, spread: float = 0.3) -> Tensor:
    """Return `(count, 4, channels)` float32 patches around a few directions, after a ReLU.

    The directions depend on `clusters` and `channels` alone, so that patches of two seeds have neighbours.
    """
    centres = torch.randn(clusters, 4, channels, generator=torch.Generator().manual_seed(clusters))
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(clusters, (count,), generator=generator)
    noise = torch.randn(count, 4, channels, generator=generator) * spread
    brightness = 0.5 + torch.rand(count, 1, 1, generator=generator)
    return ((centres[label] + noise) * brightness).relu()


def ids_of(count: int, seed: int = 0) -> Ids:
    """Return `(count, 12)` distinct patch ids of one image in random order."""
    place = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
    return pack_ids("00ff7f8001020304", place // 300, place % 300)


def packets_of(cells: Tensor) -> Tensor:
    """Return the float16 Haar packets that a library stores for patches `(n, 4, C)`."""
    return haar(cells).half()


def leaf_level(index: Index, leaf: int) -> Tensor:
    """Return the first level `(c, d + 1)` float32 of the c patches of a leaf."""
    shard, start, count, _ = index.leaf_rows(leaf)
    return shard.level[start : start + count].float()


def index_of(cells: Tensor, config: IndexConfig | None = None, ids: Ids | None = None) -> Index:
    """Return an index of `(n, 4, C)` patches in one shard.

    By default leaves are small and only equal patches are merged.
    """
    ids = ids_of(len(cells)) if ids is None else ids
    return build_in_memory(packets_of(cells), ids, config or IndexConfig(max_leaf=16, merge=1))


def brute_force(index: Index, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return rows and scores `(n, k)` of the k best kept patches for `(n, 4, C)` queries.

    Every canonical score is computed; ties go to the smaller id. A smaller index gives fewer columns."""
    asked, _ = match_parts(haar(queries), index.tree.mean)
    everything = torch.arange(index.count)
    library, ids = index.keys(everything), [row.tobytes() for row in index.patch_ids(everything)]
    rank = np.empty(index.count, np.int64)
    rank[sorted(range(index.count), key=ids.__getitem__)] = np.arange(index.count)
    rows, scores = [], []
    for one in asked:
        score = canonical_scores(one.expand(index.count, -1), library)
        best = torch.from_numpy(np.lexsort((rank, -score.numpy()))[:k])
        rows.append(best)
        scores.append(score[best])
    return torch.stack(rows), torch.stack(scores)


def sharded_index_of(cells: Tensor, config: IndexConfig, shards: int, ids: Ids | None = None) -> Index:
    """Return an index of several shards, one for each nonempty cluster of a top level."""
    ids = ids_of(len(cells)) if ids is None else ids
    order = sort_order(ids)
    packets, ids = packets_of(cells)[torch.from_numpy(order)], ids[order]
    mean = library_mean(packets, config)
    vectors, _ = match_parts(packets, mean)
    basis = fit_basis(vectors)
    space = ClusterSpace(config, basis.directions)
    points = space.points(vectors)
    top = spherical_kmeans(ArrayPoints(points), shards, config.iterations, len(points), config.seed)
    labels, _ = assign(points, top)
    parts, subtrees = [], []
    filled = labels.unique().tolist()
    for cluster in filled:
        rows = (labels == cluster).nonzero()[:, 0]
        packed = pack(packets[rows], mean, top[cluster], space, level=1)
        counts = packed.subtree.leaf_count
        kept = rows[packed.order]
        parts.append(make_shard(packets, torch.from_numpy(ids), kept, mean, basis, counts, config.bits))
        subtrees.append(packed.subtree)
    return Index(join(space.lift(top[filled]), subtrees, mean, basis), parts)
