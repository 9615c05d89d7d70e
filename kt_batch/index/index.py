"""An open index: the tree, and the keys and values in its shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.config import IndexConfig
from kt_batch.errors import DamagedError
from kt_batch.index.ids import sort_order
from kt_batch.index.leaf_statistics import LeafStatistics
from kt_batch.index.packing import ClusterSpace, pack, spread
from kt_batch.index.shards import BAND_NAMES, LEAF_NAMES, PART, Shard, in_one_shard, make_shard, match_parts
from kt_batch.index.tree import Tree, join
from kt_batch.kernels import quantised
from kt_batch.kernels.fixed_point import round_
from kt_batch.kernels.haar import haar
from kt_batch.kernels.quantised import Codes, decoded, dequantise, fit_basis, prepare_queries, products
from kt_batch.kernels.tiles import divide_rows, normalise
from kt_batch.models.precision import quick_products

WINDOW = 64  # patches; a larger window wastes products, a smaller one makes more groups (searchers.visits)
FOREIGN = -1e30  # times the rest of a query, which is never 0 (kernels.principal), below any product of unit vectors


class Mapped(Protocol):
    """A file whose tensors are mapped."""

    def check(self) -> None:
        """Raise DamagedError when the file has changed since it was opened."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one shard: `count` rows from `start` in the shard, from `first_row` in the index."""

    shard: int
    start: int
    count: int
    first_row: int


