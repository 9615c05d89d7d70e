"""Measure recall, speed, build time and size of every searcher on one library, in one run on the same threads."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.config import IndexConfig, SearchConfig
from kt_batch.errors import MismatchError
from kt_batch.evaluation.models import working_images
from kt_batch.index.ids import sort_order
from kt_batch.index.index import Index, build_in_memory
from kt_batch.index.search import Search, find
from kt_batch.index.searchers.faiss import Baseline, build_baseline, search_baseline
from kt_batch.index.searchers.scan import scan_device
from kt_batch.index.shards import match_parts
from kt_batch.kernels.haar import haar
from kt_batch.kernels.patches import positions, unfold
from kt_batch.kernels.tiles import canonical_scores, normalise
from kt_batch.methods.features import encode, to_tensor
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.store.images.files import pad_to
from kt_batch.store.indexes import find_index
from kt_batch.store.opening import open_library
from kt_batch.store.schemas import from_fixed_binary, patch_vectors
from kt_batch.store.tables import read_patches

SAMPLE = 2048  # queries whose exact match is known; recall and NCC ratio are measured on these
REPEATS = 3  # timings, of which the median counts
LONG = 240  # seconds; a longer search of all queries is timed on the sample
BRIEF = 15  # seconds; a longer search is timed once
TOLERANCE = 1e-6  # of the best score: equal patches, as of a white wall, all count as the best match
OURS = (8, 16, 32, 64, 96, 128, 192, 256)
BASELINES = {
    "ivf": (8, 16, 32, 64),
    "ivf-panorama": (8, 16, 32, 64),
    "ivf-pq": (16, 32, 64),
    "hnsw": (16, 32, 64, 128),
    "pq": (1,),
}


@dataclass(frozen=True)
class SearchFigures:
    """One row of the table: a searcher at one setting.

    Attributes:
        searcher: Its name, with options.
        setting: Leaves probed, lists probed or efSearch; None: the searcher has no setting.
        recall: Share of queries whose match has the best possible score.
        ncc_ratio: Mean NCC of the matches over the mean NCC of the best matches.
        queries: How many were timed.
        queries_per_second: Of the median timing.
        certified: Share of certified matches.
        build_seconds: From vectors in memory to an index in memory; None: not measured.
        bytes_per_patch: Size of that index; None: not measured.
    """

    searcher: str
    setting: int | None
    recall: float
    ncc_ratio: float
    queries: int
    queries_per_second: float
    certified: float
    build_seconds: float | None
    bytes_per_patch: float | None


@dataclass(frozen=True)
class SearchTable:
    """The rows of one run, and the conditions they were measured under.

    Attributes:
        patches: Size of the library.
        dimension: Of a patch vector.
        queries: Number of query patches.
        leaves: Of the tree.
        threads: Of the process.
        matrix_gflops: Speed of a large float32 product on the processor.
        scan_device: Where `scan` computed, `cpu` or `cuda`.
        rows: One for each searcher and setting.
    """

    patches: int
    dimension: int
    queries: int
    leaves: int
    threads: int
    matrix_gflops: float
    scan_device: str
    rows: tuple[SearchFigures, ...]


@dataclass(frozen=True)
class PreparedQueries:
    """Query patches, with the exact matches of a sample of them.

    Attributes:
        queries: Raw patches `(n, 4, C)`.
        sample: `(t,)` int64, the queries whose exact match is known.
        best: `(t,)`, their exact scores.
        best_ncc: Their mean exact NCC.
    """

    queries: Tensor
    sample: Tensor
    best: Tensor
    best_ncc: float


Find = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]  # raw queries to rows, scores and certificates, each `(n,)`


def bench_search(
    library_uri: str,
    images: Sequence[str],
    source: EncoderSource,
    baselines: Sequence[str],
    threads: int,
    progress: Progress,
) -> SearchTable:
    """Measure every searcher on an indexed library, with the patches of `images` as queries.

    Args:
        library_uri: The library.
        images: Paths, globs or URIs.
        source: The library's encoder.
        baselines: Names in BASELINES.
        threads: Of this process.
        progress: Called after every row.

    Raises:
        MismatchError: If the encoder is not the library's.
    """
    torch.set_num_threads(threads)
    packets, ids, config = library_patches(library_uri)
    queries = query_patches(library_uri, images, source)
    index, seconds = timed_build(packets, ids, config.model_copy(update={"payload": "float16"}))
    prepared_queries = prepare_queries(index, queries)
    rows = list(_measure_searchers(index, prepared_queries, seconds, progress))
    for payload in ("4bit", "5bit"):
        rows += _measure_coded(
            index, packets, ids, config.model_copy(update={"payload": payload}), prepared_queries, progress
        )
    del packets
    for name in baselines:
        rows += _measure_baseline(index, name, prepared_queries, progress)
    return SearchTable(
        patches=index.count,
        dimension=4 * index.channels,
        queries=len(queries),
        leaves=index.tree.leaves,
        threads=threads,
        matrix_gflops=matrix_gflops(),
        scan_device=scan_device(),
        rows=tuple(rows),
    )


def library_patches(library_uri: str) -> tuple[Tensor, NDArray[np.uint8], IndexConfig]:
    """Read all patches of a library in order of their ids.

    Returns:
        Haar packets `(n, 4, C)` float16, ids `(n, 12)` uint8, and the configuration of the current index. In it only
        equal patches are merged, so that all searchers search the same patches.
    """
    library = open_library(library_uri)
    summary = find_index(library, None)
    packets, ids = [], []
    for part in library.committed.parts("patches").values():
        table = read_patches(library.location, part, library.channels)
        ids.append(from_fixed_binary(table["patch_id"], "u1", (12,)))
        cells = torch.from_numpy(patch_vectors(table, summary.channels).copy())
        packets += [haar(some.float()).half() for some in cells.split(16384)]
    order = sort_order(np.concatenate(ids))
    joined = torch.cat(packets)
    packets.clear()  # memory is short for three copies of millions of patches
    return joined[torch.from_numpy(order)], np.concatenate(ids)[order], summary.config.model_copy(update={"merge": 1.0})


def timed_build(packets: Tensor, ids: NDArray[np.uint8], config: IndexConfig) -> tuple[Index, float]:
    """Build an index in memory; return it and the seconds it took."""
    started = time.perf_counter()
    index = build_in_memory(packets, ids, config)
    return index, time.perf_counter() - started


def query_patches(library_uri: str, images: Sequence[str], source: EncoderSource) -> Tensor:
    """Return all patches `(n, 4, C)` of the images at the library's layer and size, image after image."""
    config = open_library(library_uri).config.encoder
    loaded = load_encoder(source)
    if loaded.sha256 != config.weights_sha256:
        raise MismatchError(
            f"'{library_uri}' was made with encoder weights {config.weights_sha256[:16]}, not {loaded.sha256[:16]}."
        )
    stride = loaded.network.geometry(config.layer).stride
    patches = []
    with torch.inference_mode():
        for image in working_images(images, config.size, held_out=False):
            features = encode(loaded.network, to_tensor(pad_to(image.pixels, stride)), config.layer)
            patches.append(unfold(features, *positions(features.shape[1], features.shape[2], 1, cover=True)))
    return torch.cat(patches).clone()


