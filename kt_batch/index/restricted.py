"""An index of some images of another one, in memory. What is left out has no row in it, so no search can find it.

Nothing is encoded or decoded: the allowed rows are copied as they are kept. Mean, basis and deviation are those of the
whole library. A kept patch that stands for near-duplicates of other images belongs to its own image alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.index.index import Index
from kt_batch.index.shards import Shard, leaf_statistics
from kt_batch.index.tree import Tree
from kt_batch.kernels.tiles import normalise

ONE_IMAGE = 1 << 30  # patches of a leaf, so that an image is one leaf and every search of it is a proof


class RowsOfImages:
    """The rows of an index by the image of their patches."""

    def __init__(self, index: Index) -> None:
        self._index = index
        parts = [np.ascontiguousarray(shard.patch_ids[:, :8].cpu().numpy()) for shard in index.shards]
        self._images: NDArray[np.uint64] = np.concatenate(parts).view(">u8")[:, 0].astype(np.uint64)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(self._images, kind="stable")

    @cached_property
    def _ends(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        images, starts = np.unique(self._images[self._order], return_index=True)
        return images, np.append(starts, len(self._images))

    @property
    def numbers(self) -> NDArray[np.uint64]:
        """Return the images that have a kept patch as numbers `(n,)`, ascending."""
        return self._ends[0]

    @property
    def images(self) -> list[str]:
        """Return the images that have a kept patch, 16 hex digits each, ascending."""
        return image_texts(self.numbers)

    def of_image(self, image_id: str) -> Tensor:
        """Return the rows `(m,)` int64 of an image, ascending; none of an unknown one."""
        images, bounds = self._ends
        wanted = np.uint64(int(image_id, 16))
        place = int(np.searchsorted(images, wanted))
        if place == len(images) or images[place] != wanted:
            return torch.zeros(0, dtype=torch.int64, device="cpu")
        return torch.from_numpy(self._order[bounds[place] : bounds[place + 1]].copy())

    def allowed(self, images: NDArray[np.uint64]) -> Tensor:
        """Return the rows `(m,)` int64 of any of some images, ascending."""
        return torch.from_numpy(np.isin(self._images, images).nonzero()[0])


class IndexImages:
    """The images of an index, and an index in memory of each."""

    def __init__(self, index: Index) -> None:
        self._index, self._rows = index, RowsOfImages(index)

    @property
    def images(self) -> list[str]:
        """The images that have a kept patch, 16 hex digits each, ascending."""
        return self._rows.images

    def of_image(self, image_id: str) -> Index:
        """Return an index in memory of the patches of an image, all in one leaf."""
        return restricted(self._index, self._rows.of_image(image_id), ONE_IMAGE)


def image_numbers(image_ids: bytes) -> NDArray[np.uint64]:
    """Return concatenated image ids of 8 bytes as numbers `(n,)`."""
    return np.frombuffer(image_ids, ">u8").astype(np.uint64)


def image_texts(numbers: NDArray[np.uint64]) -> list[str]:
    """Return the ids of images with these numbers `(n,)`, 16 hex digits each."""
    return [f"{image:016x}" for image in numbers.tolist()]


def index_of_images(index: Index, image_ids: bytes) -> Index | None:
    """Return an index of some images, whose ids are concatenated; None where it holds no patch of them."""
    rows = RowsOfImages(index).allowed(image_numbers(image_ids))
    return restricted(index, rows) if len(rows) else None


def restricted(index: Index, rows: Tensor, leaf: int | None = None) -> Index:
    """Return an index in memory of some rows of another one.

    Neighbouring leaves are joined, so that a query which looks into as many leaves sees about as many patches.

    Args:
        index: The whole index.
        rows: `(m,)` int64, ascending, at least one.
        leaf: Patches of a leaf; None takes the mean of the whole index.
    """
    rows = rows.to(index.device)
    counts = counts_by_leaf(index, rows)
    group = (counts.cumsum(0) - counts) // (leaf or mean_leaf(index.count, index.tree.leaves))
    leaf_count = joined_counts(counts, group)
    there = counts > 0
    centres = index.tree.leaf_centres()[there] * counts[there, None]
    joined = torch.zeros(len(leaf_count), centres.shape[1], device=rows.device)
    joined.index_add_(0, group[there].unique_consecutive(return_inverse=True)[1], centres)
    return index_of_rows(index.tree, normalise(joined), leaf_count, gathered(index, rows))


def mean_leaf(patches: int, leaves: int) -> int:
    """Return the patches of a leaf that neighbouring leaves of some images are joined to."""
    return -(-patches // leaves)


def counts_by_leaf(index: Index, rows: Tensor) -> Tensor:
    """Return how many of rows `(m,)`, ascending, each leaf has, `(leaves,)` int64."""
    begin = index.first_rows(torch.arange(index.tree.leaves, device=index.device))
    leaf_of = torch.searchsorted(begin, rows, right=True) - 1
    return torch.bincount(leaf_of, minlength=index.tree.leaves)


def joined_counts(counts: Tensor, group: Tensor) -> Tensor:
    """Return the rows of each group, ascending, of leaves with `counts` `(leaves,)` and groups; none is empty."""
    there = counts > 0
    number = group[there].unique_consecutive(return_inverse=True)[1]
    groups = int(number[-1]) + 1
    return torch.zeros(groups, dtype=torch.int64, device=counts.device).index_add_(0, number, counts[there])


def index_of_rows(tree: Tree, centres: Tensor, leaf_count: Tensor, tensors: dict[str, Tensor]) -> Index:
    """Return an index in memory of rows that follow one another leaf after leaf.

    Args:
        tree: The tree of the whole index, whose statistics it has.
        centres: Of the leaves, `(leaves, D)`; without values where no searcher descends the tree.
        leaf_count: Rows of each leaf, `(leaves,)`.
        tensors: Those of a shard of the rows by name (`gathered`).
    """
    shard = dict(tensors)
    means, variances = leaf_statistics(shard["level"], leaf_count)
    patch_ids, norms, level = (shard.pop(name) for name in ("patch_ids", "norms", "level"))
    return Index(_flat(tree, centres, leaf_count), [Shard(shard, patch_ids, norms, level, means, variances)])


def gathered(index: Index, rows: Tensor) -> dict[str, Tensor]:
    """Return the tensors of a shard of rows `(m,)` by name, without those of its leaves."""
    number = torch.searchsorted(index.shard_start, rows, right=True) - 1
    found: dict[str, Tensor] = {}
    for shard, start, where in _places(index, number):
        inside = rows[where] - start
        for name, tensor in index.shards[shard].tensors().items():
            if not name.startswith("leaf_"):
                kept = found.setdefault(name, tensor.new_empty(len(rows), *tensor.shape[1:]))
                kept[where] = tensor.index_select(0, inside)
    return found


def _places(index: Index, number: Tensor) -> Sequence[tuple[int, int, Tensor]]:
    """Return each shard with some of the rows, the row that it starts with, and their places among the rows."""
    starts = index.shard_start.tolist()
    return [(shard, starts[shard], (number == shard).nonzero()[:, 0]) for shard in number.unique().tolist()]


def _flat(tree: Tree, centres: Tensor, leaf_count: Tensor) -> Tree:
    """Return a tree whose root has the leaves as its children, with the statistics of another tree."""
    leaves = len(leaf_count)
    numbers = torch.arange(leaves, device=centres.device)
    none = torch.zeros(leaves, dtype=torch.int64, device=centres.device)
    first = torch.ones(1, dtype=torch.int64, device=centres.device)
    return replace(
        tree,
        centres=torch.cat([torch.zeros_like(centres[:1]), centres]),
        first_child=torch.cat([first, none]),
        child_count=torch.cat([first * leaves, none]),
        leaf=torch.cat([-first, numbers]),
        leaf_node=numbers + 1,
        leaf_shard=none,
        leaf_start=leaf_count.cumsum(0) - leaf_count,
        leaf_count=leaf_count,
    )