class Index:
    """A tree over shards.

    The row of a kept patch counts through the shards, in leaf order within a shard. A search compares keys, unit
    vectors in match space; a match transfers a value, a raw patch.

    A leaf is read through its window: `window_widths` rows from `window_rows` on. They are the leaf and the rows after
    it that make the width a multiple of WINDOW, so that leaves of one width are multiplied in one call. Where the shard
    ends earlier, the window begins before the leaf. It is never wider than the shard.
    """

    def __init__(
        self,
        tree: Tree,
        shards: Sequence[Shard],
        files: Sequence[Mapped] = (),
        read_soon: Callable[[Tensor], None] | None = None,
        leaves: LeafStatistics | None = None,
    ) -> None:
        """Open a tree over shards.

        Args:
            tree: The tree.
            shards: Its shards.
            files: All that are mapped.
            read_soon: Called with the first levels that are read next, where shards are mapped.
            leaves: The statistics of the leaves; None copies those of the shards when they are first needed.
        """
        self.tree = tree
        self._files = files
        self._read_soon = read_soon
        self.shards = list(shards)
        self.device = tree.mean.device
        counts = torch.tensor([shard.count for shard in self.shards], device=self.device)
        self.shard_start = counts.cumsum(0) - counts
        self.count = int(counts.sum())
        self.channels = tree.mean.shape[1]
        self._shard_counts = counts
        self._leaves = leaves
        if len({shard.bits for shard in self.shards}) > 1:
            raise DamagedError("Some shards of this index keep patches in 4 bits, in 5 or as float16, and some do not.")
        self._bits = self.shards[0].bits  # of a code; None where patches are float16

    @cached_property
    def statistics(self) -> LeafStatistics:
        """The statistics of the leaves, by which a search chooses among them."""
        return self._leaves or leaf_statistics(self.shards)

    def first_rows(self, leaves: Tensor) -> Tensor:
        """Return the first rows in the index of `leaves`, of any shape."""
        return self.shard_start[self.tree.leaf_shard[leaves]] + self.tree.leaf_start[leaves]

    def window_widths(self, leaves: Tensor) -> Tensor:
        """Return the widths of the windows of `leaves`, of any shape."""
        sizes = self._shard_counts[self.tree.leaf_shard[leaves]]
        return torch.minimum((self.tree.leaf_count[leaves] + WINDOW - 1) // WINDOW * WINDOW, sizes)

    def window_rows(self, leaves: Tensor, width: int) -> Tensor:
        """Return the first rows in the index of the windows of `leaves` `(B,)`, all of that width."""
        shards, begin, _ = self._windows(leaves, width)
        return self.shard_start[shards] + begin

    def _windows(self, leaves: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the shards of leaves, the first rows of their windows there, and the rows before the leaves."""
        shards, start = self.tree.leaf_shard[leaves], self.tree.leaf_start[leaves]
        begin = torch.minimum(start, self._shard_counts[shards] - width)
        return shards, begin, start - begin

    def check_files(self) -> None:
        """Raise DamagedError when a file that is mapped has changed: a search would read beyond its end, or rubbish."""
        for file in self._files:
            file.check()

    def in_one_piece(self) -> Index:
        """Return the same index with one shard in memory.

        A search reads every shard by itself. In a small library, which has a few dozen shards too, calls would take
        most of the time.
        """
        return self.on_device(self.device)

    def on_device(self, device: torch.device) -> Index:
        """Return the same index with one shard in the memory of a device.

        Raises:
            DamagedError: A file that is mapped has changed.
        """
        first_rows = self.shard_start[self.tree.leaf_shard] + self.tree.leaf_start
        tree = replace(self.tree, leaf_shard=torch.zeros_like(self.tree.leaf_shard), leaf_start=first_rows)
        leaves = self.statistics if device == self.device else None
        moved = Index(tree.on_device(device), [in_one_shard(self.shards, device)], leaves=leaves)
        self.check_files()
        return moved

    def leaf_rows(self, leaf: int) -> tuple[Shard, int, int, int]:
        """Return the shard of a leaf, its first row there, its row count, and its first row in the index."""
        tree = self.tree
        number, start, count = int(tree.leaf_shard[leaf]), int(tree.leaf_start[leaf]), int(tree.leaf_count[leaf])
        return self.shards[number], start, count, int(self.shard_start[number]) + start

    def window_levels(self, leaves: Tensor, width: int) -> Tensor:
        """Return the first levels `(B, width, d + 1)` of the windows of `leaves` `(B,)`, all of that width.

        They are float32 in fixed point (kernels.fixed_point).
        The rest of a patch of another leaf has length FOREIGN, so that its product with a query is below all others.
        """
        own = self._windows(leaves, width)[2][:, None]
        place = torch.arange(width, device=self.device)
        foreign = (place < own) | (place >= own + self.tree.leaf_count[leaves, None])
        windows = self._read_windows(leaves, width)
        windows[..., -1].masked_fill_(foreign, FOREIGN)
        return windows

    def _read_windows(self, leaves: Tensor, width: int) -> Tensor:
        """As `window_levels`, with the rows of other leaves as they are."""
        if self.device.type != "cpu" and len(self.shards) == 1:  # a call for each leaf would take most of the time
            rows = self.window_rows(leaves, width)[:, None] + torch.arange(width, device=self.device)
            return round_(self.shards[0].level[rows].float())
        windows = torch.empty(len(leaves), width, self.shards[0].level.shape[1], device=self.device)
        shards, begin, _ = self._windows(leaves, width)
        places = zip(shards.tolist(), begin.tolist(), strict=True)
        kept = [self.shards[shard].level[start : start + width] for shard, start in places]
        if self._read_soon:
            for level in kept:
                self._read_soon(level)
        for window, level in zip(windows, kept, strict=True):
            round_(window.copy_(level))
        return windows

    def packets(self, rows: Tensor) -> Tensor:
        """Return the raw Haar packets `(m, 4, C)` float16 of rows `(m,)`."""
        if self._bits:
            return self._raw_packets(*self._dequantised(rows))
        out = torch.empty(len(rows), 4, self.channels, dtype=torch.float16, device=self.device)
        for shard, inside, where in self._by_shard(rows):
            for b, name in enumerate(BAND_NAMES):
                out[where, b] = shard.payload[name].index_select(0, inside)
        return out

    def _dequantised(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys `(m, D)` float32 and norms `(m,)` of rows `(m,)` that are kept as codes.

        The rows of all shards are decoded together: a block of fixed shape costs the same however few rows it has.
        """
        found = self.kept(rows)
        level, norms = found.pop("level"), found.pop("norms")
        with quick_products(self.device.type):  # always, so that a patch has the same bits everywhere
            return dequantise(level[:, :-1], Codes(**found), self.tree.basis), norms

    def kept(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the first levels, norms and payload (index.shards) of rows `(m,)` by name."""
        kept = [{"level": shard.level, "norms": shard.norms, **shard.payload} for shard in self.shards]
        found = {name: part.new_empty(len(rows), *part.shape[1:]) for name, part in kept[0].items()}
        for number, inside, where in self._placed(rows):
            for name, out in found.items():
                out[where] = kept[number][name].index_select(0, inside)
        return found

    def values(self, rows: Tensor) -> Tensor:
        """Return what a match transfers: raw patches `(m, 4, C)` float32, in cells and not bands, of rows `(m,)`."""
        return haar(self.packets(rows).float())

    def keys_and_values(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return `keys(rows)` and `values(rows)`, with the same bits, and decode every patch once."""
        if self._bits:
            keys, norms = self._dequantised(rows)
            return keys, haar(self._raw_packets(keys, norms).float())
        packets = self.packets(rows)
        norms = torch.empty(len(rows), device=self.device)
        for shard, inside, where in self._by_shard(rows):
            norms[where] = shard.norms[inside]
        return divide_rows((packets.float() - self.tree.mean).flatten(1), norms), haar(packets.float())

    def _raw_packets(self, keys: Tensor, norms: Tensor) -> Tensor:
        """Return the float16 packets `(m, 4, C)` that have keys `(m, D)` and norms `(m,)` in match space."""
        return ((keys * norms[:, None]).view(-1, 4, self.channels) + self.tree.mean).half()

    def patch_ids(self, rows: Tensor) -> NDArray[np.uint8]:
        """Return the patch ids `(m, 12)` uint8 of rows `(m,)`."""
        out = torch.empty(len(rows), 12, dtype=torch.uint8, device=self.device)
        for shard, inside, where in self._by_shard(rows):
            out[where] = shard.patch_ids[inside]
        return out.cpu().numpy()

    def smallest_ids(self, k: int) -> Tensor:
        """Return the rows `(k,)` of the k smallest patch ids, ascending."""
        ids = [shard.patch_ids.cpu().clone().numpy() for shard in self.shards]
        parts = [torch.from_numpy(sort_order(each)[:k]).to(self.device) for each in ids]
        rows = torch.cat([part + start for part, start in zip(parts, self.shard_start, strict=True)])
        return rows[torch.from_numpy(sort_order(self.patch_ids(rows))[:k]).to(self.device)]

    def keys(self, rows: Tensor) -> Tensor:
        """Return what a search compares: unit vectors in match space `(m, D)` float32 of rows `(m,)`."""
        if self._bits:
            return self._dequantised(rows)[0]
        out = torch.empty(len(rows), 4 * self.channels, device=self.device)
        for shard, inside, where in self._by_shard(rows):
            packets = torch.stack([band.index_select(0, inside) for band in shard.payload.values()], dim=1)
            out[where] = divide_rows((packets.float() - self.tree.mean).flatten(1), shard.norms[inside])
        return out

    def chunks(self, most: int) -> list[Chunk]:
        """Divide all rows into chunks of at most `most` rows, each in one shard."""
        return [
            Chunk(number, start, min(most, shard.count - start), first_row + start)
            for number, (shard, first_row) in enumerate(zip(self.shards, self.shard_start.tolist(), strict=True))
            for start in range(0, shard.count, most)
        ]

    def chunk_level(self, chunk: Chunk) -> Tensor:
        """Return the first levels `(c, d + 1)` float32 of a chunk."""
        level = self.shards[chunk.shard].level[chunk.start : chunk.start + chunk.count]
        if self._read_soon:
            self._read_soon(level)
        return level.float()

    def chunk_along(self, chunk: Chunk, directions: Tensor) -> Tensor:
        """Return the coordinates `(c, e)` float32 of a chunk's keys along `directions` `(D, e)`.

        The directions are orthogonal to those of the first level.
        """
        if not self._bits:
            rows = torch.arange(chunk.first_row, chunk.first_row + chunk.count, device=self.device)
            return self.keys(rows) @ directions
        kept = Codes(**self.shards[chunk.shard].payload).part(chunk.start, chunk.count)
        rests = decoded(kept.codes, kept.plane).mul_(kept.gains[:, None])
        return rests @ (directions * self.tree.basis.spread[:, None])

    def prepare_queries(self, vectors: Tensor, level: Tensor) -> Tensor:
        """Return queries with keys `(n, D)` and first levels `(n, d + 1)` as `products` takes them, `(n, a)`."""
        return prepare_queries(vectors, level[:, :-1], self.tree.basis, self._bits) if self._bits else vectors

    @property
    def query_width(self) -> int:
        """Values of a query that is prepared."""
        values, directions = self.tree.directions.shape
        return directions + 1 + values if self._bits else values

    def prepare_quickly(self, vectors: Tensor, out: Tensor) -> Tensor:
        """Write vectors `(n, D)` of any length to `out` `(n, a)` as `products` takes them; return coordinates `(n, d)`.

        Unlike those of `prepare_queries`, last bits depend on n.
        """
        if self._preparation is None:
            out.copy_(vectors)
            return vectors @ self.tree.directions
        quantised.prepare_quickly(vectors, self._preparation, out)
        return out[:, : self.tree.directions.shape[1]]

    @cached_property
    def _preparation(self) -> quantised.Preparation | None:
        return quantised.Preparation.of(self.tree.basis, self._bits) if self._bits else None

    def products(self, queries: Tensor, rows: Tensor) -> Tensor:
        """Return float32 scores `(m,)` of queries `(m, a)` from `prepare_queries` with the patches of `rows` `(m,)`."""
        out = torch.empty(len(rows), device=self.device)
        for shard, inside, where in self._by_shard(rows):
            some = queries if len(where) == len(rows) else queries.index_select(0, where)
            if self._bits:
                codes = Codes(**shard.payload).each(partial(torch.index_select, dim=0, index=inside))
                out[where] = products(some, shard.level.index_select(0, inside)[:, :-1], codes)
                continue
            some = some.view(-1, 4, self.channels)
            total = torch.zeros(len(where), device=self.device)
            for b, name in enumerate(BAND_NAMES):
                values = shard.payload[name].index_select(0, inside).float().sub_(self.tree.mean[b])
                total += values.mul_(some[:, b]).sum(1)
            norms = shard.norms[inside]
            out[where] = torch.where(norms > 0, total / norms, 0.0)
        return out

    def leaves_holding(self, k: int) -> int:
        """Return the number of leaves that hold k patches, whichever leaves they are."""
        leaves = self._leaves_of_size
        sizes = leaves.nonzero()[:, 0]  # ascending
        patches = (sizes * leaves[sizes]).cumsum(0)
        fewer = int((patches < k).sum())  # sizes of which all leaves are needed
        if fewer == len(sizes):
            return self.tree.leaves
        before, left = int(leaves[sizes[:fewer]].sum()), k - (int(patches[fewer - 1]) if fewer else 0)
        return before + -(-left // int(sizes[fewer]))

    @cached_property
    def _leaves_of_size(self) -> Tensor:
        """The number of leaves of 0, 1, ... patches."""
        return torch.bincount(self.tree.leaf_count)

    def leaves_to_probe(self, wanted: int, k: int) -> int:
        """Return `wanted`, or more where so few leaves may hold fewer than k patches; at most all leaves."""
        return min(max(wanted, self.leaves_holding(k)), self.tree.leaves)

    def _by_shard(self, rows: Tensor) -> list[tuple[Shard, Tensor, Tensor]]:
        """Return each shard that holds some of rows `(m,)`, the rows there, and their places among the m."""
        return [(self.shards[number], inside, where) for number, inside, where in self._placed(rows)]

    def _placed(self, rows: Tensor) -> list[tuple[int, Tensor, Tensor]]:
        """As `_by_shard`, with numbers of shards."""
        number = torch.searchsorted(self.shard_start, rows, right=True) - 1
        order = torch.sort(number, stable=True).indices
        counts = torch.bincount(number, minlength=len(self.shards)).tolist()
        places = zip(range(len(counts)), self.shard_start.tolist(), order.split(counts), strict=True)
        return [(shard, rows[where] - start, where) for shard, start, where in places if len(where)]


def leaf_statistics(shards: Sequence[Shard]) -> LeafStatistics:
    """Return the statistics of the leaves of shards, in memory."""
    means, variances = (torch.cat([getattr(shard, name) for shard in shards]) for name in LEAF_NAMES)
    return LeafStatistics.of(means, variances)


def build_in_memory(packets: Tensor, patch_ids: NDArray[np.uint8], config: IndexConfig) -> Index:
    """Build an index with one shard in memory, for libraries of a few images and for benchmarks.

    Args:
        packets: `(n, 4, C)` float16, n >= 1.
        patch_ids: `(n, 12)` uint8.
        config: How the library is indexed.
    """
    order = torch.from_numpy(sort_order(patch_ids))
    ids = torch.from_numpy(patch_ids)[order]
    if not order.equal(torch.arange(len(order), device=order.device)):  # saves a copy of gigabytes
        packets = packets[order]
    mean = library_mean(packets, config)
    sample = packets[spread(len(packets), config.sample, packets.device)]
    basis = fit_basis(match_parts(sample, mean)[0])
    space = ClusterSpace(config, basis.directions)
    points = space.points_of(packets, torch.arange(len(packets), device=packets.device), mean)
    centre = normalise(sum_rows(points)[None].float())
    del points  # gigabytes, for millions of patches
    packed = pack(packets, mean, centre[0], space, level=0)
    shard = make_shard(packets, ids, packed.order, mean, basis, packed.subtree.leaf_count, config.bits)
    return Index(join(space.lift(centre), [packed.subtree], mean, basis), [shard])


def library_mean(packets: Tensor, config: IndexConfig) -> Tensor:
    """Return what match space subtracts, `(4, C)` float32: the mean packet, or zero in space `raw`."""
    if config.match_space == "raw":
        return torch.zeros(packets.shape[1:], dtype=torch.float32, device=packets.device)
    return (sum_rows(packets) / len(packets)).float()


def sum_rows(x: Tensor) -> Tensor:
    """Return the sum over the first dimension, float64, in blocks of fixed size."""
    return torch.stack([part.double().sum(0) for part in x.split(PART)]).sum(0)
