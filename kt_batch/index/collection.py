"""Several open indexes that are searched together, each with a weight of its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kt_batch.errors import UsageError
from kt_batch.index.index import Index
from kt_batch.index.served.index import ServedIndex


@dataclass(frozen=True)
class Collection:
    """The indexes of several libraries.

    weights: Times which the scores of each count, above 0. numbers: The number of each one's library.
    """

    indexes: tuple[Index | ServedIndex, ...]
    weights: tuple[float, ...]
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indexes)

    def shares(self, probes: int) -> list[int]:
        """Return the leaves to probe in each index: `probes` in all, by numbers of patches, rounded up.

        The nearest leaves of a library that was divided are those of its parts, so this is the work of one index.
        """
        total = sum(index.count for index in self.indexes)
        return [max(1, -(-probes * index.count // total)) for index in self.indexes]


def by_number(index: Index | Collection | ServedIndex) -> dict[int, Index | ServedIndex]:
    """Return the index of each library by its number; that of a single one has the number 0."""
    return dict(zip(index.numbers, index.indexes, strict=True)) if isinstance(index, Collection) else {0: index}


def nothing_of(number: int) -> str:
    """Return what is wrong where a region takes a library without an index."""
    return f"A region takes library {number + 1}, and the filter allows no image of it; allow more images."


def collected(
    indexes: Sequence[Index | ServedIndex | None], weights: Sequence[float]
) -> Index | ServedIndex | Collection:
    """Return the index of a single library as it is, since its weight changes no order, and several as a collection.

    Args:
        indexes: The index of each library; None for one without an allowed patch.
        weights: Those of the libraries.

    Raises:
        UsageError: There is no index, or their patches have different numbers of channels.
    """
    numbered = zip(indexes, weights, range(len(indexes)), strict=True)
    there = [(index, weight, number) for index, weight, number in numbered if index is not None]
    if not there:
        raise UsageError("The index holds no patch of the images that the filter allows; allow more of them.")
    if len(indexes) == 1:
        return there[0][0]
    channels = sorted({index.channels for index, _, _ in there})
    if len(channels) > 1:
        shown = " and ".join(map(str, channels))
        raise UsageError(f"Libraries that are searched together have patches of {shown} channels; they must be alike.")
    return Collection(*zip(*there, strict=True))


def weighted(scores: Tensor, weight: float) -> Tensor:
    """Return scores times a weight; a negative one is divided by it, so that a larger weight never lowers a score."""
    return torch.where(scores < 0, scores / weight, scores * weight)


def deviation_of(index: Index | Collection | ServedIndex) -> Tensor:
    """Return the mean standard deviation of patches `(C,)` float32: of several indexes, by numbers of patches."""
    if not isinstance(index, Collection):
        return index.tree.deviation
    total = sum(each.count for each in index.indexes)
    parts = [each.tree.deviation.double() * (each.count / total) for each in index.indexes]
    return torch.stack(parts).sum(0).float()
