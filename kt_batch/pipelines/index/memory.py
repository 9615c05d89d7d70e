"""Keep the processes of an index build below a limit of memory, or say before the work that they cannot be.

What a stage takes is linear in patches and values, and its constants are measured (docs/decisions/0046). Fixed costs,
the sample and the largest cluster follow from the index that is built; how many patches are routed at a time does not,
and is chosen here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kt_batch.config import IndexConfig
from kt_batch.errors import UsageError
from kt_batch.kernels.principal import LEVEL_WIDTH
from kt_batch.pipelines.index.plan import BuildJob, BuildPlan, sample_size
from kt_batch.store.receipts import Receipt
from kt_batch.store.tables import SLICE_ROWS

PROCESS = 430 << 20  # bytes of a process with its libraries, and of what every stage has in hand
LEAST_ROWS = 1024  # patches that are routed at a time; fewer save nothing
FIT_VALUE = 6  # bytes of a value of the sample: a packet and a float32 vector
FIT_POINT = 128  # bytes of a patch of the sample, beside its values
LATER_POINT = 320  # bytes of a patch of the sample beyond the first `config.sample`
ROUTE_VALUE = 44  # bytes of a value that is routed: copies of the slice in several types
PACK_VALUE = 2  # bytes of a value of the cluster that is packed
PACK_PATCH = 80  # bytes of a patch of it, beside its values and its part of the shard
SPLIT_PATCH = 8 * (LEVEL_WIDTH - 1)  # bytes of the points of a patch while a cluster is split
SHARD_PATCH = 20 + 2 * LEVEL_WIDTH  # bytes of a patch in a shard, beside its payload
LEAF_VALUE = 30  # bytes of a value of a leaf while its patches are merged
NODE = 3072  # bytes of a node without its centre, and of a leaf's statistics, while they are joined and grouped
NODE_NUMBERS = 24  # bytes of a node in a file, beside its centre
MERGED_PATCH = 100  # bytes of a merged patch while all are sorted


def slice_rows(job: BuildJob) -> int:
    """Return how many patches a worker of a build samples or routes at a time."""
    if job.memory is None:
        return SLICE_ROWS
    rows = (job.memory - PROCESS) // (ROUTE_VALUE * 4 * job.channels)
    return max(LEAST_ROWS, min(SLICE_ROWS, rows))


def check_start(plan: BuildPlan) -> None:
    """Raise UsageError when the stages that are known beforehand need more memory than the limit of the build."""
    job, values = plan.job, 4 * plan.job.channels
    if job.memory is None:
        return
    if job.config.clusters:
        raise UsageError(
            f"--build-memory is {_gigabytes(job.memory)} GB, but leaves of --clusters have any size, so that no limit "
            "can be kept; leave one of the two out."
        )
    patches = min(job.patches, LEAST_ROWS)
    least_leaves = job.patches // job.config.max_leaf
    needs = (
        _fit_bytes(job.patches, values, job.config),
        patches * values * ROUTE_VALUE,
        _join_bytes(plan, least_leaves * (4 * values + NODE_NUMBERS), 0),
    )
    _require(job, max(needs), f"indexing {job.patches:,} patches of {values} values")


def check_clusters(job: BuildJob, sizes: Sequence[int]) -> None:
    """Raise UsageError when the largest of the routed clusters needs more memory than the limit of the build.

    sizes: Patches of each cluster.
    """
    largest = max(sizes)
    needed = pack_bytes(largest, 4 * job.channels, job.config)
    _require(job, needed, f"packing the largest cluster, of {largest:,} patches of {4 * job.channels} values,")


def check_join(plan: BuildPlan, packed: Sequence[Receipt]) -> None:
    """Raise UsageError when joining the packed clusters needs more memory than the limit of the build."""
    subtrees = sum(output[1] for receipt in packed for output in receipt.outputs[1::2] if output)
    merged = sum(table.rows for receipt in packed for table in receipt.tables)
    _require(plan.job, _join_bytes(plan, subtrees, merged), "joining the packed clusters")


def pack_bytes(patches: int, values: int, config: IndexConfig) -> int:
    """Return what packing a cluster takes beside the process.

    The peak is the splitting of the cluster, or its finished shard with a copy for the file.

    Args:
        patches: n, of the cluster.
        values: D, of a patch.
        config: How the library is indexed, without fixed numbers of clusters.
    """
    payload = values * (config.bits or 16) // 8
    leaf = min(patches, config.max_leaf) * LEAF_VALUE * values
    return patches * (PACK_VALUE * values + PACK_PATCH + max(2 * (SHARD_PATCH + payload), SPLIT_PATCH)) + leaf


def _fit_bytes(patches: int, values: int, config: IndexConfig) -> int:
    sample = sample_size(patches, config)
    first = min(sample, config.sample)
    return first * (FIT_VALUE * values + FIT_POINT) + (sample - first) * LATER_POINT


def _join_bytes(plan: BuildPlan, subtrees: int, merged: int) -> int:
    """Return what the driver needs to join subtrees of so many bytes, and the tree and members of a generation.

    Centres go from one file to another, and are not held (index.tree_file).
    """
    tree = 0
    if plan.growth:
        old = plan.growth.generation
        tree, merged = old.tree_bytes, merged + old.patches - old.kept
    nodes = (tree + subtrees) // (16 * plan.job.channels + NODE_NUMBERS)
    return NODE * nodes + MERGED_PATCH * merged


def _require(job: BuildJob, needed: int, what: str) -> None:
    if job.memory is not None and PROCESS + needed > job.memory:
        raise UsageError(
            f"--build-memory is {_gigabytes(job.memory)} GB, but {what} takes {_gigabytes(PROCESS + needed)} GB in a "
            "process; give as much or more, or leave the option out. Finished work is kept."
        )


def _gigabytes(size: int) -> str:
    """Return a number of bytes in GB, rounded up."""
    return f"{math.ceil(size / 1e7) / 100:g}"
