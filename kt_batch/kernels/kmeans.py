"""Spherical k-means, written once against a small data object, so that it runs on one array or on shards alike.

The paper's eq. 3 prints a minimum of a similarity, an erratum: what is maximised is the sum of NCC to the own centre.
Eq. 5 is solved by the normalised sum of a cluster's unit vectors.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from kt_batch.kernels.tiles import LARGE, blocks, normalise

FIXED_POINT = 2.0**24


class Points(Protocol):
    """Unit vectors, wherever they are."""

    count: int
    dim: int

    def sample(self, size: int) -> Tensor:
        """At most `size` of them, `(m, dim)` float32, always the same ones."""

    def assign_and_sum(self, centres: Tensor) -> tuple[Tensor, Tensor]:
        """For `(k, dim)` centres: the fixed-point sums `(k, dim)` int64 and the counts `(k,)` int64."""


class ArrayPoints:
    """`Points` held in one `(n, dim)` float32 tensor; the sample is its first rows."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors
        self.count, self.dim = vectors.shape

    def sample(self, size: int) -> Tensor:
        """The first `size` rows."""
        return self.vectors[:size]

    def assign_and_sum(self, centres: Tensor) -> tuple[Tensor, Tensor]:
        """See `Points`."""
        labels, _ = assign(self.vectors, centres)
        return fixed_point_sums(self.vectors, labels, centres.shape[0])


def assign(vectors: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 4: the nearest centre of each unit vector, ties to the smaller number.

    vectors `(n, dim)`, centres `(k, dim)`. Returns labels `(n,)` int64 and cosines `(n,)` float32.
    """
    labels = torch.empty(vectors.shape[0], dtype=torch.int64, device=vectors.device)
    cosines = torch.empty(vectors.shape[0], device=vectors.device)
    for start, count, block in blocks(vectors, LARGE):
        best = (block @ centres.T).max(1)
        labels[start : start + count] = best.indices[:count]
        cosines[start : start + count] = best.values[:count]
    return labels, cosines


def fixed_point_sums(vectors: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Sums `(k, dim)` and counts `(k,)` per label, int64: whole numbers, so that no order or sharding can matter."""
    sums = torch.zeros(k, vectors.shape[1], dtype=torch.int64, device=vectors.device)
    for start in range(0, vectors.shape[0], 8192):
        part = (vectors[start : start + 8192] * FIXED_POINT).round_().long()
        sums.index_add_(0, labels[start : start + 8192], part)
    return sums, torch.bincount(labels, minlength=k)


def spherical_kmeans(points: Points, k: int, iterations: int, sample_size: int, seed: int) -> Tensor:
    """Centres `(k, dim)`, unit vectors, float32.

    Starts from k-means++ on the sample. A cluster that has become empty is re-seeded by the sample vector that is
    worst represented by the centres (lowest best cosine; ties to the earlier one). Zero vectors have no direction: they
    never become centres while there are others, and belong to cluster 0. Stops early when nothing changes.
    """
    sample = points.sample(sample_size)
    lit = sample[sample.any(1)]
    sample = lit if len(lit) else sample
    centres = plus_plus(sample, k, seed)
    for _ in range(iterations):
        sums, counts = points.assign_and_sum(centres)
        following = normalise((sums.double() / FIXED_POINT).float())
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):
            filled = following[counts > 0]
            _, cosines = assign(sample, filled)
            worst = torch.sort(cosines, stable=True).indices[: len(empty)]
            following[empty[: len(worst)]] = sample[worst]
        if torch.equal(following, centres):
            break
        centres = following
    return centres


def plus_plus(sample: Tensor, k: int, seed: int) -> Tensor:
    """k-means++ (Arthur & Vassilvitskii 2007) for the distance 1 - cosine; `(k, dim)` rows of `sample`.

    Where fewer than k distinct vectors exist, the rest repeats the first one, so that its cluster is empty.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)  # the same choices for every device
    first = int(torch.randint(sample.shape[0], (1,), generator=generator, device="cpu"))
    chosen = [first]
    distance = (1 - sample @ sample[first]).clamp_(min=0)
    for _ in range(1, k):
        total = distance.double().cumsum(0)
        if total[-1] <= 1e-6:
            break
        share = torch.rand(1, generator=generator, dtype=torch.float64, device="cpu").to(total.device)
        target = share * total[-1]
        pick = min(int(torch.searchsorted(total, target)), sample.shape[0] - 1)
        chosen.append(pick)
        distance = torch.minimum(distance, (1 - sample @ sample[pick]).clamp_(min=0))
    chosen += [first] * (k - len(chosen))
    return sample[torch.tensor(chosen, device=sample.device)].clone()
