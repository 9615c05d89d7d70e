"""The dense scan finds the largest estimates of all patches for any block size."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kt_batch.config import IndexConfig, SearchConfig
from kt_batch.errors import KtBatchError
from kt_batch.index.index import Index
from kt_batch.index.search import Search, find
from kt_batch.index.searchers import scan
from kt_batch.index.searchers.base import Found, SearchRequest
from kt_batch.index.searchers.candidates import Pairs
from kt_batch.index.searchers.estimates import prepare_estimates
from kt_batch.index.searchers.scan import BLOCK, FEW, ScanSearcher, best_estimates, level_of
from kt_batch.index.shards import match_parts
from kt_batch.index.threads import in_turn
from kt_batch.kernels.haar import haar
from kt_batch.kernels.tiles import canonical_scores
from kt_batch.models.precision import quick_products
from tests.support.synthetic import brute_force, clustered, index_of, sharded_index_of

CHANNELS = 128  # D = 512: enough for patches of 4 bits a value beside 127 coordinates


@pytest.fixture(autouse=True)
def on_the_processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests without the mark `gpu` on the CPU of a machine with a GPU."""
    if "gpu" not in request.keywords:
        monkeypatch.setattr(scan, "scan_device", lambda: "cpu")


@pytest.fixture(scope="module", params=["float16", "4bit"])
def index(request: pytest.FixtureRequest) -> Index:
    """2,000 patches in three shards: 31 blocks and a quarter."""
    cells = clustered(2000, CHANNELS, clusters=30, seed=1)
    return sharded_index_of(cells, IndexConfig(max_leaf=32, merge=1, payload=request.param), shards=3)


@pytest.fixture(scope="module")
def queries() -> Tensor:
    return clustered(250, CHANNELS, clusters=30, seed=2)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(index: Index, queries: Tensor, top_k: int = 1) -> Found:
    return find(index, queries, SearchConfig(searcher="scan", top_k=top_k))


def units(index: Index, cells: Tensor) -> Tensor:
    return match_parts(haar(cells), index.tree.mean)[0]


def estimates(index: Index, queries: Tensor, count: int) -> tuple[Pairs, Tensor]:
    """Return the best estimates found and all `(n, patches)` in float64."""
    with quick_products():  # as in a search
        level, _ = prepare_estimates(index, units(index, queries), in_turn)
    every = torch.cat([shard.level for shard in index.shards]).double()
    return best_estimates(level_of(index, "cpu"), level, count), level.double() @ every.T


# ---- matches ----


