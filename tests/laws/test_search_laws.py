"""Laws of the default searcher and of the scan for difficult libraries and queries."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.config import IndexConfig, SearchConfig
from kt_batch.index.index import Index
from kt_batch.index.search import find
from kt_batch.index.searchers import certified
from kt_batch.index.searchers.estimates import prepare_estimates
from kt_batch.index.searchers.scan import FEW, best_estimates, level_of
from kt_batch.index.shards import match_parts
from kt_batch.index.threads import in_turn
from kt_batch.kernels.haar import haar
from kt_batch.kernels.tiles import canonical_scores
from kt_batch.models.precision import quick_integers, quick_products
from tests.support.synthetic import brute_force, clustered, sharded_index_of

KINDS = ("ordinary", "equal", "brighter", "bent", "flat", "zero", "negative")
many = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 10**6)
# D = 4, 32 and 160: fewer and more values than first-level coordinates; with 512 values patches are stored as codes.
channels = st.sampled_from([1, 8, 40, 128])
mixtures = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 60)), min_size=1, max_size=5)
configs = st.builds(
    IndexConfig,
    match_space=st.sampled_from(["raw", "centred"]),
    max_leaf=st.sampled_from([8, 32]),
    merge=st.sampled_from([0.9, 0.995, 1.0]),
    clusters=st.sampled_from([(), (), (4, 3)]),
    payload=st.sampled_from(["4bit", "5bit"]),
)


def patches_of(mixture: list[tuple[str, int]], channels: int, seed: int) -> Tensor:
    """Draw `(n, 4, channels)` patches of every kind."""
    parts = []
    for number, (kind, count) in enumerate(mixture):
        base = clustered(count, channels, clusters=7, seed=seed + number)
        brightness = torch.arange(count)[:, None, None] % 30
        match kind:
            case "equal":
                base = base[:1].expand(count, -1, -1)
            case "brighter":  # ties to the last bit: float16 and the norms take powers of two exactly
                base = base[:1] * 2.0 ** (brightness % 9 - 4)
            case "bent":  # one patch at many brightnesses: within rounding of each other, and not equal
                base = base[:1] * 1.1**brightness
            case "flat":  # all four cells equal
                base = base[:, :1].expand(-1, 4, -1)
            case "zero":
                base = torch.zeros_like(base)
            case "negative":  # codes are not behind a ReLU
                base = -base
        parts.append(base)
    return torch.cat(parts)


def made(mixture: list[tuple[str, int]], width: int, seed: int, config: IndexConfig, shards: int) -> Index:
    return sharded_index_of(patches_of(mixture, width, seed), config, shards)


def queries_of(library: list[tuple[str, int]], query_kinds: list[tuple[str, int]], width: int, seed: int) -> Tensor:
    """Return some patches of the library and about as many others."""
    return torch.cat([patches_of(query_kinds, width, seed + 100)[::3], patches_of(library, width, seed)[::5]])


@many
@given(
    mixtures,
    mixtures,
    channels,
    seeds,
    configs,
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)
def test_a_certified_search_equals_brute_force_to_the_last_bit(
    library: list[tuple[str, int]],
    query_kinds: list[tuple[str, int]],
    width: int,
    seed: int,
    config: IndexConfig,
    shards: int,
    top_k: int,
    probes: int,
    many: bool,
    integers: bool,
) -> None:
    index = made(library, width, seed, config, shards)
    queries = queries_of(library, query_kinds, width, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            certified, "BEGIN", 1
        )  # as in an index of many leaves: few scores are known when the proof begins
        if many:  # as for many queries: all steps of the bound are taken
            patch.setattr(certified, "MANY", 1)
            patch.setattr(certified, "WORTH", 0)
        patch.setattr(certified, "quick_integers", lambda: integers)
        if not quick_integers():  # a processor whose own products of integers may overflow
            patch.setattr(certified, "integer_products", lambda q, x: (q.long() @ x.long().T).int())
        found = find(index, queries, SearchConfig(probes=probes, top_k=top_k, certify=True))
    rows, scores = brute_force(index, queries, top_k)
    assert found.certified.all()
    assert found.scores.equal(scores)
    assert found.rows.equal(rows)


@many
@given(mixtures, mixtures, channels, seeds, configs, st.integers(1, 3), st.integers(1, 5))
def test_an_exact_search_equals_brute_force_to_the_last_bit(
    library: list[tuple[str, int]],
    asking: list[tuple[str, int]],
    width: int,
    seed: int,
    config: IndexConfig,
    shards: int,
    top_k: int,
) -> None:
    index = made(library, width, seed, config, shards)
    queries = queries_of(library, asking, width, seed)
    found = find(index, queries, SearchConfig(searcher="exact", top_k=top_k))
    rows, scores = brute_force(index, queries, top_k)
    assert found.certified.all()
    assert found.scores.equal(scores)
    assert found.rows.equal(rows)


@many
@given(mixtures, mixtures, channels, seeds, configs, st.integers(1, 3), st.integers(1, 5), st.integers(1, 4))
def test_a_fast_search_gives_canonical_scores_of_distinct_patches_best_first(
    library: list[tuple[str, int]],
    query_kinds: list[tuple[str, int]],
    width: int,
    seed: int,
    config: IndexConfig,
    shards: int,
    top_k: int,
    probes: int,
) -> None:
    index = made(library, width, seed, config, shards)
    queries = patches_of(query_kinds, width, seed + 100)[::3]
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
@given(mixtures, mixtures, channels, seeds, configs, st.integers(1, 3), st.integers(1, 5))
def test_a_scan_never_exceeds_brute_force_and_equals_it_where_the_estimates_include_its_matches(
    library: list[tuple[str, int]],
    query_kinds: list[tuple[str, int]],
    width: int,
    seed: int,
    config: IndexConfig,
    shards: int,
    top_k: int,
) -> None:
    index = made(library, width, seed, config, shards)
    queries = queries_of(library, query_kinds, width, seed)
    found = find(index, queries, SearchConfig(searcher="scan", top_k=top_k))
    rows, scores = brute_force(index, queries, top_k)
    assert found.rows.shape == rows.shape
    assert found.scores.le(scores).all()
    vectors, _ = match_parts(haar(queries), index.tree.mean)
    with quick_products():  # as in a search
        level, _ = prepare_estimates(index, vectors, in_turn)
    read = best_estimates(level_of(index, "cpu"), level, min(FEW + rows.shape[1], index.count)).rows
    held = (read.view(len(queries), 1, -1) == rows[:, :, None]).any(2).all(1)
    assert found.rows[held].equal(rows[held])
    assert found.scores[held].equal(scores[held])
    if index.count <= FEW + top_k:
        assert held.all()
