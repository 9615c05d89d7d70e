"""An open index: the tree, its shards, and what lies in a leaf."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.config import IndexConfig
from kt_batch.index.ids import sort_order
from kt_batch.index.packing import PART, ClusterSpace, pack, spread
from kt_batch.index.shards import Shard, make_shard, match_parts
from kt_batch.index.tree import Tree, join
from kt_batch.kernels.haar import haar
from kt_batch.kernels.principal import LEVEL_WIDTH, principal_directions
from kt_batch.kernels.tiles import divide_rows, unit


class Index:
    """A tree over shards. A kept patch is named by its row: shards one after the other, leaf order within a shard."""

    def __init__(self, tree: Tree, shards: Sequence[Shard]) -> None:
        self.tree = tree
        self.shards = list(shards)
        counts = torch.tensor([shard.count for shard in self.shards])
        self.shard_start = counts.cumsum(0) - counts
        self.count = int(counts.sum())
        self.channels = tree.mean.shape[1]
        self.first_rows = self.shard_start[tree.leaf_shard] + tree.leaf_start
        self.leaf_coordinates = unit(tree.leaf_centres() @ tree.directions)
        self.rivals: dict[str, object] = {}

    def leaf_rows(self, leaf: int) -> tuple[Shard, int, int, int]:
        """The shard of a leaf, its first row and row count there, and the row of its first patch in the whole index."""
        number = int(self.tree.leaf_shard[leaf])
        start, count = int(self.tree.leaf_start[leaf]), int(self.tree.leaf_count[leaf])
        return self.shards[number], start, count, int(self.shard_start[number]) + start

    def leaf_level(self, leaf: int) -> tuple[Tensor, int]:
        """The first level `(c, d + 1)` float32 of a leaf's c patches, and the row of the first of them."""
        shard, start, count, first_row = self.leaf_rows(leaf)
        return shard.level[start : start + count].float(), first_row

    def packets(self, rows: Tensor) -> Tensor:
        """Raw Haar packets `(m, 4, C)` float16 of rows `(m,)`."""
        out = torch.empty(len(rows), 4, self.channels, dtype=torch.float16)
        for shard, inside, where in self._by_shard(rows):
            for b in range(4):
                out[where, b] = shard.bands[b].index_select(0, inside)
        return out

    def patches(self, rows: Tensor) -> Tensor:
        """Raw patches `(m, 4, C)` float32 (cells, not bands) of rows `(m,)`."""
        return haar(self.packets(rows).float())

    def patch_ids(self, rows: Tensor) -> NDArray[np.uint8]:
        """`(m, 12)` uint8 of rows `(m,)`."""
        out = torch.empty(len(rows), 12, dtype=torch.uint8)
        for shard, inside, where in self._by_shard(rows):
            out[where] = shard.patch_ids[inside]
        return out.numpy()

    def smallest_ids(self, k: int) -> Tensor:
        """The rows `(k,)` of the k smallest patch ids."""
        parts = [torch.from_numpy(sort_order(shard.patch_ids.numpy())[:k]) for shard in self.shards]
        rows = torch.cat([part + start for part, start in zip(parts, self.shard_start, strict=True)])
        return rows[torch.from_numpy(sort_order(self.patch_ids(rows))[:k])]

    def match_vectors(self, rows: Tensor) -> Tensor:
        """Unit vectors in match space, `(m, D)` float32, of rows `(m,)`."""
        norms = torch.empty(len(rows))
        for shard, inside, where in self._by_shard(rows):
            norms[where] = shard.norms[inside]
        return divide_rows((self.packets(rows).float() - self.tree.mean).flatten(1), norms)

    def products(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Float32 scores `(m,)` of unit vectors `(m, D)` with the patches of `rows` `(m,)`, pair by pair."""
        out = torch.empty(len(rows))
        for shard, inside, where in self._by_shard(rows):
            asked = vectors.index_select(0, where).view(-1, 4, self.channels)
            total = torch.zeros(len(where))
            for b in range(4):
                values = shard.bands[b].index_select(0, inside).float().sub_(self.tree.mean[b])
                total += values.mul_(asked[:, b]).sum(1)
            norms = shard.norms[inside]
            out[where] = torch.where(norms > 0, total / norms, 0.0)
        return out

    def _by_shard(self, rows: Tensor) -> list[tuple[Shard, Tensor, Tensor]]:
        number = torch.searchsorted(self.shard_start, rows, right=True) - 1
        found = []
        for s in number.unique().tolist():
            where = (number == s).nonzero()[:, 0]
            found.append((self.shards[s], rows[where] - self.shard_start[s], where))
        return found


def build_in_memory(packets: Tensor, patch_ids: NDArray[np.uint8], config: IndexConfig) -> Index:
    """The whole index of `(n, 4, C)` float16 packets, n >= 1, as one shard in memory; for libraries of a few images."""
    order = torch.from_numpy(sort_order(patch_ids))
    packets, ids = packets[order], torch.from_numpy(patch_ids)[order]
    mean = library_mean(packets, config)
    sample = packets[spread(len(packets), config.sample)]
    directions = principal_directions(match_parts(sample, mean)[0], LEVEL_WIDTH - 1)
    space = ClusterSpace(config, directions)
    points = space.points_of(packets, torch.arange(len(packets)), mean)
    centre = unit(sum_rows(points)[None].float())
    packed = pack(packets, mean, centre[0], space, level=0)
    shard = make_shard(packets[packed.order], ids[packed.order], mean, directions)
    return Index(join(space.lift(centre), [packed.subtree], mean, directions), [shard])


def library_mean(packets: Tensor, config: IndexConfig) -> Tensor:
    """What match space subtracts, `(4, C)` float32: the mean packet, or zero in space `raw`."""
    if config.match_space == "raw":
        return torch.zeros(packets.shape[1:], dtype=torch.float32)
    return (sum_rows(packets) / len(packets)).float()


def sum_rows(x: Tensor) -> Tensor:
    """The sum over the first of the dimensions, float64, in blocks of fixed size."""
    return torch.stack([part.double().sum(0) for part in x.split(PART)]).sum(0)
