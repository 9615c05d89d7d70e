"""Laws of exact, tree and scan, for ordinary and degenerate libraries and queries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kt_batch.config import SearchConfig
from kt_batch.index.search import find
from kt_batch.index.searchers import certified
from kt_batch.index.searchers.estimates import prepare_estimates
from kt_batch.index.searchers.scan import FEW, best_estimates, level_of
from kt_batch.index.shards import match_parts
from kt_batch.index.threads import in_turn
from kt_batch.kernels.haar import haar
from kt_batch.kernels.tiles import canonical_scores
from kt_batch.models.precision import quick_integers, quick_products
from tests.support.search_laws import Case, cases, many
from tests.support.synthetic import brute_force


@many
@given(cases(3), st.integers(1, 5), st.integers(1, 4), st.booleans(), st.booleans())
def test_a_certified_search_is_brute_force_to_the_last_bit(
    case: Case,
    top_k: int,
    probes: int,
    of_many: bool,
    integers: bool,
) -> None:
    index, queries = case.index, case.queries
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certified, "BEGIN", 1)  # as in an index of many leaves, the first matches are poor
        if of_many:  # as for many queries, all bounds are used
            patch.setattr(certified, "MANY", 1)
            patch.setattr(certified, "WORTH", 0)
        patch.setattr(certified, "quick_integers", lambda: integers)
        if not quick_integers():  # integer products may overflow on this processor
            patch.setattr(certified, "integer_products", lambda q, x: (q.long() @ x.long().T).int())
        found = find(index, queries, SearchConfig(probes=probes, top_k=top_k, certify=True))
    rows, scores = brute_force(index, queries, top_k)
    assert found.certified.all()
    assert found.scores.equal(scores)
    assert found.rows.equal(rows)


@many
@given(cases(3), st.integers(1, 5))
def test_an_exact_search_is_brute_force_to_the_last_bit(
    case: Case,
    top_k: int,
) -> None:
    index, queries = case.index, case.queries
    found = find(index, queries, SearchConfig(searcher="exact", top_k=top_k))
    rows, scores = brute_force(index, queries, top_k)
    assert found.certified.all()
    assert found.scores.equal(scores)
    assert found.rows.equal(rows)


@many
@given(cases(3), st.integers(1, 5), st.integers(1, 4))
def test_a_fast_search_gives_canonical_scores_of_distinct_patches_best_first(
    case: Case,
    top_k: int,
    probes: int,
) -> None:
    index, queries = case.index, case.others
    found = find(index, queries, SearchConfig(probes=probes, top_k=top_k))
    k = min(top_k, index.count)
    assert found.rows.shape == (len(queries), k)
    assert found.rows.min() >= 0
    for n, rows in enumerate(found.rows.tolist()):
        assert len(set(rows)) == k
        by_rank = list(zip((-found.scores[n]).tolist(), map(bytes, index.patch_ids(found.rows[n])), strict=True))
        assert by_rank == sorted(by_rank)
    vectors, _ = match_parts(haar(queries), index.tree.mean)
    repeated = vectors.repeat_interleave(k, 0)
    assert found.scores.flatten().equal(canonical_scores(repeated, index.keys(found.rows.flatten())))


@many
@given(cases(3), st.integers(1, 5))
def test_a_scan_is_never_above_brute_force_and_is_brute_force_wherever_the_best_estimates_hold_its_matches(
    case: Case,
    top_k: int,
) -> None:
    index, queries = case.index, case.queries
    found = find(index, queries, SearchConfig(searcher="scan", top_k=top_k))
    rows, scores = brute_force(index, queries, top_k)
    assert found.rows.shape == rows.shape
    assert found.scores.le(scores).all()
    with quick_products():  # as in a search
        level, _ = prepare_estimates(index, case.vectors, in_turn)
    read = best_estimates(level_of(index, "cpu"), level, min(FEW + rows.shape[1], index.count)).rows
    held = (read.view(len(queries), 1, -1) == rows[:, :, None]).any(2).all(1)
    assert found.rows[held].equal(rows[held])
    assert found.scores[held].equal(scores[held])
    if index.count <= FEW + top_k:
        assert held.all()