@pytest.mark.parametrize("count", [1, 11, 80, 2000])  # of 32 blocks
def test_the_best_estimates_of_all_patches_are_found(index: Index, queries: Tensor, count: int) -> None:
    count = min(count, index.count)
    found, every = estimates(index, queries, count)
    assert found.who.equal(torch.arange(len(queries)).repeat_interleave(count))
    rows, values = found.rows.view(-1, count), found.scores.view(-1, count)
    assert all(len(set(some)) == count for some in rows.tolist())
    torch.testing.assert_close(values.double(), every.gather(1, rows), atol=1e-6, rtol=0)
    torch.testing.assert_close(values.double(), every.topk(count, dim=1).values, atol=1e-6, rtol=0)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 6 * BLOCK), st.integers(1, 9), st.integers(0, 10**6), st.integers(1, 400), st.integers(1, 3),
    st.tuples(st.integers(1, 10), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 8]), st.integers(1, 1 << 14)),
)  # fmt: skip
def test_ties_between_estimates_go_to_the_smaller_rows_for_any_block_size(
    patches: int, prepared_queries: int, seed: int, count: int, width: int, sizes: tuple[int, int, int, int]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = min(count, patches)
    every = torch.randint(-2, 3, (patches, width), generator=generator).float()
    queries = torch.cat(
        [torch.randint(-2, 3, (prepared_queries, width - 1), generator=generator), torch.ones(prepared_queries, 1)],
        dim=1,
    )
    level = torch.zeros(-(-patches // BLOCK) * BLOCK, width)
    level[:patches] = every
    level[patches:, -1] = scan.NOBODY
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "PORTION", sizes[0])
        patch.setattr(scan, "TILE", sizes[1] * BLOCK)
        patch.setattr(scan, "STRETCH", sizes[2] * BLOCK)
        patch.setattr(scan, "AGAIN", sizes[3])
        found = best_estimates(level.half().view(-1, BLOCK, width), queries, count)
    products = queries @ every.T
    best = torch.sort(products, dim=1, descending=True, stable=True)
    assert found.rows.view(prepared_queries, count).equal(best.indices[:, :count])
    assert found.scores.view(prepared_queries, count).equal(best.values[:, :count])


@pytest.mark.parametrize("top_k", [1, 5, 40])
def test_the_match_is_the_overall_best_if_it_is_among_the_best_estimates(
    index: Index, queries: Tensor, top_k: int
) -> None:
    found = run(index, queries, top_k)
    rows, scores = brute_force(index, queries, top_k)
    candidates = estimates(index, queries, FEW + top_k)[0].rows.view(len(queries), -1)
    held = (candidates[:, None] == rows[:, :, None]).any(2).all(1)
    assert held.double().mean() > (0.8 if top_k == 1 else 0)  # noise in 512 values is hard on 127 coordinates
    assert found.rows[held].equal(rows[held])
    assert found.scores[held].equal(scores[held])
    assert found.scores.le(scores).all()
    assert not found.certified.any()


def test_reading_every_patch_equals_brute_force(index: Index, queries: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "FEW", index.count)
    found = run(index, queries[:50], 3)
    rows, scores = brute_force(index, queries[:50], 3)
    assert found.rows.equal(rows)
    assert found.scores.equal(scores)


def test_scores_are_canonical_and_descending_and_patches_are_distinct(index: Index, queries: Tensor) -> None:
    found = run(index, queries, 12)
    repeated = units(index, queries).repeat_interleave(12, 0)
    scores = canonical_scores(repeated, index.keys(found.rows.flatten()))
    assert found.scores.flatten().equal(scores)
    assert found.scores.diff(dim=1).le(0).all()
    assert all(len(set(some)) == 12 for some in found.rows.tolist())


# ---- where the products are computed ----


def test_an_open_search_holds_the_first_level_once(queries: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(index_of(clustered(300, CHANNELS)), SearchConfig(searcher="scan"))
    expected = search.find(queries)
    monkeypatch.setattr(scan, "level_of", None)  # calling it again would fail
    assert search.find(queries).rows.equal(expected.rows)


def test_the_first_levels_of_all_shards_are_joined_and_padding_never_wins(index: Index) -> None:
    level = level_of(index, "cpu")
    assert level.dtype == torch.float16
    assert level.shape == (-(-index.count // BLOCK), BLOCK, index.shards[0].level.shape[1])
    assert level.flatten(0, 1)[: index.count].equal(torch.cat([shard.level for shard in index.shards]))
    assert index.count % BLOCK
    # The shortest rest of a query is that of D = 4 values, all of them coordinates.
    tiny = index_of(clustered(3, channels=1))
    ready, _ = prepare_estimates(tiny, torch.cat([units(tiny, clustered(5, channels=1)), torch.zeros(1, 4)]), in_turn)
    assert (ready @ level_of(tiny, "cpu")[0, tiny.count :].float().T).max() < -2


def test_products_are_computed_on_the_device_of_the_level_and_returned_to_the_host() -> None:
    # Of tensors without values torch tells shapes and devices, and refuses to mix these, also without a GPU.
    with FakeTensorMode():
        level = torch.empty(20, BLOCK, 9, dtype=torch.float16, device="cuda:0")
        found = best_estimates(level, torch.empty(7, 9), 30)
    assert [part.device.type for part in (found.who, found.rows, found.scores)] == ["cpu"] * 3
    assert len(found) == 7 * 30


def test_a_gpu_out_of_memory_raises_one_sentence(queries: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    index = index_of(clustered(300, CHANNELS))
    monkeypatch.setattr(scan, "level_of", full)
    with pytest.raises(KtBatchError, match=r"^The GPU has no room for a search with 'scan', which holds 0\.0 GB .*\.$"):
        run(index, queries)


def test_a_failed_search_restores_threads_and_precision(
    index: Index, queries: Tensor, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(2)
    monkeypatch.setattr(scan, "_best_rows", None)
    with pytest.raises(TypeError):
        run(index, queries)
    assert torch.get_num_threads() == 2
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.gpu
def test_a_gpu_finds_the_same_matches(index: Index, queries: Tensor) -> None:
    if not torch.cuda.is_available():
        pytest.skip("this torch sees no GPU")
    with quick_products():  # as in a search
        level, _ = prepare_estimates(index, units(index, queries), in_turn)
    for precision in ("highest", "medium"):  # also where products may be rounded elsewhere
        torch.set_float32_matmul_precision(precision)
        try:
            here, there = (best_estimates(level_of(index, device), level, 40) for device in ("cpu", "cuda"))
            assert torch.get_float32_matmul_precision() == precision
        finally:
            torch.set_float32_matmul_precision("highest")
        torch.testing.assert_close(there.scores, here.scores, atol=1e-6, rtol=0)
        assert there.rows.eq(here.rows).double().mean() > 0.99
    found = run(index, queries, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "scan_device", lambda: "cpu")
        assert found.rows.eq(run(index, queries, 3).rows).double().mean() > 0.99


# ---- independence of the division of work ----


@pytest.mark.parametrize("count", [2, 3])
def test_one_and_several_threads_find_the_same_matches(
    index: Index, queries: Tensor, threads: None, count: int
) -> None:
    for prepared_queries in (queries, queries[:1], queries[:0]):
        torch.set_num_threads(1)
        alone = run(index, prepared_queries, 2)
        torch.set_num_threads(count)
        found = run(index, prepared_queries, 2)
        assert found.rows.equal(alone.rows)
        assert found.scores.equal(alone.scores)
        assert torch.get_num_threads() == count


@pytest.mark.parametrize(
    "sizes", [{"PORTION": 7}, {"TILE": BLOCK}, {"STRETCH": 3 * BLOCK}, {"AGAIN": 1}, {"AGAIN": 10**6}], ids=str
)
def test_matches_do_not_depend_on_the_block_size(
    index: Index, queries: Tensor, sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(index, queries[:60], 2)
    for name, size in sizes.items():
        monkeypatch.setattr(scan, name, size)
    found = run(index, queries[:60], 2)
    assert found.rows.equal(expected.rows)
    assert found.scores.equal(expected.scores)


# ---- small, flat and empty libraries ----


@pytest.mark.parametrize("count", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1])
def test_a_small_library_returns_every_patch_once(count: int) -> None:
    index = index_of(clustered(count, CHANNELS, seed=count), IndexConfig(max_leaf=16, merge=1))
    prepared_queries = clustered(5, CHANNELS, seed=9)
    request = SearchRequest(prepared_queries, units(index, prepared_queries), index.count)
    found = ScanSearcher(index, SearchConfig(searcher="scan")).find(request)
    assert found.rows.sort(dim=1).values.equal(torch.arange(index.count).expand(5, -1))
    best, expected = brute_force(index, prepared_queries, index.count)
    assert found.rows.equal(best)
    assert found.scores.equal(expected)


def test_every_query_finds_the_only_patch(queries: Tensor) -> None:
    assert run(index_of(clustered(1, CHANNELS)), queries, top_k=3).rows.tolist() == [[0]] * len(queries)


def test_one_of_all_equal_patches_is_kept_and_found(queries: Tensor) -> None:
    index = index_of(clustered(1, CHANNELS).expand(300, -1, -1))
    assert index.count == 1
    assert run(index, queries).rows.eq(0).all()


def test_ties_go_to_the_smallest_ids(queries: Tensor) -> None:
    # Eight powers of two: unit vectors that are the very same.
    cells = clustered(1, CHANNELS, seed=3) * (2.0 ** torch.arange(-4, 4))[:, None, None]
    index = index_of(cells, IndexConfig(max_leaf=8, merge=1))
    found = run(index, queries, top_k=3)
    rows, scores = brute_force(index, queries, 3)
    assert index.count == 8
    assert found.rows.equal(rows)
    assert found.scores.equal(scores)


def test_a_zero_query_is_answered_and_affects_no_other_query(index: Index, queries: Tensor) -> None:
    prepared_queries = torch.cat([queries[:2], torch.zeros(1, 4, CHANNELS), queries[2:4]])
    found, without = run(index, prepared_queries, 3), run(index, queries[:4], 3)
    assert found.scores[2].tolist() == [0, 0, 0]
    assert len(set(found.rows[2].tolist())) == 3
    assert found.rows[[0, 1, 3, 4]].equal(without.rows)


def test_a_query_without_similar_patches_still_gets_its_best_match() -> None:
    # All scores are negative; the zero patch, with score 0, is the best of them.
    index = index_of(torch.cat([clustered(50, CHANNELS), torch.zeros(1, 4, CHANNELS)]))
    prepared_queries = -clustered(10, CHANNELS, seed=9)
    assert run(index, prepared_queries).scores.eq(0).all()


def test_a_certified_scan_is_refused() -> None:
    with pytest.raises(ValueError, match="certify is for the searchers tree and exact, not for scan"):
        SearchConfig(searcher="scan", certify=True)