def prepare_queries(index: Index, queries: Tensor, sample: int = SAMPLE) -> PreparedQueries:
    """Find the exact matches of `sample` evenly spaced queries, raw patches `(n, 4, C)`."""
    chosen = torch.arange(min(sample, len(queries))) * len(queries) // min(sample, len(queries))
    exact = find(index, queries[chosen], SearchConfig(searcher="exact"))
    return PreparedQueries(queries, chosen, exact.scores[:, 0], mean_ncc(index, queries[chosen], exact.rows[:, 0]))


def _measure_searchers(
    index: Index, prepared_queries: PreparedQueries, build_seconds: float, progress: Progress
) -> Iterator[SearchFigures]:
    size = index_bytes(index) / index.count
    settings = [
        *((f"bhkm {bands}", SearchConfig(searcher="bhkm", bands=bands, probes=1)) for bands in (1, 2, 3, 4)),
        ("hkm", SearchConfig(searcher="hkm", probes=1)),
        *(("tree", SearchConfig(probes=probes)) for probes in OURS if probes < index.tree.leaves),
        ("tree --certify", SearchConfig(probes=16, certify=True)),
        ("exact", SearchConfig(searcher="exact")),
        ("scan", SearchConfig(searcher="scan")),
    ]
    for number, (name, config) in enumerate(settings, start=1):
        probes = None if config.searcher in ("exact", "scan") else config.probes
        row = measure(index, name, probes, prepared_queries, searcher(index, config), build_seconds, size)
        progress(Step("tree", number, len(settings), note=_in_words(row)))
        yield row


def _measure_coded(
    index: Index,
    packets: Tensor,
    ids: NDArray[np.uint8],
    config: IndexConfig,
    prepared_queries: PreparedQueries,
    progress: Progress,
) -> Iterator[SearchFigures]:
    """Measure the same patches coded in 4 or 5 bits a value. Leaves and rows are the same; float16 values judge."""
    small, build_seconds = timed_build(packets, ids, config)
    size = index_bytes(small) / small.count
    settings = [probes for probes in OURS if probes < small.tree.leaves]
    for number, probes in enumerate(settings, start=1):
        find = searcher(small, SearchConfig(probes=probes))
        row = measure(index, f"tree {config.payload}", probes, prepared_queries, find, build_seconds, size)
        progress(Step(config.payload, number, len(settings), note=_in_words(row)))
        yield row


def _in_words(row: SearchFigures) -> str:
    """Return a row as one line of progress."""
    name = row.searcher if row.setting is None else f"{row.searcher} {row.setting}"
    return f"{name}: recall {row.recall:.4f}, NCC ratio {row.ncc_ratio:.5f}, {row.queries_per_second:.0f} queries/s"


