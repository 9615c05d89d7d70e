"""The default searcher: its two modes, how it divides its work, and degenerate libraries and queries."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.config import IndexConfig, SearchConfig
from kt_batch.errors import DamagedError
from kt_batch.index import threads as index_threads
from kt_batch.index.index import WINDOW, Index
from kt_batch.index.search import find
from kt_batch.index.searchers import estimates
from kt_batch.index.searchers.base import Found
from kt_batch.index.searchers.candidates import Pairs, joined, scored
from kt_batch.index.searchers.estimates import search_fast
from kt_batch.index.searchers.leaf_choice import FIRST_ROUND, REACH, largest, nearest_leaves
from kt_batch.index.searchers.visits import Products
from kt_batch.index.shards import VARIANCES, match_parts
from kt_batch.kernels.fixed_point import STEP
from kt_batch.kernels.haar import haar
from kt_batch.kernels.principal import Basis, first_level, further_directions
from kt_batch.kernels.quantised import Codes, dequantise
from kt_batch.models.precision import quick_integers, quick_products
from tests.support.synthetic import brute_force, clustered, index_of, leaf_level, sharded_index_of

CHANNELS = 128  # D = 512: enough for patches of 4 bits a value beside 127 coordinates
BOTH = pytest.mark.parametrize("certify", [False, True])


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(index: Index, queries: Tensor, certify: bool = False, probes: int = 8, top_k: int = 1) -> Found:
    return find(index, queries, SearchConfig(probes=probes, top_k=top_k, certify=certify))


def same(one: Found, other: Found) -> bool:
    """Return whether both are equal to the last bit."""
    return one.rows.equal(other.rows) and one.scores.equal(other.scores) and one.certified.equal(other.certified)


def is_brute_force(found: Found, index: Index, queries: Tensor) -> bool:
    rows, scores = brute_force(index, queries, found.rows.shape[1])
    return found.rows.equal(rows) and found.scores.equal(scores)


@pytest.fixture(scope="module")
def index() -> Index:
    """2,000 patches in three shards, about 100 leaves."""
    cells = clustered(2000, CHANNELS, clusters=30, seed=1)
    return sharded_index_of(cells, IndexConfig(max_leaf=32, merge=1), shards=3)


@pytest.fixture(scope="module")
def queries() -> Tensor:
    return clustered(250, CHANNELS, clusters=30, seed=2)


# ---- the two modes ----


@pytest.mark.parametrize("probes", [8, 40])
def test_a_fast_search_finds_nearly_all_that_its_leaves_hold(index: Index, queries: Tensor, probes: int) -> None:
    vectors, _ = match_parts(haar(queries), index.tree.mean)
    leaves, _ = nearest_leaves(index, first_level(vectors, index.tree.directions), probes)
    held = torch.zeros(len(queries), index.count, dtype=torch.bool)
    for n, some in enumerate(leaves.tolist()):
        for leaf in some:
            _, _, count, first = index.leaf_rows(leaf)
            held[n, first : first + count] = True
    scores = vectors.double() @ index.keys(torch.arange(index.count)).double().T
    best = scores.masked_fill(~held, -torch.inf).amax(1)
    found = search_fast(index, vectors, 1, probes)
    assert held.gather(1, found.rows).all()
    assert (found.scores[:, 0] >= best - 1e-9).double().mean() > 0.8  # 127 coordinates hold little of the noise


@BOTH
@pytest.mark.parametrize("payload", ["float16", "4bit", "5bit"])
def test_an_index_in_one_piece_is_the_same_index(queries: Tensor, payload: str, certify: bool) -> None:
    config = IndexConfig(max_leaf=32, merge=1, payload=payload)
    parts = sharded_index_of(clustered(2000, CHANNELS, clusters=30, seed=1), config, shards=3)
    whole = parts.in_one_piece()
    everyone = torch.arange(parts.count)
    assert (len(parts.shards), len(whole.shards)) == (3, 1)
    assert (whole.patch_ids(everyone) == parts.patch_ids(everyone)).all()
    assert whole.values(everyone).equal(parts.values(everyone))
    assert leaf_level(whole, 70).equal(leaf_level(parts, 70))
    assert same(run(whole, queries, certify), run(parts, queries, certify))


def test_a_coded_patch_is_always_decoded_by_the_quick_library(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noted(coordinates: Tensor, codes: Codes, basis: Basis) -> Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return dequantise(coordinates, codes, basis)

    monkeypatch.setattr("kt_batch.models.precision.quick_precision", lambda: "medium")
    monkeypatch.setattr("kt_batch.index.index.dequantise", noted)
    index = index_of(clustered(600, CHANNELS, clusters=30, seed=1), IndexConfig(max_leaf=64, merge=1, payload="4bit"))
    rows = torch.arange(20)
    alone = index.keys(rows)
    index.packets(rows)
    with quick_products():
        assert index.keys(rows).equal(alone)
    assert seen == ["medium"] * 3
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("channels", [128, 256, 512])
def test_a_coded_patch_has_the_same_bits_on_any_number_of_threads(channels: int) -> None:
    index = index_of(clustered(600, channels, clusters=30, seed=1), IndexConfig(max_leaf=64, merge=1, payload="4bit"))
    rows = torch.arange(index.count)
    alone = index.keys(rows)
    with threads(2):
        assert index.keys(rows).equal(alone)


def test_shards_of_different_payloads_are_no_index() -> None:
    cells = clustered(600, CHANNELS, clusters=30, seed=1)
    four, five = (
        sharded_index_of(cells, IndexConfig(max_leaf=64, merge=1, payload=payload), shards=2)
        for payload in ("4bit", "5bit")
    )
    with pytest.raises(DamagedError, match="in 4 bits"):
        Index(four.tree, [four.shards[0], five.shards[1]])


def test_a_second_round_finds_what_the_first_leaves_do_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(clustered(1500, CHANNELS, clusters=1500), IndexConfig(max_leaf=16, merge=1))  # no clusters
    queries = clustered(200, CHANNELS, clusters=200, seed=2)
    both = run(index, queries, probes=2 * FIRST_ROUND).scores
    monkeypatch.setattr(estimates, "_second_round", lambda *_: joined([]))
    first = run(index, queries, probes=2 * FIRST_ROUND).scores
    assert both.ge(first).all()
    assert both.gt(first).any()


@pytest.mark.parametrize("probes", [5, 8, 40])
@pytest.mark.parametrize("top_k", [1, 6, 12])
def test_as_many_different_patches_are_found_as_were_asked_for(
    index: Index, queries: Tensor, probes: int, top_k: int
) -> None:
    found = run(index, queries, probes=probes, top_k=top_k)
    assert found.rows.shape == (len(queries), top_k)
    assert found.rows.ge(0).all()
    assert all(len(set(rows)) == top_k for rows in found.rows.tolist())
    assert found.scores.diff(dim=1).le(0).all()


def test_visits_leave_no_more_than_a_few_products_each_on_average() -> None:
    # A query visits two leaves of two blocks; there is no threshold.
    values = torch.arange(4 * WINDOW).view(2, 2 * WINDOW).float()
    products = Products(
        visits=torch.tensor([0, 1]),
        who=torch.tensor([0, 0]),
        first_rows=torch.tensor([1000, 2000]),
        values=values,
        best=values.view(2, 2, WINDOW).amax(2),
    )
    found = estimates.survivors(products, torch.tensor([-torch.inf]), 3)
    assert found.who.tolist() == [0] * 6
    assert sorted(found.rows.tolist()) == [1125, 1126, 1127, 2125, 2126, 2127]
    found = estimates.survivors(products, torch.tensor([250.0]), 3)
    assert sorted(found.rows.tolist()) == [2122, 2123, 2124, 2125, 2126, 2127]  # at most three per visit


@given(
    columns=st.integers(1, 400), count=st.integers(1, 400), levels=st.sampled_from([3, 10**6]), seed=st.integers(0, 99)
)
def test_the_largest_of_a_row_are_found_in_groups_or_without(columns: int, count: int, levels: int, seed: int) -> None:
    count = min(count, columns)
    values = torch.randint(0, levels, (5, columns), generator=torch.Generator().manual_seed(seed)).float()
    found = largest(values, count)
    assert all(len(row.unique()) == count for row in found)
    assert values.gather(1, found).sort(dim=1).values.equal(values.sort(dim=1).values[:, columns - count :])


def test_nearest_leaves_are_those_with_the_nearest_means(index: Index, queries: Tensor) -> None:
    vectors, _ = match_parts(haar(queries), index.tree.mean)
    level = first_level(vectors, index.tree.directions)
    found, _ = nearest_leaves(index, level, 5)
    means = [leaf_level(index, leaf)[:, :-1].double().mean(0) for leaf in range(index.tree.leaves)]
    cosines = level[:, :-1].double() @ torch.nn.functional.normalize(torch.stack(means), dim=1).T
    slack = 1.02 * 128**0.5 * STEP  # the rounding of two vectors to fixed point
    torch.testing.assert_close(cosines.gather(1, found), cosines.topk(5, dim=1).values, atol=slack, rtol=0)
    assert all(len(set(some)) == 5 for some in found.tolist())


def test_a_leaf_reaches_as_far_as_some_deviations_of_its_products(index: Index, queries: Tensor) -> None:
    vectors, _ = match_parts(haar(queries[:20]), index.tree.mean)
    level = first_level(vectors, index.tree.directions)
    leaves, reach = nearest_leaves(index, level, 40)
    assert nearest_leaves(index, level, 8)[1].shape == (20, 0)
    # The product with the mean is one of vectors in fixed point, so the reach is right to 1.02 * 128**0.5 * STEP.
    for query, found, expected in zip(level, leaves.tolist(), reach, strict=True):
        for leaf, value in zip(found, expected, strict=True):
            x = leaf_level(index, leaf)
            deviation = (x[:, :VARIANCES].var(0, correction=0) @ query[:VARIANCES].square()).sqrt()
            torch.testing.assert_close(value, (x @ query).mean() + REACH * deviation, atol=3e-3, rtol=0)


def test_all_leaves_probed_are_searched_to_the_proof(index: Index, queries: Tensor) -> None:
    found = run(index, queries, probes=index.tree.leaves, top_k=3)
    assert found.certified.all()
    assert is_brute_force(found, index, queries)
    assert not run(index, queries, probes=index.tree.leaves - 1).certified.any()


@pytest.fixture(params=["halves", "integers"])
def begin_at_one_leaf(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prove from one leaf on, with bounds in halves and in integers on any processor."""
    monkeypatch.setattr("kt_batch.index.searchers.certified.BEGIN", 1)
    monkeypatch.setattr("kt_batch.index.searchers.certified.quick_integers", lambda: request.param == "integers")
    if not quick_integers():
        monkeypatch.setattr(
            "kt_batch.index.searchers.certified.integer_products", lambda q, x: (q.long() @ x.long().T).int()
        )


