"""Laws of the first level: a bound never underestimates a score."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.kernels.bounds import first_level_slack, refined_slack, rounding_slack
from kt_batch.kernels.principal import (
    bound_correction,
    first_level,
    further_directions,
    halved,
    other_half,
    principal_directions,
    stored_first_level,
)
from kt_batch.kernels.tiles import normalise

many = settings(max_examples=150, deadline=None)
seeds = st.integers(0, 2**32 - 1)
dims = st.integers(1, 96)
KINDS = ("any", "positive", "within the directions", "beside them", "one axis", "subnormal", "equal values", "zero")
kinds = st.sampled_from(KINDS)


def vectors_of(kind: str, seed: int, count: int, directions: Tensor) -> Tensor:
    """Draw `(count, D)` unit or zero vectors that are difficult for directions `(D, d)`."""
    generator = torch.Generator().manual_seed(seed)
    dim, d = directions.shape
    noise = torch.randn(count, dim, generator=generator)
    match kind:
        case "within the directions":  # the rest is little more than float32 rounding
            x = (
                torch.randn(count, d, generator=generator) @ directions.T
                + 10 ** (-2 - 6 * torch.rand(1, generator=generator)) * noise
            )
        case "beside them":
            x = noise - noise @ directions @ directions.T
        case "positive":
            x = noise.abs() * (noise > 0.5)
        case "one axis":
            x = torch.nn.functional.one_hot(torch.arange(count) % dim, dim).float()
        case "subnormal":  # one large value, others that float16 rounds coarsely, and some that float32 rounds coarsely
            x = noise * 10 ** (-45 * torch.rand(count, dim, generator=generator))
            x[:, 0] = 1
        case "equal values":
            x = noise.sign()
        case "zero":
            x = torch.zeros(count, dim)
        case _:
            x = noise
    return normalise(x)


def some_directions(kind: str, seed: int, dim: int, count: int) -> Tensor:
    """Return `(dim, at most count)` directions fitted to vectors of one kind."""
    return principal_directions(vectors_of(kind, seed, 40, torch.eye(dim)), count)


@many
@given(seeds, kinds, st.integers(1, 1100), dims, st.integers(1, 127))
def test_directions_are_orthonormal_and_their_signs_are_fixed(
    seed: int, kind: str, vectors: int, dim: int, count: int
) -> None:
    found = principal_directions(vectors_of(kind, seed, vectors, torch.eye(dim)), count)
    assert found.shape == (dim, min(dim, count))
    gram = found.double().T @ found.double()
    # The stated 2^-18 of `first_level_slack`.
    assert torch.linalg.matrix_norm(gram - torch.eye(len(gram), dtype=torch.float64), 2) < 2**-18
    assert (found.amax(0) + 1e-6 >= -found.amin(0)).all()  # its largest component is positive


@many
@given(seeds, kinds, kinds, dims)
def test_a_complete_set_of_directions_leaves_only_rounding(seed: int, kind: str, other: str, dim: int) -> None:
    directions = some_directions(other, seed + 1, dim, dim)
    rest = first_level(vectors_of(kind, seed, 30, directions), directions)[:, -1]
    assert (rest.square() <= 4 * rounding_slack(dim) + 2**-18).all()


@many
@given(seeds, kinds, kinds, dims, st.integers(1, 127))
def test_a_rest_length_is_never_too_short(seed: int, kind: str, other: str, dim: int, count: int) -> None:
    directions = some_directions(other, seed + 1, dim, count)
    x = vectors_of(kind, seed, 30, directions)
    exact = directions.double()
    left = (x.double() - x.double() @ exact @ exact.T).norm(dim=1)
    level = first_level(x, directions)
    assert (level[:, -1].double() >= left).all()
    assert (stored_first_level(level)[:, -1].double() >= level[:, -1].double()).all()


@many
@given(seeds, kinds, kinds, kinds, dims, st.integers(1, 127), st.sampled_from([1.0, -1.0]), st.floats(0, 0.1))
def test_no_score_exceeds_the_bound_of_its_stored_first_level(
    seed: int, kind: str, prepared_queries: str, fitted: str, dim: int, count: int, side: float, away: float
) -> None:
    directions = some_directions(fitted, seed + 1, dim, count)
    x = vectors_of(kind, seed, 30, directions)
    # Queries of any kind, and queries equal, opposite or close to the stored vectors.
    near = normalise(side * x + away * vectors_of(prepared_queries, seed + 2, 30, directions))
    queries = torch.cat([vectors_of(prepared_queries, seed + 3, 30, directions), near])
    truth = queries.double() @ x.double().T
    q, stored = first_level(queries, directions), stored_first_level(first_level(x, directions)).float()
    slack = first_level_slack(dim)
    assert (q @ stored.T + slack >= truth).all()
    assert (halved(q) @ halved(stored).T + slack >= truth).all()


@many
@given(seeds, kinds, kinds, kinds, kinds, dims, st.integers(1, 90), st.integers(1, 127), st.floats(0, 0.1))
def test_no_score_exceeds_the_bound_of_its_further_coordinates(
    seed: int, kind: str, prepared_queries: str, fitted: str, to: str, dim: int, count: int, more: int, away: float
) -> None:
    directions = some_directions(fitted, seed + 1, dim, count)
    further = further_directions(vectors_of(to, seed + 4, 40, directions), directions, more)
    x = vectors_of(kind, seed, 30, directions)
    near = normalise(x + away * vectors_of(prepared_queries, seed + 2, 30, directions))
    queries = torch.cat([vectors_of(prepared_queries, seed + 3, 30, directions), near])
    truth = queries.double() @ x.double().T
    slack = 2 * rounding_slack(dim)
    q, stored = first_level(queries, directions), stored_first_level(first_level(x, directions)).float()
    products = halved(q) @ halved(stored).T
    products += other_half(q, halved(q), 1) @ other_half(stored, halved(stored), -1).T
    torch.testing.assert_close(products, q @ stored.T, atol=2e-6, rtol=0)
    assert (products + first_level_slack(dim) >= truth).all()
    products += bound_correction(q, queries @ further, slack, 1) @ bound_correction(stored, x @ further, slack, -1).T
    assert (products + refined_slack(dim) >= truth).all()


@many
@given(seeds, kinds, kinds, dims, st.integers(1, 96), st.integers(1, 127))
def test_further_directions_are_orthonormal_and_orthogonal_to_the_first(
    seed: int, kind: str, other: str, dim: int, count: int, more: int
) -> None:
    directions = some_directions(other, seed, dim, count)
    found = further_directions(vectors_of(kind, seed + 1, 40, directions), directions, more)
    assert found.shape == (dim, min(more, dim - directions.shape[1]))
    both = torch.cat([directions, found], dim=1).double()
    gram = both.T @ both
    assert torch.linalg.matrix_norm(gram - torch.eye(len(gram), dtype=torch.float64), 2) < 2**-18


@many
@given(seeds, st.integers(1, 40), st.integers(2, 129))
def test_the_bound_of_a_half_level_is_at_least_that_of_the_whole(seed: int, count: int, width: int) -> None:
    q, x = (torch.randn(count, width, generator=torch.Generator().manual_seed(seed + n)).double() for n in (0, 1))
    assert halved(q).shape == (count, width // 2 + 1)
    assert (halved(q) @ halved(x).T >= q @ x.T).all()
