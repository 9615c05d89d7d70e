"""Spherical k-means: its result, which neither order nor sharding changes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from kt_batch.kernels.kmeans import (
    ArrayPoints,
    assign,
    fixed_point_sums,
    plus_plus,
    spherical_kmeans,
    split_large,
)
from kt_batch.kernels.tiles import normalise
from tests.support.synthetic import clustered


class Shards:
    """`Points` in pieces, with the sample of the whole array."""

    def __init__(self, pieces: Sequence[Tensor], sample: Tensor) -> None:
        self.pieces = pieces
        self.count = sum(len(piece) for piece in pieces)
        self.dim = pieces[0].shape[1]
        self._sample = sample

    def sample(self, size: int) -> Tensor:
        return self._sample[:size]

    def assign_and_sum(self, centres: Tensor) -> tuple[Tensor, Tensor]:
        parts = [fixed_point_sums(piece, assign(piece, centres)[0], len(centres)) for piece in self.pieces]
        return torch.stack([sums for sums, _ in parts]).sum(0), torch.stack([counts for _, counts in parts]).sum(0)


def at_degrees(*angles: float) -> Tensor:
    """Return unit vectors of the plane."""
    return torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in angles])


def degrees(vectors: Tensor) -> list[float]:
    return sorted(math.degrees(math.atan2(y, x)) for x, y in vectors.tolist())


def test_four_points_become_two_clusters_with_centres_half_way() -> None:
    points = at_degrees(0, 10, 80, 90)
    for seed in range(5):
        centres = spherical_kmeans(ArrayPoints(points), 2, iterations=10, sample_size=4, seed=seed)
        torch.testing.assert_close(torch.tensor(degrees(centres)), torch.tensor([5.0, 85.0]), atol=1e-4, rtol=0)


def test_a_centre_is_the_normalised_sum_so_brightness_never_counts() -> None:
    # One cluster of 0, 0 and 90 degrees: the sum is (2, 1), 26.57 degrees.
    centres = spherical_kmeans(ArrayPoints(at_degrees(0, 0, 90)), 1, iterations=3, sample_size=3, seed=0)
    torch.testing.assert_close(centres, torch.tensor([[2.0, 1.0]]) / math.sqrt(5), atol=1e-6, rtol=0)


def test_a_point_between_two_centres_goes_to_the_first() -> None:
    labels, cosines = assign(at_degrees(45), torch.eye(2))
    assert labels.tolist() == [0]
    torch.testing.assert_close(cosines, torch.tensor([math.sqrt(0.5)]))


def test_an_empty_cluster_is_seeded_again_with_the_worst_represented_point() -> None:
    # k-means++ takes these for one point and starts from two equal centres; the second cluster stays empty.
    near = 0.05
    points = at_degrees(0, 0, near)
    start = plus_plus(points, 2, seed=0)
    assert torch.equal(start[0], start[1])
    assert spherical_kmeans(ArrayPoints(points), 2, iterations=1, sample_size=3, seed=0)[1].equal(points[2])
    centres = spherical_kmeans(ArrayPoints(points), 2, iterations=5, sample_size=3, seed=0)
    assert assign(points, centres)[0].bincount(minlength=2).sort().values.tolist() == [1, 2]
    torch.testing.assert_close(torch.tensor(degrees(centres)), torch.tensor([0, near]), atol=1e-4, rtol=0)


def test_more_clusters_than_distinct_points_leave_the_rest_empty() -> None:
    points = at_degrees(0, 0, 90)
    centres = spherical_kmeans(ArrayPoints(points), 4, iterations=5, sample_size=3, seed=0)
    labels, cosines = assign(points, centres)
    assert centres.shape == (4, 2)
    assert len(labels.unique()) == 2
    torch.testing.assert_close(cosines, torch.ones(3))


def test_plus_plus_never_takes_one_of_few_distinct_points_twice() -> None:
    points = at_degrees(*[0] * 50, 60, 120)
    for seed in range(10):
        assert degrees(plus_plus(points, 3, seed)) == sorted(degrees(at_degrees(0, 60, 120)))


def test_zero_vectors_never_become_centres() -> None:
    points = torch.cat([torch.zeros(100, 2), at_degrees(0, 60, 120)])
    for seed in range(5):
        centres = spherical_kmeans(ArrayPoints(points), 3, iterations=5, sample_size=103, seed=seed)
        torch.testing.assert_close(torch.tensor(degrees(centres)), torch.tensor([0.0, 60, 120]), atol=1e-4, rtol=0)


def test_only_zero_vectors_are_one_cluster() -> None:
    points = torch.zeros(10, 2)
    centres = spherical_kmeans(ArrayPoints(points), 3, iterations=5, sample_size=10, seed=0)
    assert centres.eq(0).all()
    assert assign(points, centres)[0].eq(0).all()


def test_sums_are_whole_numbers() -> None:
    sums, counts = fixed_point_sums(torch.tensor([[0.5, -0.25], [0.5, 0.25], [1, 0]]), torch.tensor([1, 1, 0]), 3)
    assert sums.tolist() == [[2**24, 0], [2**24, 0], [0, 0]]
    assert counts.tolist() == [1, 2, 0]


def test_the_order_of_the_points_does_not_change_a_bit_of_the_sums(generator: torch.Generator) -> None:
    points = normalise(clustered(3000).flatten(1))
    labels = torch.randint(7, (3000,), generator=generator)
    shuffled = torch.randperm(3000, generator=generator)
    one, other = fixed_point_sums(points, labels, 7), fixed_point_sums(points[shuffled], labels[shuffled], 7)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def test_shards_give_the_very_same_centres_as_one_array(generator: torch.Generator) -> None:
    points = normalise(clustered(3000).flatten(1))
    whole = spherical_kmeans(ArrayPoints(points), 9, iterations=6, sample_size=500, seed=1)
    shuffled = points[torch.randperm(3000, generator=generator)]
    for sizes in ([3000], [1, 2999], [1023, 1025, 952], [300] * 10):
        shards = Shards(shuffled.split(sizes), points[:500])
        centres = spherical_kmeans(shards, 9, iterations=6, sample_size=500, seed=1)
        assert centres.numpy().tobytes() == whole.numpy().tobytes()


def test_more_iterations_never_lower_the_sum_of_similarities() -> None:
    points = ArrayPoints(normalise(clustered(1000, spread=1).flatten(1)))
    found = [spherical_kmeans(points, 6, n, 1000, seed=2) for n in (1, 2, 4, 8)]
    sums = [assign(points.vectors, centres)[1].double().sum().item() for centres in found]
    assert sums == sorted(sums)
    assert sums[0] < sums[-1]


def test_the_same_seed_gives_the_same_centres_and_another_seed_others() -> None:
    points = ArrayPoints(normalise(clustered(500).flatten(1)))
    one, again, other = (spherical_kmeans(points, 5, 2, 500, seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def uneven(count: int = 6000) -> Tensor:
    """Return unit vectors around eight directions; the first has half of them."""
    random = torch.Generator().manual_seed(3)
    directions = torch.randn(8, 16, generator=random)
    weights = torch.tensor([7.0] + [1.0] * 7)
    chosen = torch.multinomial(weights, count, replacement=True, generator=random)
    return normalise(directions[chosen] + 0.4 * torch.randn(count, 16, generator=random))


def sizes(points: Tensor, centres: Tensor) -> list[int]:
    return torch.bincount(assign(points, centres)[0], minlength=len(centres)).tolist()


def test_large_clusters_are_split_until_none_is_larger_than_allowed() -> None:
    points = uneven()
    centres = spherical_kmeans(ArrayPoints(points), 8, iterations=10, sample_size=6000, seed=0)
    assert max(sizes(points, centres)) > 1000
    even = split_large(ArrayPoints(points), centres, 1000, iterations=10, seed=0)
    assert max(sizes(points, even)) <= 1000
    assert min(sizes(points, even)) > 0
    torch.testing.assert_close(even.norm(dim=1), torch.ones(len(even)))


def test_clusters_that_fit_are_left_as_they_are() -> None:
    points = uneven()
    centres = spherical_kmeans(ArrayPoints(points), 8, iterations=10, sample_size=6000, seed=0)
    assert split_large(ArrayPoints(points), centres, max(sizes(points, centres)), iterations=10, seed=0) is centres


def test_the_parts_of_a_cluster_take_its_place() -> None:
    points = torch.cat([at_degrees(0).repeat(2, 1), at_degrees(60, 60, 61, 89, 90, 90), at_degrees(180).repeat(2, 1)])
    centres = at_degrees(0, 75, 180)
    found = split_large(ArrayPoints(points), centres, 3, iterations=10, seed=0)
    assert torch.equal(found[[0, -1]], centres[[0, -1]])
    assert len(found) == 4
    assert degrees(found[1:3]) == [pytest.approx(60.33, abs=0.1), pytest.approx(89.67, abs=0.1)]


def test_a_cluster_of_equal_vectors_remains_whole() -> None:
    points = torch.cat([at_degrees(10).repeat(50, 1), at_degrees(80, 85)])
    centres = at_degrees(10, 82)
    assert torch.equal(split_large(ArrayPoints(points), centres, 5, iterations=10, seed=0), centres)


def test_zero_vectors_do_not_end_up_as_a_centre_of_their_own() -> None:
    points = torch.cat([torch.zeros(20, 2), at_degrees(0, 1, 2, 40, 41, 42, 80, 81)])
    found = split_large(ArrayPoints(points), at_degrees(20), 4, iterations=10, seed=0)
    assert found.any(1).all()
    assert len(found) > 1


def test_half_precision_points_give_nearly_the_same_clusters() -> None:
    points = uneven()
    centres = spherical_kmeans(ArrayPoints(points), 8, iterations=10, sample_size=6000, seed=0)
    half = spherical_kmeans(ArrayPoints(points.half()), 8, iterations=10, sample_size=6000, seed=0)
    assert half.dtype == torch.float32
    same = assign(points, centres)[0] == assign(points, half)[0]
    assert same.float().mean() > 0.99