@pytest.mark.parametrize("top_k", [1, 5])
def test_a_certified_search_begun_at_one_leaf_ends_at_the_best_of_all(
    begin_at_one_leaf: None, index: Index, queries: Tensor, top_k: int
) -> None:
    found = run(index, queries, certify=True, probes=1, top_k=top_k)
    assert not found.rows.equal(run(index, queries, probes=1, top_k=top_k).rows)
    assert is_brute_force(found, index, queries)


@pytest.mark.parametrize("payload", ["float16", "4bit", "5bit"])
def test_further_directions_leave_fewer_patches_to_be_read_and_the_same_matches(
    begin_at_one_leaf: None, payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    space = torch.randn(200, 4 * CHANNELS, generator=generator)  # 127 + 128 directions hold all 200 dimensions
    cells, queries = ((torch.randn(n, 200, generator=generator) @ space).view(n, 4, CHANNELS) for n in (2000, 100))
    index = index_of(cells, IndexConfig(max_leaf=64, merge=1, payload=payload))
    read: list[int] = []

    def counted(index: Index, prepared_queries: Tensor, pairs: Pairs) -> Pairs:
        read.append(len(pairs))
        return scored(index, prepared_queries, pairs)

    monkeypatch.setattr("kt_batch.index.searchers.certified.scored", counted)
    plain = run(index, queries, certify=True, probes=1, top_k=2)
    without = sum(read)
    read.clear()
    monkeypatch.setattr("kt_batch.index.searchers.certified.MANY", 1)
    monkeypatch.setattr("kt_batch.index.searchers.certified.WORTH", 0)
    assert same(run(index, queries, certify=True, probes=1, top_k=2), plain)
    assert is_brute_force(plain, index, queries)
    assert 0 < sum(read) < without / 10


def test_fixed_clusters_of_any_size_are_searched_alike(begin_at_one_leaf: None, queries: Tensor) -> None:
    index = index_of(clustered(600, CHANNELS, clusters=30, seed=1), IndexConfig(clusters=(3,), merge=1))
    assert index.tree.leaf_count.max() > 100
    assert is_brute_force(run(index, queries[:50], certify=True, probes=1), index, queries[:50])


# ---- how the work is shared out does not matter ----


@pytest.mark.parametrize(("certify", "probes"), [(False, 8), (False, 40), (True, 8)])
@pytest.mark.parametrize("count", [2, 3])
def test_one_thread_and_several_find_the_same(
    begin_at_one_leaf: None, index: Index, queries: Tensor, certify: bool, probes: int, count: int
) -> None:
    for some_queries in (queries, queries[:1], queries[:2], queries[:0]):
        with threads(1):
            alone = run(index, some_queries, certify, probes, top_k=2)
        with threads(count):
            assert same(run(index, some_queries, certify, probes, top_k=2), alone)
            assert torch.get_num_threads() == count  # as it was before the search


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 2)])
def test_the_threads_of_a_search_do_the_next_ones(
    index: Index, queries: Tensor, count: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each new thread may cost the process some memory for good."""
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted)
    index_threads._pool.cache_clear()
    with threads(count):
        for _ in range(4):
            run(index, queries)
    assert len(started) <= most


@pytest.mark.parametrize("broken", ["canonically_best", "products_of"])  # the latter runs in the threads
def test_threads_and_precision_are_as_before_when_a_search_fails(
    index: Index, queries: Tensor, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, broken, None)
    with threads(2):
        with pytest.raises(TypeError):
            run(index, queries)
        assert torch.get_num_threads() == 2
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(("certify", "probes"), [(False, 8), (False, 40), (True, 8)])
@pytest.mark.parametrize(
    "sizes",
    [
        {"searchers.estimates.KEPT": 3000},
        {"searchers.estimates.KEPT": 1},
        {"searchers.estimates.PREPARED": 7, "searchers.leaf_choice.CHOOSING": 3, "search.PORTION": 7},
        {"searchers.estimates.VISITS": 7},
        {"searchers.visits.PATCHES": 1},
        {"searchers.visits.PRODUCTS": 64},
    ],
    ids=str,
)
def test_the_sizes_of_the_work_do_not_matter(
    index: Index, queries: Tensor, certify: bool, probes: int, sizes: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(index, queries[:40], certify, probes, top_k=2)
    for name, size in sizes.items():
        monkeypatch.setattr(f"kt_batch.index.{name}", size)
    assert same(run(index, queries[:40], certify, probes, top_k=2), expected)


@pytest.mark.parametrize(
    "sizes",
    [
        {"CHUNK": 1},
        {"BLOCK": 7, "PENDING": 20},
        {"BLOCK": 1, "PENDING": 0},
        {"MANY": 1, "WORTH": 0},
        {"MANY": 1, "WORTH": 3, "FURTHER": 3, "BLOCK": 7},
    ],
    ids=str,
)
def test_a_proof_does_not_depend_on_the_sizes_of_its_work(
    begin_at_one_leaf: None, index: Index, queries: Tensor, sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in sizes.items():
        monkeypatch.setattr(f"kt_batch.index.searchers.certified.{name}", size)
    assert is_brute_force(run(index, queries[:40], certify=True, probes=1, top_k=2), index, queries[:40])


@pytest.mark.parametrize("payload", ["float16", "4bit", "5bit"])
def test_a_piece_along_directions_is_its_vectors_times_these(payload: str) -> None:
    cells = clustered(600, CHANNELS, clusters=30, seed=1)
    cells[5] = 0
    index = sharded_index_of(cells, IndexConfig(max_leaf=32, merge=1, payload=payload), shards=2)
    vectors = index.keys(torch.arange(index.count))
    further = further_directions(vectors, index.tree.directions, 20)
    chunks = index.chunks(100)
    assert {chunk.shard for chunk in chunks} == {0, 1}
    assert [chunk.first_row for chunk in chunks[1:]] == [chunk.first_row + chunk.count for chunk in chunks[:-1]]
    assert sum(chunk.count for chunk in chunks) == index.count
    assert not vectors.any(1).all()
    along = torch.cat([index.chunk_along(chunk, further) for chunk in chunks])
    torch.testing.assert_close(along, vectors @ further, atol=1e-5, rtol=0)
    levels = torch.cat([index.chunk_level(chunk) for chunk in chunks])
    torch.testing.assert_close(levels[:, :-1], vectors @ index.tree.directions, atol=1e-3, rtol=0)


# ---- the small, the flat and the empty ----


@BOTH
def test_one_patch_is_found_by_every_query(certify: bool, queries: Tensor) -> None:
    found = run(index_of(clustered(1, CHANNELS)), queries, certify, top_k=3)
    assert found.rows.tolist() == [[0]] * len(queries)


@BOTH
def test_of_patches_that_are_all_equal_one_is_kept_and_found(certify: bool, queries: Tensor) -> None:
    index = index_of(clustered(1, CHANNELS).expand(300, -1, -1))
    assert index.count == 1
    assert run(index, queries, certify).rows.eq(0).all()


@BOTH
def test_patches_of_one_direction_are_one_leaf_and_ties_go_to_the_smallest_ids(certify: bool, queries: Tensor) -> None:
    # Eight powers of two have equal unit vectors.
    cells = clustered(1, CHANNELS, seed=3) * (2.0 ** torch.arange(-4, 4))[:, None, None]
    index = index_of(cells, IndexConfig(max_leaf=8, merge=1))
    assert index.tree.leaf_count.tolist() == [8]
    assert is_brute_force(run(index, queries, certify, top_k=3), index, queries)


@BOTH
@pytest.mark.parametrize("space", ["raw", "centred"])
def test_flat_patches_find_the_flat_patch_of_their_colour(certify: bool, space: str) -> None:
    colours = torch.rand(40, 1, CHANNELS, generator=torch.Generator().manual_seed(0))
    index = index_of(
        torch.cat([colours.expand(-1, 4, -1), clustered(200, CHANNELS)]),
        IndexConfig.model_validate({"max_leaf": 16, "merge": 1, "match_space": space}),
    )
    found = run(index, colours.expand(-1, 4, -1), certify)
    torch.testing.assert_close(index.values(found.rows[:, 0]), colours.expand(-1, 4, -1), atol=0.05, rtol=0)


def test_fewer_patches_than_clusters_are_all_leaves() -> None:
    cells = clustered(5, CHANNELS)
    index = index_of(cells, IndexConfig(clusters=(8, 8), merge=1))
    assert index.count == 5
    for probes in (1, 8):
        assert is_brute_force(run(index, cells, probes=probes), index, cells)


def test_a_zero_query_ties_with_every_patch_and_takes_the_smallest_ids(index: Index, queries: Tensor) -> None:
    some_queries = torch.cat([queries[:2], torch.zeros(1, 4, CHANNELS), queries[2:4]])
    found = run(index, some_queries, certify=True, top_k=3)
    assert is_brute_force(found, index, some_queries)
    assert found.scores[2].tolist() == [0, 0, 0]
    assert run(index, some_queries, top_k=3).scores[2].tolist() == [0, 0, 0]


@BOTH
def test_a_single_query_that_is_zero_is_answered(index: Index, certify: bool) -> None:
    assert run(index, torch.zeros(1, 4, CHANNELS), certify).scores.tolist() == [[0]]


@BOTH
def test_a_query_that_no_patch_resembles_still_gets_its_best(certify: bool) -> None:
    # All scores are negative; the zero patch, with score 0, is the best of them.
    cells = torch.cat([clustered(50, CHANNELS), torch.zeros(1, 4, CHANNELS)])
    index = index_of(cells)
    some_queries = -clustered(10, CHANNELS, seed=9)
    found = run(index, some_queries, certify, probes=index.tree.leaves)
    assert is_brute_force(found, index, some_queries)
    assert found.scores.eq(0).all()


@BOTH
def test_more_than_all_patches_asked_for_are_all_patches(certify: bool, queries: Tensor) -> None:
    index = index_of(clustered(30, CHANNELS), IndexConfig(max_leaf=8, merge=1))
    found = run(index, queries, certify, probes=1, top_k=64)
    assert found.rows.sort(dim=1).values.eq(torch.arange(30)).all()
    assert is_brute_force(found, index, queries)


@BOTH
def test_values_that_only_float32_holds_are_searched_like_others(certify: bool, index: Index, queries: Tensor) -> None:
    # A score ignores brightness; a value times 2^-100 is zero in float16.
    expected = run(index, queries, certify)
    for scale in (2.0**100, 2.0**-100):
        assert run(index, queries * scale, certify).rows.equal(expected.rows)
