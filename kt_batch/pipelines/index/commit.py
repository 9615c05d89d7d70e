"""Commit an index: join the packed clusters into a tree, or to the tree of a generation, and write `index.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import torch
from torch import Tensor

from kt_batch.errors import DamagedError
from kt_batch.index.ids import sort_order
from kt_batch.index.leaf_statistics import LeafStatistics, write_leaves
from kt_batch.index.packing import ClusterSpace
from kt_batch.index.shards import LEAF_NAMES, read_leaf_statistics
from kt_batch.index.tensors import ROWS
from kt_batch.index.tree import Subtree, Tree, grow_nodes, join_nodes
from kt_batch.index.tree_file import append_centres, write_tree
from kt_batch.pipelines.index.plan import BuildPlan
from kt_batch.pipelines.index.top import Top
from kt_batch.store import layout
from kt_batch.store.derived import put_derived, put_derived_file
from kt_batch.store.generations import Growth, covered_parts_bytes
from kt_batch.store.indexes import (
    LEAVES_FORMAT,
    GrownFrom,
    IndexSummary,
    ShardRef,
    read_blob,
    read_index_table,
    table_bytes,
    write_index_summary,
)
from kt_batch.store.library import Library
from kt_batch.store.locations import Location
from kt_batch.store.receipts import Receipt
from kt_batch.store.schemas import MEMBERS, from_fixed_binary
from kt_batch.store.scratch import scratch_file
from kt_batch.store.shard_files import tree_copy
from kt_batch.store.tables import read_table
from kt_batch.store.tensor_parts import read_tensors
from kt_batch.store.units import READERS


@dataclass(frozen=True)
class _Clusters:
    """The packed clusters that are not empty, in the order of their numbers.

    outputs: The shard and the subtree of each, SHA-256 and bytes.
    """

    numbers: list[int]
    outputs: list[list[tuple[str, int]]]
    members: pa.Table
    kept: int
    numerics: dict[str, str]

    @property
    def shards(self) -> tuple[ShardRef, ...]:
        """Their shards."""
        return tuple(ShardRef(sha256=shard[0], bytes=shard[1]) for shard, _ in self.outputs)


_NO_CLUSTERS = _Clusters([], [], pa.Table.from_batches([], MEMBERS), 0, {})


@dataclass(frozen=True)
class GenerationTree:
    """The tree of the generation that grows.

    nodes: Mapped; its centres are never read through it, since read pages would stay resident as long as it is held.
    path: The scratch file with its bytes.
    """

    nodes: Tree
    path: Path


@contextmanager
def generation_tree(library: Library, growth: Growth) -> Iterator[GenerationTree]:
    """Copy the tree of the generation that grows to a scratch file, and map it; its centres are not read.

    Raises:
        MissingError: It is gone.
        DamagedError: It is damaged, or is not that of the generation's shards.
    """
    summary = growth.generation
    with tree_copy(library.location, summary) as path:
        tree = Tree.map(path)
        tree.check_structure()
        found = (tree.mean.shape[1], tree.leaves, int(tree.leaf_shard.max()) + 1, int(tree.child_count[0]) > 0)
        if found != (summary.channels, summary.leaves, len(summary.shards), True):
            raise DamagedError(
                f"The tree of the index {summary.digest} of '{library.location.uri}' does not fit its summary, so it "
                "cannot grow; index the library with --fresh."
            )
        yield GenerationTree(tree, path)


def commit_fresh(plan: BuildPlan, top: Top, packed: Sequence[Receipt]) -> IndexSummary:
    """Commit a fresh index of the packed clusters, whose receipts come in their order, and list the parts it covers."""
    clusters, location = _clusters_of(plan, packed), plan.library.location
    with scratch_file(location, ".centres") as path:
        with path.open("wb") as file:
            append_centres(file, torch.zeros(1, 4 * plan.job.channels, device="cpu"))
            append_centres(file, _centres(plan, top, clusters))
            tree = join_nodes(_read_subtrees(plan, clusters, file), top.mean, top.basis)
        tree_fields = _put_tree(plan, tree, path)
    data = covered_parts_bytes(plan.parts)
    put_derived(location, layout.covered_parts_path(plan.job.digest), data)
    summary = IndexSummary(
        **_common_fields(plan, clusters.members),
        **tree_fields,
        **_leaves_fields(plan, tree, clusters.shards),
        patches=plan.job.patches,
        kept=clusters.kept,
        parts_sha256=hashlib.sha256(data).hexdigest(),
        shards=clusters.shards,
        numerics=clusters.numerics,
    )
    write_index_summary(location, summary)
    return summary


def commit_grown(
    plan: BuildPlan, growth: Growth, generation: GenerationTree, top: Top | None, packed: Sequence[Receipt]
) -> IndexSummary:
    """Commit an index that has grown by the packed clusters; its generation's shards are named again, and not read.

    Args:
        plan: The build.
        growth: How the generation grows.
        generation: The tree of the generation.
        top: The fitted top level; None where there are no new patches.
        packed: The receipts of the packed clusters, in their order.
    """
    old, tree, location = growth.generation, generation.nodes, plan.library.location
    clusters = _clusters_of(plan, packed) if top else _NO_CLUSTERS
    with scratch_file(location, ".centres") as path:
        with path.open("wb") as file:
            _append_nodes(file, generation.path, 0, tree.end_of_top)
            if top:
                append_centres(file, _centres(plan, top, clusters))
            _append_nodes(file, generation.path, tree.end_of_top, len(tree.leaf))
            subtrees = _read_subtrees(plan, clusters, file)
            grown = grow_nodes(tree, subtrees) if subtrees else tree
        tree_fields = _put_tree(plan, grown, path)
    members = read_index_table(location, layout.members_path(old.digest), old.members_sha256, MEMBERS)
    summary = IndexSummary(
        **_common_fields(plan, pa.concat_tables([members, clusters.members])),
        **tree_fields,
        **_leaves_fields(plan, grown, (*old.shards, *clusters.shards)),
        patches=old.patches + growth.patches,
        kept=old.kept + clusters.kept,
        shards=(*old.shards, *clusters.shards),
        generation=GrownFrom(digest=old.digest, patches=old.patches, kept=old.kept, shards=len(old.shards)),
        numerics=clusters.numerics or old.numerics,
    )
    write_index_summary(location, summary)
    return summary


def _centres(plan: BuildPlan, top: Top, clusters: _Clusters) -> Tensor:
    return ClusterSpace(plan.job.config, top.basis.directions).lift(top.centres[clusters.numbers])


def _append_nodes(file: BinaryIO, path: Path, start: int, stop: int) -> None:
    """Write the centres of nodes of a tree's file to a file of centres. Raises DamagedError where some are absurd.

    The tree is mapped for each piece again: pages that were read count as memory until they are unmapped.
    """
    for first in range(start, stop, ROWS):
        append_centres(file, Tree.map(path).centres_of(first, min(ROWS, stop - first)))


def _clusters_of(plan: BuildPlan, packed: Sequence[Receipt]) -> _Clusters:
    """Find the clusters that are not empty, and read their merged patches."""
    build = plan.job.build_location()
    pairs = [pair for receipt in packed for pair in zip(receipt.outputs[::2], receipt.outputs[1::2], strict=True)]
    filled = [number for number, pair in enumerate(pairs) if all(pair)]  # of the clusters
    return _Clusters(
        numbers=filled,
        outputs=[[output for output in pairs[number] if output] for number in filled],
        members=pa.concat_tables(read_table(build, table) for receipt in packed for table in receipt.tables),
        kept=sum(receipt.patches for receipt in packed),
        numerics=packed[0].numerics,
    )


def _read_subtrees(plan: BuildPlan, clusters: _Clusters, file: BinaryIO) -> list[Subtree]:
    """Read the nodes of the subtrees, and append the centres below the top to a file of centres.

    Raises:
        DamagedError: A subtree is damaged, or of other channels.
    """
    build, channels = plan.job.build_location(), plan.job.channels
    nodes = []
    for _, (sha256, _) in clusters.outputs:
        subtree = Subtree.from_bytes(read_blob(build, layout.SUBTREES, sha256))
        if (subtree.centres.shape[1], len(subtree.deviation_sum)) != (4 * channels, channels):
            raise DamagedError(f"The subtrees at '{build.uri}' are not of {channels} channels; remove that folder.")
        append_centres(file, subtree.centres[1:])
        nodes.append(subtree.without_centres())
    return nodes


def _put_tree(plan: BuildPlan, tree: Tree, centres: Path) -> dict[str, Any]:
    """Write the tree with the centres of a file, and return what `index.json` says of it."""
    location = plan.library.location
    with scratch_file(location, ".safetensors") as path:
        write_tree(path, tree, centres)
        sha256, size = put_derived_file(location, layout.tree_path(plan.job.digest), path)
    return {"leaves": tree.leaves, "tree_sha256": sha256, "tree_bytes": size}


def _common_fields(plan: BuildPlan, members: pa.Table) -> dict[str, Any]:
    """Write the merged patches, and return what `index.json` says of them and of the plan."""
    job, location = plan.job, plan.library.location
    order = sort_order(from_fixed_binary(members["patch_id"], "u1", (12,)))
    merged = table_bytes(members.take(pa.array(order)))
    put_derived(location, layout.members_path(job.digest), merged)
    return {
        "format": LEAVES_FORMAT,
        "digest": job.digest,
        "config": job.config,
        "snapshot": plan.library.committed.snapshot,
        "layer": job.key.layer,
        "scale": None if job.key == plan.library.config.base else job.key.scale,
        "channels": job.channels,
        "members_sha256": hashlib.sha256(merged).hexdigest(),
    }


def _leaves_fields(plan: BuildPlan, tree: Tree, shards: Sequence[ShardRef]) -> dict[str, Any]:
    """Write the statistics of the leaves of `shards`, in groups if they are many, and return what `index.json` says."""
    location = plan.library.location
    statistics = _leaf_statistics(location, shards)
    if len(statistics.lengths) != tree.leaves:
        raise DamagedError(
            f"The shards of the index {plan.job.digest} of '{location.uri}' have {len(statistics.lengths)} leaves, "
            f"and its tree {tree.leaves}."
        )
    plan.job.fix_driver()  # groups are made here, perhaps as the first computation of this process
    with scratch_file(location, ".safetensors") as path:
        write_leaves(path, statistics)
        sha256, size = put_derived_file(location, layout.leaves_path(plan.job.digest), path)
    return {"leaves_sha256": sha256, "leaves_bytes": size}


def _leaf_statistics(location: Location, shards: Sequence[ShardRef]) -> LeafStatistics:
    """Read the statistics of the leaves of shards, and nothing else of them.

    Raises:
        DamagedError: They are absurd, or of several widths.
    """

    def read(shard: ShardRef) -> tuple[Tensor, Tensor]:
        data = read_tensors(location, shard.path, shard.bytes, LEAF_NAMES)
        return read_leaf_statistics(data, f"'{shard.path}' at '{location.uri}'")

    with ThreadPoolExecutor(READERS) as pool:
        pieces = list(pool.map(read, shards))
    if len({(means.shape[1], variances.shape[1]) for means, variances in pieces}) > 1:
        raise DamagedError(f"The shards of an index of '{location.uri}' have leaves of different widths.")
    means, variances = (torch.cat([piece[which] for piece in pieces]) for which in (0, 1))
    del pieces
    return LeafStatistics.of(means, variances)
