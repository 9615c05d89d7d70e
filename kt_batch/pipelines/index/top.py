"""The top level of an index: fitted centrally on a sample, and read by the workers that route and pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from kt_batch.index.ids import hash_ids, sort_order
from kt_batch.index.index import library_mean
from kt_batch.index.packing import ClusterSpace
from kt_batch.index.shards import match_parts
from kt_batch.index.tensors import Layout, check_tensors, load_tensors
from kt_batch.index.tree import Tree
from kt_batch.kernels.haar import haar
from kt_batch.kernels.kmeans import ArrayPoints, spherical_kmeans
from kt_batch.kernels.principal import Basis
from kt_batch.kernels.quantised import fit_basis
from kt_batch.pipelines.index.plan import BuildJob, top_clusters
from kt_batch.store import layout
from kt_batch.store.indexes import put_blob, read_blob
from kt_batch.store.locations import Location
from kt_batch.store.receipts import Receipt
from kt_batch.store.schemas import from_fixed_binary, patch_vectors
from kt_batch.store.tables import read_table

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
    def get(cls, build: Location, sha256: str) -> Top:
        """Read a stored top level. Raises DamagedError."""
        where = "The top level of this index"
        tensors = load_tensors(read_blob(build, layout.TOP, sha256), where)
        check_tensors(tensors, _TENSORS, where)
        return cls(tensors["centres"], tensors["mean"], Basis(tensors["directions"], tensors["spread"]))


def fit_top(job: BuildJob, sampled: Sequence[Receipt], generation: Tree | None = None) -> Top:
    """Fit the top level on the `sample` patches whose ids have the smallest hashes.

    Args:
        job: The build.
        sampled: Receipts of the stage that offered patches for the sample.
        generation: The tree of the generation that grows; mean and basis are its own, and only centres are fitted. None
            fits all.
    """
    job.fix_numerics()
    build = job.build_location()
    tables = [read_table(build, table) for receipt in sampled for table in receipt.tables]
    ids = np.concatenate([from_fixed_binary(table["patch_id"], "u1", (12,)) for table in tables])
    patches = np.concatenate([patch_vectors(table, job.channels) for table in tables])
    order = np.lexsort((sort_order(ids).argsort(), hash_ids(ids, job.config.seed)))[: job.config.sample]
    packets = haar(torch.from_numpy(patches[order]).float()).half()
    mean = library_mean(packets, job.config) if generation is None else generation.mean
    sample, _ = match_parts(packets, mean)
    basis = fit_basis(sample) if generation is None else generation.basis
    points = ArrayPoints(ClusterSpace(job.config, basis.directions).points(sample))
    clusters = top_clusters(job.patches, job.config)
    centres = spherical_kmeans(points, clusters, job.config.iterations, len(sample), job.config.seed)
    return Top(centres, mean, basis)
