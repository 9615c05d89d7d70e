"""Orders and ranks of values are those of plain sorting."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from kt_batch.index.ordering import largest_of_rank
from kt_batch.index.searchers.leaf_choice import largest


@given(st.integers(1, 90), st.integers(1, 300), st.integers(1, 5), st.integers(0, 99))
def test_the_value_of_a_rank_and_the_largest_columns_are_those_of_sorted_rows(
    rank: int, columns: int, rows: int, seed: int
) -> None:
    rank = min(rank, columns)
    some = torch.Generator().manual_seed(seed)
    values = torch.randint(-columns, columns, (rows, columns), generator=some).float()  # some are equal
    ordered = values.sort(dim=1, descending=True).values
    assert largest_of_rank(values, rank).equal(ordered[:, rank - 1])
    found = largest(values, rank)
    assert all(len(set(row)) == rank for row in found.tolist())
    assert values.gather(1, found).sort(dim=1, descending=True).values.equal(ordered[:, :rank])
