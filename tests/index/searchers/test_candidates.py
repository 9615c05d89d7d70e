"""Candidates of many queries at once, against simple loops."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.config import IndexConfig
from kt_batch.index.index import Index
from kt_batch.index.searchers.candidates import (
    CHUNK,
    Pairs,
    ascending,
    best_by_score,
    best_few,
    canonically_best,
    distinct,
    few_of_each,
    joined,
    kth_best,
    pairs_by_leaf,
    scored,
)
from kt_batch.index.shards import match_parts
from kt_batch.kernels.haar import haar
from kt_batch.kernels.tiles import canonical_scores
from tests.support.synthetic import clustered, index_of, sharded_index_of

Plain = list[tuple[int, int, float]]  # (query, row, score)

QUERIES = 4
some = settings(max_examples=200, deadline=None)
# Few distinct values, so that ties and repetitions are frequent.
candidates = st.lists(
    st.tuples(st.integers(0, QUERIES - 1), st.integers(0, 5), st.sampled_from([-1.0, -0.5, 0.25, 0.5, 1.0])),
    max_size=40,
)
counts = st.integers(1, 6)


def pairs_of(plain: Plain) -> Pairs:
    who, rows, scores = zip(*plain, strict=True) if plain else ((), (), ())
    return Pairs(torch.tensor(who, dtype=torch.int64), torch.tensor(rows, dtype=torch.int64), torch.tensor(scores))


def plain_of(pairs: Pairs) -> Plain:
    return list(zip(pairs.who.tolist(), pairs.rows.tolist(), pairs.scores.tolist(), strict=True))


# ---- the best of a list ----


def test_the_best_two_of_each_query_by_hand() -> None:
    pairs = pairs_of([(1, 7, 0.5), (0, 3, 0.25), (1, 8, 1.0), (1, 9, 0.5), (0, 2, -1.0), (1, 6, 0.75)])
    assert plain_of(best_few(pairs, 2)) == [(0, 3, 0.25), (0, 2, -1.0), (1, 8, 1.0), (1, 6, 0.75)]
    assert kth_best(pairs, 3, 2).tolist() == [-1.0, 0.75, -torch.inf]


@some
@given(candidates, counts)
def test_the_best_few_are_those_of_a_loop_and_ties_go_to_the_earlier(plain: Plain, count: int) -> None:
    expected = []
    for query in range(QUERIES):
        own = [pair for pair in plain if pair[0] == query]
        expected += sorted(own, key=lambda pair: -pair[2])[:count]  # Python's sort is stable
    assert plain_of(best_few(pairs_of(plain), count)) == expected


@some
@given(candidates, counts)
def test_few_of_each_are_those_of_a_loop_and_ties_go_to_the_smaller_row(plain: Plain, count: int) -> None:
    expected = []
    for query in range(QUERIES):
        own = [pair for pair in plain if pair[0] == query]
        expected += sorted(own, key=lambda pair: (-pair[2], pair[1]))[:count]
    assert sorted(plain_of(few_of_each(pairs_of(plain), count))) == sorted(expected)


@some
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2))
def test_integers_ascend_as_the_scores_they_stand_for(scores: list[float]) -> None:
    found = ascending(torch.tensor(scores)).tolist()
    assert all(-(2**31) <= number < 2**31 for number in found)
    for one, other, a, b in zip(scores, scores[1:], found, found[1:], strict=False):
        assert (one < other, one == other) == (a < b, a == b)


@some
@given(candidates, counts)
def test_the_kth_best_score_is_that_of_a_loop_and_minus_infinity_where_there_are_fewer(plain: Plain, k: int) -> None:
    expected = []
    for query in range(QUERIES):
        own = sorted((score for who, _, score in plain if who == query), reverse=True)
        expected.append(own[k - 1] if len(own) >= k else -torch.inf)
    assert kth_best(pairs_of(plain), QUERIES, k).tolist() == expected


@some
@given(candidates)
def test_of_equal_pairs_the_first_is_kept(plain: Plain) -> None:
    first: dict[tuple[int, int], float] = {}
    for who, row, score in plain:
        first.setdefault((who, row), score)
    assert plain_of(distinct(pairs_of(plain))) == [(*pair, first[pair]) for pair in sorted(first)]


@some
@given(st.lists(candidates, max_size=4))
def test_joined_lists_are_one_list(parts: list[Plain]) -> None:
    assert plain_of(joined([pairs_of(part) for part in parts])) == [pair for part in parts for pair in part]


@some
@given(st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=2, unique=True), max_size=8))
def test_every_leaf_names_the_queries_that_probe_it(probed: list[list[int]]) -> None:
    expected = [
        (leaf, [query for query, leaves in enumerate(probed) if leaf in leaves])
        for leaf in sorted({leaf for leaves in probed for leaf in leaves})
    ]
    found = pairs_by_leaf(torch.tensor(probed, dtype=torch.int64).view(-1, 2))
    assert [(leaf, queries.tolist()) for leaf, queries in found] == expected


def test_no_candidates_have_no_best() -> None:
    none = pairs_of([])
    assert len(joined([])) == len(best_few(none, 3)) == len(distinct(none)) == 0
    assert kth_best(none, 2, 1).tolist() == [-torch.inf] * 2


# ---- with an index ----


@cache
def tied() -> tuple[Index, Tensor]:
    """Return an index in which every four patches tie, with a zero patch, and queries `(QUERIES, D)`.

    The ties are 12 patches at 4 brightnesses, exact in float16. The last query is zero, and ties with every patch.
    """
    brightness = 2.0 ** torch.arange(-2, 2)
    cells = (clustered(12, seed=3)[:, None] * brightness[:, None, None]).flatten(0, 1)
    index = index_of(torch.cat([cells, torch.zeros(1, 4, 8)]))
    assert index.count == 49
    queries, _ = match_parts(haar(torch.cat([clustered(3, seed=4), torch.zeros(1, 4, 8)])), index.tree.mean)
    return index, queries


@settings(max_examples=100, deadline=None)
@given(st.sets(st.tuples(st.integers(0, QUERIES - 1), st.integers(0, 48)), max_size=120), counts)
def test_the_canonically_best_are_those_of_a_loop_and_ties_go_to_the_smaller_id(
    chosen: set[tuple[int, int]], k: int
) -> None:
    index, queries = tied()
    expected_rows, expected_scores = [], []
    for query in range(QUERIES):
        own = []
        for row in sorted(row for who, row in chosen if who == query):
            at = torch.tensor([row])
            score = canonical_scores(queries[query : query + 1], index.keys(at)).item()
            own.append((-score, index.patch_ids(at)[0].tobytes(), row))
        best = sorted(own)[:k]
        expected_rows.append([row for _, _, row in best] + [-1] * (k - len(best)))
        expected_scores.append([-score for score, _, _ in best] + [-torch.inf] * (k - len(best)))
    pairs = scored(index, queries, pairs_of([(*pair, 0.0) for pair in sorted(chosen)]))
    found = canonically_best(index, queries, pairs, k)
    assert found.rows.tolist() == expected_rows
    assert found.scores.dtype == torch.float64
    assert found.scores.tolist() == expected_scores
    assert found.values is None


@settings(max_examples=100, deadline=None)
@given(st.sets(st.tuples(st.integers(0, QUERIES - 1), st.integers(0, 48)), max_size=120), st.integers(0, 99), counts)
def test_candidates_are_ranked_by_score_and_ties_go_to_the_smaller_id(
    chosen: set[tuple[int, int]], seed: int, k: int
) -> None:
    index, _ = tied()
    score = torch.randint(0, 3, (QUERIES, 49), generator=torch.Generator().manual_seed(seed)).double() / 2
    expected_rows, expected_scores = [], []
    for query in range(QUERIES):
        own = [
            (-score[query, row].item(), index.patch_ids(torch.tensor([row]))[0].tobytes(), row)
            for who, row in chosen
            if who == query
        ]
        best = sorted(own)[:k]
        expected_rows.append([row for _, _, row in best] + [-1] * (k - len(best)))
        expected_scores.append([-value for value, _, _ in best] + [-torch.inf] * (k - len(best)))
    pairs = pairs_of([(who, row, score[who, row].item()) for who, row in chosen])
    found = best_by_score(index, pairs, QUERIES, k)
    assert found.rows.tolist() == expected_rows
    assert found.scores.tolist() == expected_scores


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 48), min_size=6), min_size=QUERIES, max_size=QUERIES), st.integers(0, 99), counts
)
def test_values_are_those_of_the_rows_however_float32_scores_rank_the_candidates(
    chosen: list[set[int]], seed: int, k: int
) -> None:
    index, queries = tied()
    pairs = pairs_of([(query, row, 0.0) for query, rows in enumerate(chosen) for row in sorted(rows)])
    noise = torch.rand(len(pairs), generator=torch.Generator().manual_seed(seed)) * 2.0**-19  # within rounding
    pairs = scored(index, queries, pairs)
    pairs = Pairs(pairs.who, pairs.rows, pairs.scores + noise)
    best, plain = (
        canonically_best(index, queries, pairs, k, with_values=True),
        canonically_best(index, queries, pairs, k),
    )
    assert best.rows.equal(plain.rows)
    assert best.scores.equal(plain.scores)
    assert best.values is not None
    assert best.values.equal(index.values(best.rows.flatten()).view(QUERIES, k, 4, -1))


def test_a_float32_score_that_rounding_made_too_small_costs_no_patch_its_place() -> None:
    index, queries = tied()
    everything = scored(index, queries, pairs_of([(0, row, 0.0) for row in range(48)]))
    expected = canonically_best(index, queries[:1], everything, 1)
    worse = everything.scores.clone()
    worse[everything.rows == expected.rows[0, 0]] -= 2.0**-19  # within the slack of a product of 32 values, 2^-18
    found = canonically_best(index, queries[:1], Pairs(everything.who, everything.rows, worse), 1)
    assert found.rows.equal(expected.rows)


@pytest.mark.parametrize("space", ["raw", "centred"])
def test_scores_of_pairs_are_the_products_of_the_patches_in_full(space: str) -> None:
    index = index_of(clustered(700, seed=1), IndexConfig.model_validate({"match_space": space, "merge": 1}))
    queries, _ = match_parts(haar(clustered(5, seed=2)), index.tree.mean)
    who, rows = torch.arange(5).repeat_interleave(700), torch.arange(700).repeat(5).flip(0)
    assert len(who) > CHUNK
    found = scored(index, queries, Pairs(who, rows, torch.zeros(len(who))))
    assert found.who.equal(who)
    assert found.rows.equal(rows)
    truth = (queries.double() @ index.keys(torch.arange(700)).double().T)[who, rows]
    torch.testing.assert_close(found.scores.double(), truth, atol=32 * 2**-23, rtol=0)


def test_the_smallest_ids_are_found_across_shards() -> None:
    index = sharded_index_of(clustered(200), IndexConfig(max_leaf=16, merge=1), shards=3)
    ids = [row.tobytes() for row in index.patch_ids(torch.arange(200))]
    expected = sorted(range(200), key=lambda row: ids[row])
    for k in (1, 7, 200):
        assert index.smallest_ids(k).tolist() == expected[:k]
