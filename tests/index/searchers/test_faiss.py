"""The faiss baselines are exact with every list probed, for libraries of any kind."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from kt_batch.config import IndexConfig, SearchConfig, Searcher
from kt_batch.errors import UsageError
from kt_batch.index.index import Index
from kt_batch.index.search import Search, find
from kt_batch.index.searchers import faiss as baselines
from kt_batch.index.searchers.faiss import BASELINES, Baseline, build_baseline, list_count, search_baseline
from kt_batch.index.searchers.faiss_guard import load_faiss
from kt_batch.index.shards import match_parts
from kt_batch.kernels.haar import haar
from kt_batch.kernels.tiles import canonical_scores
from tests.support.synthetic import clustered, index_of, sharded_index_of

EVERY = 10**6  # probes: all lists
USERS: tuple[Searcher, ...] = ("pq", "ivf", "hnsw")
LISTED = ("ivf", "ivf-panorama", "ivf-pq")


@pytest.fixture
def faiss() -> ModuleType:
    pytest.importorskip("faiss", reason="the peers are searched through faiss")
    return load_faiss()


needs_faiss = pytest.mark.usefixtures("faiss")


@pytest.fixture(scope="module")
def queries() -> Tensor:
    return clustered(200, seed=2)


@pytest.fixture(scope="module", params=["raw", "centred"])
def index(request: pytest.FixtureRequest) -> Index:
    """1,500 patches in three shards; 32 inverted lists."""
    config = IndexConfig(max_leaf=16, merge=1, match_space=request.param)
    return sharded_index_of(clustered(1500, seed=1), config, shards=3)


@pytest.fixture(scope="module")
def small() -> Index:
    return index_of(clustered(300, seed=1))


def units(index: Index, cells: Tensor) -> Tensor:
    """Return normalised match vectors `(n, D)` of raw patches `(n, 4, C)`."""
    return match_parts(haar(cells), index.tree.mean)[0]


def ask(index: Index, name: str, cells: Tensor, k: int = 1, probes: int = EVERY) -> tuple[Tensor, Tensor]:
    found = search_baseline(build_baseline(index, name), index, units(index, cells), k, probes)
    return found.rows, found.scores


def recall(index: Index, rows: Tensor, queries: Tensor) -> float:
    best = find(index, queries, SearchConfig(searcher="exact")).rows
    return (rows[:, :1] == best).double().mean().item()


# ---- matches ----


@needs_faiss
@pytest.mark.parametrize("name", ["ivf", "ivf-panorama", "hnsw"])
@pytest.mark.parametrize("top_k", [1, 5])
def test_with_every_list_probed_it_finds_the_exact_matches(
    index: Index, queries: Tensor, name: str, top_k: int
) -> None:
    rows, scores = ask(index, name, queries, top_k)
    exact = find(index, queries, SearchConfig(searcher="exact", top_k=top_k))
    assert rows.equal(exact.rows)
    assert scores.equal(exact.scores)


@needs_faiss
@pytest.mark.parametrize("name", BASELINES)
def test_scores_are_canonical_and_descending(index: Index, queries: Tensor, name: str) -> None:
    rows, scores = ask(index, name, queries, k=5, probes=2)
    prepared_queries = units(index, queries).repeat_interleave(5, 0)
    assert scores.flatten().equal(canonical_scores(prepared_queries, index.keys(rows.flatten())))
    assert (scores[:, :-1] >= scores[:, 1:]).all()


@needs_faiss
@pytest.mark.parametrize("probes", [1, 4])
def test_panorama_finds_the_matches_of_ivf_in_as_many_lists(index: Index, queries: Tensor, probes: int) -> None:
    panorama, plain = (ask(index, name, queries, k=3, probes=probes) for name in ("ivf-panorama", "ivf"))
    assert panorama[0].equal(plain[0])
    assert panorama[1].equal(plain[1])


@needs_faiss
@pytest.mark.parametrize("name", ["ivf", "hnsw"])
def test_more_probes_find_more(index: Index, queries: Tensor, name: str) -> None:
    found = [recall(index, ask(index, name, queries, probes=probes)[0], queries) for probes in (1, 4, 32, EVERY)]
    assert found == sorted(found)
    assert found[0] <= found[-1] == 1


@needs_faiss
def test_quantised_codes_find_near_neighbours_and_reranking_finds_better_ones(index: Index, queries: Tensor) -> None:
    exact = find(index, queries, SearchConfig(searcher="exact"))
    coded, looked = ask(index, "pq", queries), ask(index, "ivf-pq", queries)
    assert 0.9 < (coded[1].mean() / exact.scores.mean()).item() < 1
    assert recall(index, coded[0], queries) < recall(index, looked[0], queries)
    assert looked[1].mean() > coded[1].mean()


# ---- building ----


@pytest.mark.parametrize(
    # 4 sqrt(n): 4,000; 400 of at most 256; 4 of at most 2; then at most one.
    ("count", "lists"),
    [(1_000_000, 4096), (10_000, 256), (78, 2), (77, 1), (1, 1)],
)
def test_the_number_of_lists_is_a_power_of_two_near_four_roots_with_39_patches_each(count: int, lists: int) -> None:
    assert list_count(count) == lists


@needs_faiss
@pytest.mark.parametrize("name", BASELINES)
def test_equal_seeds_build_equal_indexes(small: Index, queries: Tensor, name: str) -> None:
    one, other = (build_baseline(small, name, seed=3, threads=1) for _ in range(2))
    found = [search_baseline(baseline, small, units(small, queries), 4, 2) for baseline in (one, other)]
    assert found[0].rows.equal(found[1].rows)
    assert one.bytes == other.bytes


@needs_faiss
def test_the_reported_size_is_that_of_the_serialised_faiss_index(faiss: ModuleType, small: Index) -> None:
    sizes = {}
    for name in BASELINES:
        baseline = build_baseline(small, name)
        assert baseline.build_seconds > 0
        assert baseline.bytes == len(faiss.serialize_index(baseline.index))
        sizes[name] = baseline.bytes
    assert sizes["pq"] < sizes["ivf-pq"] < 300 * 32 * 4 < sizes["ivf"] < sizes["hnsw"]


@needs_faiss
def test_an_open_search_builds_its_baseline_once(
    small: Index, queries: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(small, SearchConfig(searcher="ivf"))
    expected = search_baseline(build_baseline(small, "ivf"), small, units(small, queries), 1, 8).rows
    assert search.find(queries).rows.equal(expected)
    monkeypatch.setattr(baselines, "build_baseline", None)  # calling it again would fail
    found = search.find(queries)
    assert found.rows.equal(expected)
    assert not found.certified.any()


@needs_faiss
def test_inverted_lists_move_to_a_gpu_and_a_graph_does_not(
    faiss: ModuleType, small: Index, queries: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = []

    def to_gpu(resources: object, device: int, index: object) -> object:
        moved.append((resources, device, type(index).__name__))
        return index

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    for name in BASELINES:
        build_baseline(small, name)
    assert moved == [("resources", 0, "IndexIVFFlat")]


@needs_faiss
@pytest.mark.gpu
def test_a_gpu_finds_the_same_matches(faiss: ModuleType, index: Index, queries: Tensor) -> None:
    if faiss.get_num_gpus() == 0:
        pytest.skip("this faiss sees no GPU")
    exact = find(index, queries, SearchConfig(searcher="exact", top_k=5))
    rows, scores = ask(index, "ivf", queries, k=5)
    assert rows.equal(exact.rows)
    assert scores.equal(exact.scores)


# ---- small, flat and empty libraries ----


@needs_faiss
@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("count", [1, 2, 3, 40, 80])
def test_a_tiny_library_returns_every_patch_once(name: str, count: int) -> None:
    cells = clustered(count, seed=count)
    index = index_of(cells)
    rows, _ = ask(index, name, cells, k=index.count, probes=1)
    assert rows.sort(dim=1).values.equal(torch.arange(index.count).expand(len(cells), -1))


@needs_faiss
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_any_number_of_channels_can_be_quantised(channels: int) -> None:
    index = index_of(clustered(100, channels))
    for name in BASELINES:
        rows, scores = ask(index, name, clustered(5, channels, seed=3), k=2)
        assert rows.min() >= 0
        assert scores.isfinite().all()


@needs_faiss
@pytest.mark.parametrize("name", BASELINES)
def test_black_and_equal_patches_are_searched_correctly(name: str) -> None:
    # Grey at 200 brightnesses, which is one direction, and black: 201 kept patches, two vectors.
    grey = torch.linspace(0.5, 2, 200)[:, None, None].expand(200, 4, 8)
    index = index_of(torch.cat([grey, torch.zeros(5, 4, 8)]))
    assert index.count > 100
    prepared_queries = torch.cat([grey[:2], torch.zeros(1, 4, 8)])
    rows, scores = ask(index, name, prepared_queries, k=3, probes=1)
    assert (rows.sort(dim=1).values.diff(dim=1) > 0).all()
    torch.testing.assert_close(scores[:2], torch.ones(2, 3, dtype=torch.float64), atol=1e-5, rtol=0)
    assert scores[2].tolist() == [0, 0, 0]


@needs_faiss
@pytest.mark.parametrize("name", BASELINES)
def test_matches_in_a_library_of_black_images_score_zero(name: str) -> None:
    rows, scores = ask(index_of(torch.zeros(20, 4, 8)), name, clustered(3))
    assert rows.tolist() == [[0]] * 3
    assert scores.tolist() == [[0]] * 3


@needs_faiss
@pytest.mark.parametrize("name", LISTED)
def test_more_matches_than_one_list_holds_come_from_more_lists(index: Index, queries: Tensor, name: str) -> None:
    rows, scores = ask(index, name, queries, k=400, probes=1)
    assert (rows.sort(dim=1).values.diff(dim=1) > 0).all()
    assert rows.min() >= 0
    assert scores.isfinite().all()


@needs_faiss
def test_patches_unreachable_in_a_graph_are_found(faiss: ModuleType, small: Index, queries: Tensor) -> None:
    # Two thirds of the patches are missing from this graph.
    graph = faiss.IndexHNSWFlat(32, 8, faiss.METRIC_INNER_PRODUCT)
    graph.add(small.keys(torch.arange(100)).numpy())
    found = search_baseline(Baseline("hnsw", graph, 0, 0.0, 100), small, units(small, queries), 101, 1)
    exact = find(small, queries, SearchConfig(searcher="exact", top_k=64))
    assert found.rows[:, :64].equal(exact.rows)


@needs_faiss
@pytest.mark.parametrize("name", BASELINES)
def test_no_queries_find_nothing(small: Index, name: str) -> None:
    rows, scores = ask(small, name, torch.empty(0, 4, 8), k=2)
    assert rows.shape == scores.shape == (0, 2)


# ---- configuration ----


@needs_faiss
@pytest.mark.parametrize("searcher", USERS)
def test_a_user_can_select_it(index: Index, queries: Tensor, searcher: Searcher) -> None:
    matches = find(index, queries, SearchConfig(searcher=searcher, probes=EVERY, top_k=3))
    assert matches.rows.shape == (len(queries), 3)
    assert recall(index, matches.rows, queries) > (0 if searcher == "pq" else 0.99)


@pytest.mark.parametrize("searcher", USERS)
def test_without_faiss_a_sentence_names_the_extras(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, queries: Tensor, searcher: Searcher
) -> None:
    (tmp_path / "faiss.py").write_text("raise ImportError('there is none')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    with pytest.raises(UsageError, match=r"faiss cannot be loaded \(there is none\).*kt-batch\[cpu\]"):
        find(index_of(clustered(5)), queries, SearchConfig(searcher=searcher))


def test_an_unknown_baseline_is_refused(small: Index) -> None:
    with pytest.raises(UsageError, match="no searcher 'lsh' through faiss; there are pq, ivf"):
        build_baseline(small, "lsh")