def searcher(index: Index, config: SearchConfig) -> Find:
    """Return the search of an index as a function of the queries."""
    search = Search(index, config)

    def find_first(queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        matches = search.find(queries)
        return matches.rows[:, 0], matches.scores[:, 0], matches.certified

    return find_first


def baseline_searcher(baseline: Baseline, index: Index, setting: int) -> Find:
    """Return the search of a baseline at one setting as a function of the queries; it certifies nothing."""

    def find_first(queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        vectors, _ = match_parts(haar(queries), index.tree.mean)
        best = search_baseline(baseline, index, vectors, 1, setting)
        return best.rows[:, 0], best.scores[:, 0], torch.zeros(len(queries), dtype=torch.bool)

    return find_first


def _measure_baseline(
    index: Index, name: str, prepared_queries: PreparedQueries, progress: Progress
) -> Iterator[SearchFigures]:
    baseline = build_baseline(index, name)
    size = baseline.bytes / index.count
    for number, probes in enumerate(BASELINES[name], start=1):
        setting = None if name == "pq" else probes
        find_first = baseline_searcher(baseline, index, probes)
        row = measure(index, name, setting, prepared_queries, find_first, baseline.build_seconds, size)
        progress(Step(name, number, len(BASELINES[name]), note=_in_words(row)))
        yield row


def measure(
    index: Index,
    name: str,
    setting: int | None,
    prepared_queries: PreparedQueries,
    find: Find,
    build_seconds: float | None,
    bytes_per_patch: float | None,
) -> SearchFigures:
    """Measure one searcher at one setting.

    Speed is that of all queries at once, or of the sample if all would take longer than LONG; quality is that of the
    sample's matches in the timed search.

    Args:
        index: Judges the matches.
        name: Of the row.
        setting: Of the row.
        prepared_queries: Queries and exact matches.
        find: The searcher.
        build_seconds: Of the row.
        bytes_per_patch: Of the row.
    """
    sampled = prepared_queries.queries[prepared_queries.sample]
    rows, certified, timed, seconds = _time_search(prepared_queries, find)
    # bhkm scores only the bands it reads, so all searchers are compared by the canonical scores of their matches.
    vectors, _ = match_parts(haar(sampled), index.tree.mean)
    scores = canonical_scores(vectors, index.keys(rows))
    return SearchFigures(
        searcher=name,
        setting=setting,
        recall=round(float((scores >= prepared_queries.best - TOLERANCE).double().mean()), 4),
        ncc_ratio=round(mean_ncc(index, sampled, rows) / prepared_queries.best_ncc, 5),
        queries=timed,
        queries_per_second=round(timed / seconds, 1),
        certified=round(float(certified.double().mean()), 4),
        build_seconds=None if build_seconds is None else round(build_seconds, 1),
        bytes_per_patch=None if bytes_per_patch is None else round(bytes_per_patch, 1),
    )


def _time_search(prepared_queries: PreparedQueries, find: Find) -> tuple[Tensor, Tensor, int, float]:
    """Return rows and certificates of the sample, the number of queries timed, and the median seconds they took."""
    sample = prepared_queries.sample
    started = time.perf_counter()
    rows, _, certified = find(prepared_queries.queries[sample])
    once = time.perf_counter() - started
    whole = once * len(prepared_queries.queries) / len(sample) < LONG
    timed = prepared_queries.queries if whole else prepared_queries.queries[sample]
    spent = [] if whole else [once]
    while len(spent) < (REPEATS if sum(spent) < BRIEF else 1):
        started = time.perf_counter()
        rows, _, certified = find(timed)
        spent.append(time.perf_counter() - started)
    if whole:
        rows, certified = rows[sample], certified[sample]
    return rows, certified, len(timed), statistics.median(spent)


def mean_ncc(index: Index, queries: Tensor, rows: Tensor) -> float:
    """Return the mean NCC of raw queries `(n, 4, C)` and the patches in `rows` `(n,)`."""
    return float(canonical_scores(normalise(queries.flatten(1)), normalise(index.values(rows).flatten(1))).mean())


def index_bytes(index: Index) -> int:
    """Return the bytes of shards and tree on disk."""
    shards = sum(tensor.nbytes for shard in index.shards for tensor in shard.tensors().values())
    return shards + len(index.tree.to_bytes())


def matrix_gflops(size: int = 2048) -> float:
    """Return the speed of a large float32 product, in 10^9 operations a second: the median of five."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    spent = []
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(a, b)
        spent.append(time.perf_counter() - started)
    return round(2 * size**3 / sorted(spent)[2] / 1e9, 1)


def speed_at(rows: Sequence[SearchFigures], name: str, recall: float) -> float | None:
    """Return the queries a second of a searcher at this recall; None if no setting reaches it.

    Interpolates the logarithm of the speed between the two nearest settings.
    """
    points = sorted((row.recall, row.queries_per_second) for row in rows if row.searcher == name)
    above = [point for point in points if point[0] >= recall]
    below = [point for point in points if point[0] < recall]
    if not above:
        return None
    (high, fast), (low, faster) = above[0], (below[-1] if below else above[0])
    share = 0.0 if high == low else (high - recall) / (high - low)
    return math.exp((1 - share) * math.log(fast) + share * math.log(faster))
