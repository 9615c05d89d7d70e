"""The searchers, against a slow reference."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from kt_batch.config import IndexConfig, SearchConfig, Searcher
from kt_batch.errors import UsageError
from kt_batch.index.ids import pack_ids
from kt_batch.index.index import Index
from kt_batch.index.search import find, search
from kt_batch.index.searchers.base import Found
from tests.support.synthetic import Ids, brute_force, clustered, ids_of, index_of, packets_of, sharded_index_of

Space = Literal["raw", "centred"]
Payload = Literal["float16", "4bit", "5bit"]
EVERY = 10**6  # probes: all leaves
SEARCHERS: tuple[Searcher, ...] = ("exact", "tree", "scan", "hkm", "bhkm")


def reference(cells: Tensor, ids: Ids, queries: Tensor, space: Space, k: int = 1) -> tuple[list[list[bytes]], Tensor]:
    """Return ids and scores `(n, k)` of the k best by definition: float64, query by query, ties to the smaller id."""
    library = packets_of(cells).double().flatten(1).numpy()
    mean = library.mean(0).astype(np.float32) if space == "centred" else np.float32(0)
    x, q = library - mean, _packets(queries) - mean
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    best, scores = [], []
    for one in q:
        score = (x * (one / max(np.linalg.norm(one), 1e-300))).sum(1)
        order = sorted(range(len(x)), key=lambda n: (-score[n], ids[n].tobytes()))[:k]
        best.append([ids[n].tobytes() for n in order])
        scores.append(score[order])
    return best, torch.from_numpy(np.stack(scores))


def _packets(queries: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    a, b, c, d = queries.double().unbind(1)
    bands = [a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d]
    return (torch.stack(bands, dim=1) / 2).flatten(1).numpy()


def found_ids(index: Index, matches: Found) -> list[list[bytes]]:
    return [[row.tobytes() for row in index.patch_ids(rows)] for rows in matches.rows]


def run(
    index: Index,
    queries: Tensor,
    searcher: Searcher = "tree",
    probes: int = EVERY,
    top_k: int = 1,
    certify: bool = False,
) -> Found:
    return find(index, queries, SearchConfig(searcher=searcher, probes=probes, top_k=top_k, certify=certify))


def same(one: Found, other: Found) -> bool:
    """Return whether both are equal to the last bit."""
    return one.rows.equal(other.rows) and one.scores.equal(other.scores) and one.certified.equal(other.certified)


@pytest.fixture(scope="module")
def library() -> Tensor:
    return clustered(1500, seed=1)


@pytest.fixture(scope="module")
def queries() -> Tensor:
    return clustered(300, seed=2)


@pytest.fixture(scope="module", params=["raw", "centred"])
def index(request: pytest.FixtureRequest, library: Tensor) -> Index:
    """1,500 patches in three shards, about 150 leaves."""
    return sharded_index_of(library, IndexConfig(max_leaf=16, merge=1, match_space=request.param), shards=3)


# ---- what is found ----


@pytest.mark.parametrize("space", ["raw", "centred"])
@pytest.mark.parametrize("top_k", [1, 5])
def test_exact_is_the_definition(library: Tensor, queries: Tensor, space: Space, top_k: int) -> None:
    index = sharded_index_of(library, IndexConfig(max_leaf=16, merge=1, match_space=space), shards=3)
    matches = run(index, queries, "exact", top_k=top_k)
    best, scores = reference(library, ids_of(1500), queries, space, top_k)
    assert found_ids(index, matches) == best
    torch.testing.assert_close(matches.scores, scores, atol=1e-6, rtol=0)
    assert matches.certified.all()


def test_ties_go_to_the_smaller_id_however_many_there_are() -> None:
    # Ten patches at nine brightnesses each, exact in float16 and in norms: every nine of them tie.
    brightness = 2.0 ** torch.arange(-4, 5)
    cells = (clustered(10, seed=3)[:, None] * brightness[:, None, None]).flatten(0, 1)
    queries = clustered(20, seed=4)
    for ids in (ids_of(90), ids_of(90, seed=1)):
        index = index_of(cells, ids=ids)
        best, _ = reference(cells, ids, queries, "raw", k=3)
        for searcher in ("exact", "tree"):
            assert found_ids(index, run(index, queries, searcher, top_k=3)) == best


def test_many_patches_within_rounding_of_each_other_hide_no_better_one() -> None:
    # Patches at 40 brightnesses: float16 changes each direction by less than float32 products resolve.
    brightness = 1.1 ** torch.arange(40)
    cells = (clustered(8, seed=5)[:, None] * brightness[:, None, None]).flatten(0, 1)
    queries = clustered(100, seed=6)
    index = index_of(cells)
    for searcher in ("exact", "tree"):
        matches = run(index, queries, searcher)
        assert matches.certified.all()
        rows, scores = brute_force(index, queries, 1)
        assert matches.rows.equal(rows)
        assert matches.scores.equal(scores)


def test_tree_with_every_leaf_probed_is_exact(index: Index, queries: Tensor) -> None:
    assert same(run(index, queries, "tree", top_k=4), run(index, queries, "exact", top_k=4))


def test_hkm_with_every_leaf_probed_finds_what_exact_finds(index: Index, queries: Tensor) -> None:
    hkm, exact = run(index, queries, "hkm"), run(index, queries, "exact")
    torch.testing.assert_close(hkm.scores, exact.scores, atol=1e-6, rtol=0)
    assert hkm.rows.equal(exact.rows)


@pytest.mark.parametrize("probes", [1, 4])
def test_four_bands_are_plain_hierarchical_k_means(index: Index, queries: Tensor, probes: int) -> None:
    bands, plain = run(index, queries, "bhkm", probes), run(index, queries, "hkm", probes)
    assert bands.rows.equal(plain.rows)
    torch.testing.assert_close(bands.scores, plain.scores, atol=1e-6, rtol=0)


def test_fewer_bands_compare_only_what_they_read(library: Tensor) -> None:
    # The cosine of the LL band alone, with its own norm.
    index = index_of(library)
    queries = clustered(50, seed=2)
    matches = find(index, queries, SearchConfig(searcher="bhkm", bands=1, probes=EVERY))
    ll, q = packets_of(library)[:, 0].double(), queries.double().sum(1) / 2
    cosine = (q / q.norm(dim=1, keepdim=True)) @ (ll / ll.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(matches.scores[:, 0], cosine.amax(1), atol=1e-6, rtol=0)


def test_the_published_searchers_certify_nothing(index: Index, queries: Tensor) -> None:
    assert not run(index, queries, "hkm").certified.any()
    assert not run(index, queries, "bhkm").certified.any()


# ---- how probes and certificates behave ----


def test_more_probes_find_no_less_on_the_whole(index: Index, queries: Tensor) -> None:
    exact = run(index, queries, "exact")
    found = [run(index, queries, probes=probes) for probes in (1, 2, 4, 8, 16, EVERY)]
    recall = [(matches.rows == exact.rows).double().mean().item() for matches in found]
    ratio = [(matches.scores / exact.scores).mean().item() for matches in found]
    assert recall == sorted(recall)
    assert ratio == sorted(ratio)
    assert recall[0] < recall[-1] == ratio[-1] == 1


@pytest.mark.parametrize("probes", [1, 8])
def test_a_search_certifies_all_or_nothing(index: Index, queries: Tensor, probes: int) -> None:
    assert not run(index, queries, probes=probes).certified.any()
    assert run(index, queries, probes=probes, certify=True).certified.all()


@pytest.mark.parametrize("probes", [1, 8])
def test_a_certified_search_is_exact_wherever_it_begins(
    index: Index, queries: Tensor, probes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kt_batch.index.searchers.certified.BEGIN", 1)
    assert same(run(index, queries, probes=probes, top_k=4, certify=True), run(index, queries, "exact", top_k=4))


def test_scores_fall_from_the_first_match_to_the_last(index: Index, queries: Tensor) -> None:
    for searcher in SEARCHERS:
        scores = run(index, queries, searcher, probes=8, top_k=5).scores
        assert (scores[:, :-1] >= scores[:, 1:]).all()


def test_no_patch_is_found_twice_for_a_query(index: Index, queries: Tensor) -> None:
    for searcher in SEARCHERS:
        rows = run(index, queries, searcher, probes=8, top_k=5).rows.sort(dim=1).values
        assert (rows[:, 1:] > rows[:, :-1]).all()
        assert rows.min() >= 0


# ---- that nothing but the query matters ----


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_query_finds_the_same_alone_together_and_in_any_order(
    index: Index, queries: Tensor, searcher: Searcher, generator: torch.Generator
) -> None:
    together = run(index, queries, searcher, probes=3, top_k=2)
    order = torch.randperm(len(queries), generator=generator)
    shuffled = run(index, queries[order], searcher, probes=3, top_k=2)
    expected = Found(together.rows[order], together.scores[order], together.certified[order])
    assert same(shuffled, expected)
    for n in range(0, len(queries), 37):
        expected = Found(together.rows[n : n + 1], together.scores[n : n + 1], together.certified[n : n + 1])
        assert same(run(index, queries[n : n + 1], searcher, probes=3, top_k=2), expected)


def test_the_order_in_which_a_library_was_written_does_not_matter(library: Tensor, queries: Tensor) -> None:
    ids = ids_of(1500)
    order = torch.randperm(1500, generator=torch.Generator().manual_seed(5))
    config = IndexConfig(max_leaf=16)
    one, other = index_of(library, config, ids), index_of(library[order], config, ids[order.numpy()])
    assert one.tree.to_bytes() == other.tree.to_bytes()
    assert same(run(one, queries, probes=2), run(other, queries, probes=2))


# ---- the small, the flat and the empty ----


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_an_index_of_one_patch_always_finds_it(searcher: Searcher) -> None:
    cells = clustered(1)
    matches = run(index_of(cells), cells, searcher, probes=1, top_k=3)
    assert matches.rows.tolist() == [[0]]
    torch.testing.assert_close(matches.scores, torch.ones(1, 1, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_fewer_patches_than_clusters_are_searched_like_more(searcher: Searcher) -> None:
    cells = clustered(5)
    index = index_of(cells, IndexConfig(clusters=(8, 8), merge=1))
    matches = run(index, cells, searcher)
    assert found_ids(index, matches) == [[row.tobytes()] for row in ids_of(5)]


@pytest.mark.parametrize("searcher", SEARCHERS)
@pytest.mark.parametrize("space", ["raw", "centred"])
def test_flat_grey_images_are_searched_like_others(searcher: Searcher, space: Space) -> None:
    # Three greys and black, a hundred times each.
    grey = torch.rand(3, 1, 8, generator=torch.Generator().manual_seed(0)).expand(3, 4, 8)
    shades = torch.cat([grey, torch.zeros(1, 4, 8)])
    cells = shades.repeat_interleave(100, 0)
    index = index_of(cells, IndexConfig(max_leaf=8, match_space=space))
    assert index.count == 4
    matches = run(index, shades[:3], searcher)
    found = index.values(matches.rows[:, 0])
    torch.testing.assert_close(found, shades[:3], atol=1e-3, rtol=0)
    torch.testing.assert_close(matches.scores, torch.ones(3, 1, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_library_of_black_images_gives_score_zero(searcher: Searcher) -> None:
    matches = run(index_of(torch.zeros(20, 4, 8)), clustered(3), searcher)
    assert matches.rows.tolist() == [[0]] * 3
    assert matches.scores.tolist() == [[0]] * 3


@pytest.mark.parametrize("searcher", ["exact", "tree"])
def test_a_zero_query_ties_with_every_patch_and_takes_the_first_ones(index_raw: Index, searcher: Searcher) -> None:
    matches = run(index_raw, torch.zeros(2, 4, 8), searcher, top_k=3)
    assert matches.scores.tolist() == [[0, 0, 0]] * 2
    smallest = sorted(row.tobytes() for row in ids_of(1500))[:3]
    assert found_ids(index_raw, matches) == [smallest] * 2


@pytest.fixture(scope="module")
def index_raw(library: Tensor) -> Index:
    return index_of(library)


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_top_k_larger_than_the_index_gives_all_patches(searcher: Searcher, queries: Tensor) -> None:
    matches = run(index_of(clustered(6)), queries, searcher, probes=1, top_k=64)
    assert matches.rows.sort(dim=1).values.tolist() == [list(range(6))] * len(queries)


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_top_k_larger_than_a_probed_leaf_probes_more_leaves(index: Index, queries: Tensor, searcher: Searcher) -> None:
    # A leaf holds at most 16 patches.
    matches = run(index, queries, searcher, probes=1, top_k=40)
    assert matches.rows.shape == (len(queries), 40)
    assert matches.rows.min() >= 0
    assert matches.scores.isfinite().all()


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_no_queries_find_nothing(index: Index, searcher: Searcher) -> None:
    for certify in (False, searcher == "tree"):
        matches = run(index, torch.empty(0, 4, 8), searcher, probes=2, top_k=2, certify=certify)
        assert matches.rows.shape == matches.scores.shape == (0, 2)


@pytest.mark.parametrize("searcher", SEARCHERS)
@pytest.mark.parametrize(("value", "cells"), [(torch.nan, 1), (torch.inf, 1), (-torch.inf, 1), (3e38, 4)])
def test_a_query_that_is_not_finite_or_beyond_float32_is_refused_in_one_sentence(
    index: Index, searcher: Searcher, value: float, cells: int
) -> None:
    queries = clustered(3)
    queries[1, :cells, 2] = value
    with pytest.raises(UsageError, match=r"^A query patch holds NaN, infinity or values too large for float32; .*\.$"):
        run(index, queries, searcher, probes=2)


def test_one_such_query_among_those_that_threads_share_is_refused_alike(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kt_batch.index.search.PORTION", 1)
    queries = clustered(7)
    queries[5, 0, 0] = torch.nan
    with pytest.raises(UsageError, match="A query patch holds NaN"):
        run(index, queries, "tree", probes=2)


# ---- match space ----


def test_centred_and_raw_space_may_choose_differently() -> None:
    # One channel. Raw: <q, a> = 94/sqrt(444) = 4.461 and <q, b> = 102/sqrt(496) = 4.580, so b. The mean is
    # (12, 10, 10, 11): q becomes (-9, -8, -8, -9), a (-2, 0, 0, 1), b (2, 0, 0, -1), so a.
    a, b, q = (torch.tensor(v).view(1, 4, 1) for v in ([10.0, 10, 10, 12], [14.0, 10, 10, 10], [3.0, 2, 2, 2]))
    ids = pack_ids("00" * 8, np.array([0, 0]), np.array([0, 1]))
    raw, centred = (
        index_of(torch.cat([a, b]), IndexConfig(max_leaf=8, match_space=space), ids) for space in ("raw", "centred")
    )
    assert raw.patch_ids(run(raw, q).rows[0])[0, 11] == 1
    assert centred.patch_ids(run(centred, q).rows[0])[0, 11] == 0
    assert run(raw, q).scores.item() == pytest.approx(102 / (21 * 496) ** 0.5, abs=1e-6)
    assert run(centred, q).scores.item() == pytest.approx(9 / (290 * 5) ** 0.5, abs=1e-6)


def test_a_swap_gets_raw_patches_whatever_the_match_space(library: Tensor) -> None:
    index = index_of(library, IndexConfig(max_leaf=16, merge=1, match_space="centred"))
    patches = index.values(run(index, library[:50], "exact").rows[:, 0])
    torch.testing.assert_close(patches, library[:50], atol=5e-3, rtol=5e-3)


# ---- matches that carry what they transfer ----


@pytest.mark.parametrize("space", ["raw", "centred"])
@pytest.mark.parametrize("payload", ["float16", "4bit", "5bit"])
@pytest.mark.parametrize("shards", [1, 3])
def test_matches_hold_ids_and_raw_patches_of_the_rows_found(space: Space, payload: Payload, shards: int) -> None:
    # D = 512: enough for coded patches.
    library = clustered(900, 128, clusters=30, seed=1)
    config = IndexConfig(max_leaf=32, merge=1, match_space=space, payload=payload)
    index = sharded_index_of(library, config, shards)
    queries = torch.cat([clustered(60, 128, clusters=30, seed=2), library[:5], torch.zeros(1, 4, 128)])
    assert index.shards[0].bits == config.bits
    for searcher in SEARCHERS:
        for certify in (False, searcher == "tree"):
            options = SearchConfig(searcher=searcher, probes=5, top_k=4, certify=certify)
            found, matches = find(index, queries, options), search(index, queries, options)
            rows = found.rows.flatten()
            assert matches.values.dtype == torch.float32
            assert matches.values.equal(index.values(rows).view(66, 4, 4, 128))
            assert matches.patch_ids.dtype == torch.uint8
            assert matches.patch_ids.equal(torch.from_numpy(index.patch_ids(rows)).view(66, 4, 12))
            assert matches.scores.equal(found.scores)
            assert matches.certified.equal(found.certified)


@pytest.mark.parametrize("space", ["raw", "centred"])
@pytest.mark.parametrize("payload", ["float16", "4bit", "5bit"])
def test_keys_and_values_read_together_are_those_read_apart(space: Space, payload: Payload) -> None:
    config = IndexConfig(max_leaf=32, merge=1, match_space=space, payload=payload)
    index = sharded_index_of(clustered(900, 128, clusters=30, seed=1), config, shards=3)
    rows = torch.randint(index.count, (300,), generator=torch.Generator().manual_seed(0))
    keys, values = index.keys_and_values(rows)
    assert keys.equal(index.keys(rows))
    assert values.equal(index.values(rows))


def test_a_search_decodes_a_match_once(monkeypatch: pytest.MonkeyPatch) -> None:
    index = sharded_index_of(clustered(900, 128, clusters=30, seed=1), IndexConfig(max_leaf=32, merge=1), shards=3)
    monkeypatch.setattr(Index, "values", None)  # reading a match again would fail
    assert search(index, clustered(60, 128, clusters=30, seed=2), SearchConfig()).values.shape == (60, 1, 4, 128)


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_no_queries_have_matches_of_no_size(index: Index, searcher: Searcher) -> None:
    matches = search(index, torch.empty(0, 4, 8), SearchConfig(searcher=searcher, top_k=2))
    assert matches.patch_ids.shape == (0, 2, 12)
    assert matches.values.shape == (0, 2, 4, 8)


@pytest.mark.parametrize("certify", [False, True])
def test_the_first_levels_that_a_search_reads_are_announced_before(certify: bool) -> None:
    told = index_of(clustered(400, 8), IndexConfig(max_leaf=100, merge=1))
    seen: list[int] = []
    told = Index(told.tree, told.shards, read_soon=lambda level: seen.append(level.data_ptr()))
    level = told.shards[0].level
    found = find(told, clustered(20, 8, seed=9), SearchConfig(probes=2, certify=certify))
    assert seen
    assert all(level.data_ptr() <= place < level.data_ptr() + level.nbytes for place in seen)
    untold = Index(told.tree, told.shards)
    assert found.rows.equal(find(untold, clustered(20, 8, seed=9), SearchConfig(probes=2, certify=certify)).rows)
