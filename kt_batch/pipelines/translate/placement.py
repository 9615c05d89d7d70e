"""The devices of a worker: one for its networks and its method, and that one or the processor for its index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kt_batch.config import MethodConfig
from kt_batch.errors import KtBatchError
from kt_batch.index.index import Index
from kt_batch.kernels.staging import staged
from kt_batch.methods.base import PROCESSOR
from kt_batch.pipelines.numerics import device_memory, device_name, worker_device
from kt_batch.pipelines.translate.libraries import index_digests
from kt_batch.store.indexes import read_index_summary
from kt_batch.store.locations import open_location

if TYPE_CHECKING:
    from kt_batch.pipelines.translate.plan import TranslateJob
    from kt_batch.pipelines.translate.sources import Sources

MOST_OF_GPU = 0.5  # of a worker's share of the GPU's memory, for its index; the rest is for networks and searches
OF_FAISS = ("pq", "ivf", "hnsw")  # searchers of faiss, which builds from the index what it searches


@dataclass(frozen=True)
class Placement:
    """The devices of a worker. device: Of networks, images and methods. index: Of the index; the same without one."""

    device: torch.device
    index: torch.device

    def named(self, search: str) -> str:
        """Return what the numerics class says of the devices.

        Args:
            search: What computes in a search on the processor, from `search_device`.
        """
        if self.device.type == "cpu":
            return search
        name = device_name(self.device)
        return name if self.index == self.device else f"{name}, search on {search}"

    def place(self, index: Index | None) -> Index | None:
        """Return an index, if any, where it is searched. Raises KtBatchError where a GPU has no room for it."""
        if index is None or self.index.type == "cpu":
            return index
        try:
            return index.on_device(self.index)
        except torch.OutOfMemoryError as error:
            raise KtBatchError(
                f"The GPU has no room for an index of {index.count:,} patches; give workers a larger share of it with "
                "--gpus, or leave --gpus out."
            ) from error

    def images(self, images: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return images by id, each of which comes to the device when it is asked for."""
        return images if self.device.type == "cpu" else _Images(images, self.device)


class _Images(Mapping[str, Tensor]):
    """Images of the processor on another device."""

    def __init__(self, images: Mapping[str, Tensor], device: torch.device) -> None:
        self._images, self._device = images, device
        self.number = getattr(images, "number", None)  # which library holds an image (libraries.holder_of)

    def __getitem__(self, image_id: str) -> Tensor:
        return staged(self._images[image_id], self._device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)


ON_PROCESSOR = Placement(PROCESSOR, PROCESSOR)


def placement_of(job: TranslateJob) -> Placement:
    """Return where a worker computes.

    Raises:
        UsageError: It has been given a GPU, and torch finds none.
    """
    device = worker_device(job.gpus)
    if device.type == "cpu":
        return ON_PROCESSOR
    if job.owned:  # its owners search on processors
        return Placement(device, PROCESSOR)
    fits = index_fits(index_bytes(job.config, job.sources), device_memory(device), job.gpus)
    return Placement(device, device if fits and job.config.searcher not in OF_FAISS else PROCESSOR)


def index_fits(size: int, memory: int, gpus: float) -> bool:
    """Return whether an index of `size` bytes is held by a GPU with `memory` bytes, of which a worker has `gpus`.

    What is free there at the moment does not matter: workers on GPUs of one kind must compute alike.
    """
    return size <= MOST_OF_GPU * memory * min(gpus, 1.0)


def index_bytes(config: MethodConfig, sources: Sources) -> int:
    """Return the bytes of the trees and the shards that a method searches; 0 without an index."""
    return sum(index_sizes(config, sources))


def index_sizes(config: MethodConfig, sources: Sources) -> list[int]:
    """Return the bytes of the tree and the shards of each library that a method searches; none without an index."""
    if sources.library is None or config.index_digest is None:
        return []
    sizes = []
    for place, digest in zip((sources.library, *sources.further), index_digests(config), strict=True):
        summary = read_index_summary(open_location(place), digest)
        sizes.append(summary.tree_bytes + sum(shard.bytes for shard in summary.shards) if summary else 0)
    return sizes
