"""The top level of an index: fitted centrally on a sample, and read by the workers that route and pack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from kt_batch.index.ids import hash_ids, sort_order
from kt_batch.index.index import library_mean
from kt_batch.index.packing import ClusterSpace
from kt_batch.index.shards import ROWS, match_parts
from kt_batch.index.tensors import Layout, check_tensors, load_tensors
from kt_batch.index.tree import Tree
from kt_batch.kernels.haar import haar
from kt_batch.kernels.kmeans import ArrayPoints, spherical_kmeans, split_large
from kt_batch.kernels.principal import Basis
from kt_batch.kernels.quantised import fit_basis
from kt_batch.pipelines.index.plan import LARGEST_CLUSTER, SHARD_PATCHES, BuildJob, sample_size, top_clusters
from kt_batch.store import layout
from kt_batch.store.indexes import put_blob, read_blob
from kt_batch.store.locations import Location
from kt_batch.store.receipts import Receipt, TableRef
from kt_batch.store.schemas import from_fixed_binary, patch_vectors
from kt_batch.store.tables import patch_slices, read_table
from kt_batch.store.units import READERS

_TENSORS: Layout = {
    "centres": (torch.float32, ("clusters", "coordinates")),
    "mean": (torch.float32, (4, "channels")),
    "directions": (torch.float32, ("values", "directions")),
    "spread": (torch.float32, ("values",)),
}


@dataclass(frozen=True)
class Top:
    """The top level of the tree, fitted on the sample, all float32.

    centres: `(k, p)` unit vectors of the space in which clusters are made. mean: `(4, C)`, what match space subtracts.
    basis: The basis of the stored coordinates.
    """

    centres: Tensor
    mean: Tensor
    basis: Basis

    def put(self, build: Location) -> str:
        """Store the top level by content and return its SHA-256."""
        fitted = {"centres": self.centres, "mean": self.mean, **vars(self.basis)}
        return put_blob(build, layout.TOP, save(fitted))[0]

    @classmethod
    def get(cls, build: Location, sha256: str, device: torch.device) -> Top:
        """Read a stored top level into the memory of a device. Raises DamagedError."""
        where = "The top level of this index"
        tensors = load_tensors(read_blob(build, layout.TOP, sha256), where)
        check_tensors(tensors, _TENSORS, where)
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        return cls(moved["centres"], moved["mean"], Basis(moved["directions"], moved["spread"]))


def fit_top(job: BuildJob, sampled: Sequence[Receipt], generation: Tree | None = None) -> Top:
    """Fit the top level on the patches whose ids have the smallest hashes, `sample_size` of them.

    Mean and basis follow from the first `config.sample` of them. Of the others only points are kept, in float16. All of
    it is computed on the processor, since the driver of a cluster may have no GPU.
    Clusters that would get more than LARGEST_CLUSTER * SHARD_PATCHES patches are split.

    Args:
        job: The build.
        sampled: Receipts of the stage that offered patches for the sample.
        generation: The tree of the generation that grows; mean and basis are its own, and only centres are fitted. None
            fits all.
    """
    job.fix_driver()
    drawn = _Drawn(job, sampled)
    first = min(drawn.count, job.config.sample)
    packets = _first_packets(drawn, first, job.channels)
    mean = library_mean(packets, job.config) if generation is None else generation.mean
    sample = _match_vectors(packets, mean)
    del packets
    basis = fit_basis(sample) if generation is None else generation.basis
    space = ClusterSpace(job.config, basis.directions)
    points = ArrayPoints(space.points(sample))
    del sample
    if drawn.count > first:
        points = _all_points(drawn, points.vectors, space, mean)
    clusters, iterations, seed = top_clusters(job.patches, job.config), job.config.iterations, job.config.seed
    centres = spherical_kmeans(points, clusters, iterations, first, seed)
    most = LARGEST_CLUSTER * SHARD_PATCHES * drawn.count / job.patches
    return Top(split_large(points, centres, most, iterations, seed), mean, basis)


class _Drawn:
    """The sample: the patches with the smallest hashes of those that a stage offered. Their order is that of hashes."""

    def __init__(self, job: BuildJob, sampled: Sequence[Receipt]) -> None:
        """Read the ids of all offered patches, and no vectors."""
        self._job, self._build = job, job.build_location()
        self._tables = [table for receipt in sampled for table in receipt.tables]

        def read(table: TableRef) -> NDArray[np.uint8]:
            return from_fixed_binary(read_table(self._build, table, ["patch_id"])["patch_id"], "u1", (12,))

        with ThreadPoolExecutor(READERS) as pool:
            ids = np.concatenate(list(pool.map(read, self._tables)))
        self.count = min(len(ids), sample_size(job.patches, job.config))
        order = np.lexsort((sort_order(ids).argsort(), hash_ids(ids, job.config.seed)))
        self._ranks = np.empty(len(ids), np.int64)
        self._ranks[order] = np.arange(len(ids))

    def vectors(self) -> Iterator[tuple[NDArray[np.float16], NDArray[np.int64]]]:
        """Yield raw patches `(n, 4, C)` float16 and the place of each in the sample, at most ROWS at a time."""
        start = 0
        for ref in self._tables:
            for table in patch_slices(self._build, ref, self._job.channels, ROWS):
                ranks = self._ranks[start : start + table.num_rows]
                start += table.num_rows
                chosen = np.flatnonzero(ranks < self.count)
                yield patch_vectors(table, self._job.channels)[chosen], ranks[chosen]


def _first_packets(drawn: _Drawn, count: int, channels: int) -> Tensor:
    """Return the packets `(count, 4, C)` float16 of the first patches of the sample."""
    packets = torch.empty(count, 4, channels, dtype=torch.float16, device="cpu")
    for vectors, ranks in drawn.vectors():
        early = ranks < count
        packets[torch.from_numpy(ranks[early])] = _packets(vectors[early])
    return packets


def _packets(vectors: NDArray[np.float16]) -> Tensor:
    return haar(torch.from_numpy(vectors).float()).half()


def _match_vectors(packets: Tensor, mean: Tensor) -> Tensor:
    """Return the unit vectors `(n, 4C)` float32 of packets in match space, ROWS at a time to bound memory."""
    vectors = torch.empty(len(packets), packets.shape[1] * packets.shape[2], device=packets.device)
    for part, out in zip(packets.split(ROWS), vectors.split(ROWS), strict=True):
        out.copy_(match_parts(part, mean)[0])
    return vectors


def _all_points(drawn: _Drawn, first: Tensor, space: ClusterSpace, mean: Tensor) -> ArrayPoints:
    """Return the points of the whole sample in float16; those of its first patches `(m, p)` are given."""
    points = torch.empty(drawn.count, first.shape[1], dtype=torch.float16, device="cpu")
    points[: len(first)] = first.half()
    for vectors, ranks in drawn.vectors():
        late = ranks >= len(first)
        found = space.points(match_parts(_packets(vectors[late]), mean)[0])
        points[torch.from_numpy(ranks[late])] = found.half()
    return ArrayPoints(points)
