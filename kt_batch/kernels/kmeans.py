"""Spherical k-means on a `Points` object, which may be one array or several shards.

The paper's eq. 3 prints a minimum of a similarity, an erratum: the sum of NCC to the own centre is maximised. Eq. 5 is
solved by the normalised sum of a cluster's unit vectors.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from kt_batch.kernels.tiles import LARGE, blocks, normalise

FIXED_POINT = 2.0**24
SPLIT_ROUNDS = 8  # of `split_large`; two or three suffice unless equal vectors make a cluster that cannot be split


class Points(Protocol):
    """Unit vectors to cluster."""

    count: int
    dim: int

    def sample(self, size: int) -> Tensor:
        """Return at most `size` of them, `(m, dim)` float32, the same ones at every call."""

    def assign_and_sum(self, centres: Tensor) -> tuple[Tensor, Tensor]:
        """Return fixed-point sums `(k, dim)` int64 and counts `(k,)` int64 of the clusters of centres `(k, dim)`."""


class ArrayPoints:
    """`Points` in one `(n, dim)` tensor, float32, or float16 to save memory; the sample is its first rows."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors
        self.count, self.dim = vectors.shape

    def sample(self, size: int) -> Tensor:
        """Return the first `size` rows, float32."""
        return self.vectors[:size].float()

    def assign_and_sum(self, centres: Tensor) -> tuple[Tensor, Tensor]:
        """See `Points`."""
        labels, _ = assign(self.vectors, centres)
        return fixed_point_sums(self.vectors, labels, centres.shape[0])


def assign(vectors: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Assign each unit vector to its nearest centre (eq. 4), ties to the smaller number.

    Args:
        vectors: `(n, dim)` float32 or float16.
        centres: `(k, dim)` float32.

    Returns:
        Labels `(n,)` int64 and cosines `(n,)` float32.
    """
    labels = torch.empty(vectors.shape[0], dtype=torch.int64, device=vectors.device)
    cosines = torch.empty(vectors.shape[0], device=vectors.device)
    for start, count, block in blocks(vectors, LARGE):
        best = (block.float() @ centres.T).max(1)
        labels[start : start + count] = best.indices[:count]
        cosines[start : start + count] = best.values[:count]
    return labels, cosines


def fixed_point_sums(vectors: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return sums `(k, dim)` and counts `(k,)` per label, int64, which no order or sharding can change."""
    sums = torch.zeros(k, vectors.shape[1], dtype=torch.int64, device=vectors.device)
    for start in range(0, vectors.shape[0], 8192):
        part = (vectors[start : start + 8192].float() * FIXED_POINT).round_().long()
        sums.index_add_(0, labels[start : start + 8192], part)
    return sums, torch.bincount(labels, minlength=k)


def spherical_kmeans(points: Points, k: int, iterations: int, sample_size: int, seed: int) -> Tensor:
    """Cluster unit vectors; return the centres `(k, dim)`, unit vectors, float32.

    Starts from k-means++ on the sample, and stops early when nothing changes. An empty cluster restarts at the sample
    vector with the lowest best cosine, ties to the earlier one. Zero vectors have no direction: they belong to cluster
    0, and become centres only where there are no other vectors.
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
    """Choose k rows `(k, dim)` of `sample` by k-means++ (Arthur & Vassilvitskii 2007), with distance 1 - cosine.

    Where there are fewer than k distinct vectors, the remaining rows repeat the first one.
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


def split_large(points: ArrayPoints, centres: Tensor, most: float, iterations: int, seed: int) -> Tensor:
    """Split clusters of more than `most` vectors by k-means among their own, until none is larger.

    The parts of a cluster take its place in the order, so that neighbours stay neighbours. All vectors are assigned
    again after each round. A cluster of equal vectors remains as it is.

    Args:
        points: n vectors.
        centres: `(k, dim)` float32, unit vectors.
        most: Vectors of the largest cluster that is left whole.
        iterations: Iterations of each k-means.
        seed: Of each k-means.

    Returns:
        Centres `(m, dim)` float32, m >= k; `centres` itself where no cluster is too large.
    """
    for _ in range(SPLIT_ROUNDS):
        labels, _ = assign(points.vectors, centres)
        counts = torch.bincount(labels, minlength=len(centres))
        large = (counts > most).nonzero()[:, 0].tolist()
        parts = list(centres.split(1))
        for cluster in large:
            members = points.vectors[labels == cluster].float()
            pieces = max(2, math.ceil(len(members) / most))
            found = spherical_kmeans(ArrayPoints(members), pieces, iterations, len(members), seed)
            filled = assign(members, found)[0].unique()  # equal vectors leave clusters empty
            if len(filled) > 1:
                parts[cluster] = found[filled]
        following = torch.cat(parts)
        if len(following) == len(centres):
            break
        centres = following
    return centres
