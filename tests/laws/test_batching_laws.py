"""Matches do not depend on who else asks, nor on how an index is divided into shards."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.index.index import Index
from kt_batch.index.searchers import leaf_choice
from kt_batch.index.searchers.candidates import Best
from kt_batch.index.searchers.estimates import prepare_estimates, search_fast
from kt_batch.index.searchers.visits import grouped, products_of
from kt_batch.index.threads import in_turn
from kt_batch.kernels.fixed_point import round_, rounded_queries
from kt_batch.models.precision import quick_products
from tests.support.search_laws import Case, assert_same, cases, many, small_rounds


def in_parts(index: Index, vectors: Tensor, k: int, probes: int, sizes: list[int]) -> Best:
    """Search for queries in batches of these sizes, again and again until all are done."""
    parts: list[Best] = []
    start = 0
    while start < len(vectors):
        size = sizes[len(parts) % len(sizes)]
        parts.append(search_fast(index, vectors[start : start + size], k, probes, with_values=True))
        start += size
    return Best(*(torch.cat([getattr(part, name) for part in parts]) for name in ("rows", "scores", "values")))


@many
@given(
    cases(4),
    st.integers(1, 3),
    st.integers(1, 12),
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.booleans(),
)
def test_matches_are_the_same_for_any_batches_order_subset_and_shards(
    case: Case,
    top_k: int,
    probes: int,
    sizes: list[int],
    grouped_choice: bool,
) -> None:
    index, vectors = case.index, case.vectors
    k = min(top_k, index.count)
    probes = index.leaves_to_probe(probes, k)
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(case.seed))
    with small_rounds(), pytest.MonkeyPatch.context() as patch:
        if grouped_choice:
            patch.setattr(leaf_choice, "GROUPED", 1)
        together = search_fast(index, vectors, k, probes, with_values=True)
        assert_same(in_parts(index, vectors, k, probes, sizes), together)
        assert_same(search_fast(index, vectors[order], k, probes, with_values=True), together, order)
        some = order[: max(1, len(order) // 3)]
        assert_same(search_fast(index, vectors[some], k, probes, with_values=True), together, some)
        assert_same(search_fast(index.in_one_piece(), vectors, k, probes, with_values=True), together)


@many
@given(cases(4))
def test_estimates_are_exact(
    case: Case,
) -> None:
    index, vectors = case.index, case.vectors
    with quick_products():
        level = rounded_queries(prepare_estimates(index, vectors, in_turn)[0])
        leaves = torch.arange(len(vectors)) % index.tree.leaves
        for group in grouped(index, leaves):
            products = products_of(index, level, torch.arange(len(vectors)), group)
            x = index.window_levels(group.leaves, group.width)
            x[..., -1].clamp_(min=0)  # the rest of a foreign patch is a huge negative number
            own = (products.values > -2).view(len(x), -1, group.width)
            rows = level[products.who].view(len(x), -1, level.shape[1])
            exact = torch.bmm(rows.double(), x.double().transpose(1, 2))
            assert products.values.view_as(exact).double()[own].equal(exact[own])


def test_the_longest_queries_and_patches_have_exact_estimates() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 128, generator=generator).double()
    x[:64, 1:] *= torch.linspace(0, 1, 64).double()[:, None]  # nearly along one direction
    x = (x / x.norm(dim=1, keepdim=True)).float()
    patches = x.half().float() * 1.0005
    short, kept = rounded_queries(x), round_(patches.clone())
    for rows in (1, 3, 8, 500):
        assert (short[:rows] @ kept.T).double().equal(short[:rows].double() @ kept.double().T)
    assert float((short.double() @ kept.double().T).abs().max()) < 1
