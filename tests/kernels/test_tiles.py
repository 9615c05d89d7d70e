"""Products of fixed shape make a score depend only on its query and patch."""

from __future__ import annotations

import pytest
import torch

from kt_batch.kernels.tiles import blocks, canonical_scores, normalise, pad_rows, row_norms
from tests.support.synthetic import clustered


def test_rows_are_padded_with_zeros_to_the_next_multiple() -> None:
    padded = pad_rows(torch.ones(3, 2), 4)
    assert padded.tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]
    assert pad_rows(padded, 4) is padded


def test_every_block_has_the_same_shape() -> None:
    cut = list(blocks(torch.arange(10.0).view(5, 2), rows=2))
    assert [(start, count) for start, count, _ in cut] == [(0, 2), (2, 2), (4, 1)]
    assert {block.shape for _, _, block in cut} == {(2, 2)}
    assert cut[-1][2].tolist() == [[8, 9], [0, 0]]


def test_an_empty_matrix_has_no_blocks() -> None:
    assert list(blocks(torch.empty(0, 2))) == []
    assert canonical_scores(torch.empty(0, 2), torch.empty(0, 2)).tolist() == []
    assert normalise(torch.empty(0, 2)).shape == (0, 2)


def test_a_canonical_score_matches_a_hand_computed_example() -> None:
    scores = canonical_scores(torch.tensor([[0.5, 0.5], [1, 0]]), torch.tensor([[0.25, 0.5], [0, 1]]))
    assert scores.dtype == torch.float64
    assert scores.tolist() == [0.375, 0]


def test_a_canonical_score_does_not_depend_on_batch_or_position(generator: torch.Generator) -> None:
    queries, patches = normalise(clustered(2500, seed=1).flatten(1)), normalise(clustered(2500, seed=2).flatten(1))
    together = canonical_scores(queries, patches)
    order = torch.randperm(2500, generator=generator)
    assert torch.equal(canonical_scores(queries[order], patches[order]), together[order])
    for row in (0, 1023, 1024, 2499):
        assert torch.equal(canonical_scores(queries[row : row + 1], patches[row : row + 1]), together[row : row + 1])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dim", [32, 48, 512])
@pytest.mark.parametrize(("tile", "patches"), [(256, 64), (256, 320), (1024, 64)])
def test_a_row_of_a_product_does_not_depend_on_its_position_in_a_tile(
    threads: int, dim: int, tile: int, patches: int, generator: torch.Generator
) -> None:
    query, library = torch.rand(1, dim, generator=generator), torch.rand(patches, dim, generator=generator)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        same_everywhere = query.repeat(tile, 1) @ library.T
        among_others = torch.rand(tile, dim, generator=generator)
        among_others[tile // 3] = query[0]
        assert torch.equal(same_everywhere, same_everywhere[:1].expand(tile, -1))
        assert torch.equal((among_others @ library.T)[tile // 3], same_everywhere[0])
    finally:
        torch.set_num_threads(before)


def test_normalising_a_vector_does_not_depend_on_its_neighbours() -> None:
    vectors = clustered(1500).flatten(1)
    together = normalise(vectors)
    assert torch.equal(normalise(vectors[700:701]), together[700:701])
    assert torch.equal(normalise(vectors[3:]), together[3:])


def test_norms_are_euclidean() -> None:
    assert row_norms(torch.tensor([[3.0, 4.0], [0, 0]])).tolist() == [5, 0]
    torch.testing.assert_close(normalise(torch.tensor([[3.0, 4.0]])), torch.tensor([[0.6, 0.8]]))


def test_a_zero_vector_stays_zero_so_its_ncc_is_zero() -> None:
    zero = normalise(torch.zeros(1, 8))
    assert zero.eq(0).all()
    assert canonical_scores(zero, normalise(torch.rand(1, 8))).tolist() == [0]


def test_normalising_a_tiny_vector_gives_length_one() -> None:
    # The reciprocal of its norm is beyond float32.
    assert normalise(torch.tensor([[1e-40, 0.0]])).tolist() == [[1, 0]]
    assert normalise(torch.tensor([[1e30, 0.0]])).tolist() == [[1, 0]]


def test_half_precision_is_returned_as_float32() -> None:
    assert normalise(torch.ones(2, 4, dtype=torch.float16)).dtype == torch.float32
