"""How fast and how right every searcher is on one library, peers included, in one run on the same threads."""

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
from kt_batch.index.searchers.faiss import build_baseline, search_baseline
from kt_batch.index.searchers.scan import scan_device
from kt_batch.index.shards import match_parts
from kt_batch.kernels.haar import haar
from kt_batch.kernels.patches import positions, unfold
from kt_batch.kernels.tiles import canonical_scores, normalise
from kt_batch.methods.knowledge import encode, to_tensor
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.common import Progress, Step
from kt_batch.store.images.files import pad_to
from kt_batch.store.indexes import find_index
from kt_batch.store.library import Library
from kt_batch.store.schemas import from_fixed_binary, patch_vectors
from kt_batch.store.tables import read_table

TRUTH = 2048  # queries whose exact match is found; recall and NCC ratio are of these
REPEATS = 3  # of each timing, the median counts
LONG = 240  # seconds: what would take longer on all queries is timed on the sample
BRIEF = 15  # seconds: what takes longer is timed once
SAME = 1e-6  # a match counts as the best when its score is within this: of a white wall there are hundreds of patches
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
    """One row: a searcher at one setting (leaves probed, lists probed, efSearch; None where it has none).

    recall: share of queries whose match has the best score there is; ncc_ratio: mean NCC found / mean NCC of the best.
    build_seconds: from vectors in memory to an index in memory; bytes_per_patch: of that index.
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
    """The rows of one run, and what they were measured on. matrix_gflops: what a large float32 product reaches on the
    processor; scan_device: where `scan` made its products, `cpu` or `cuda`."""

    patches: int
    dimension: int
    queries: int
    leaves: int
    threads: int
    matrix_gflops: float
    scan_device: str
    rows: tuple[SearchFigures, ...]


@dataclass(frozen=True)
class DryRunRequest:
    """Raw query patches `(n, 4, C)`, the places `(t,)` of those whose exact scores `(t,)` and mean NCC are known."""

    queries: Tensor
    sample: Tensor
    best: Tensor
    best_ncc: float


Find = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def bench_search(
    library_uri: str,
    images: Sequence[str],
    source: EncoderSource,
    baselines: Sequence[str],
    threads: int,
    progress: Progress,
) -> SearchTable:
    """Measure every searcher on an indexed library, asked by the patches of `images`, all at once.

    Raises MismatchError when the encoder is not the library's.
    """
    torch.set_num_threads(threads)
    packets, ids, config = library_patches(library_uri)
    queries = query_patches(library_uri, images, source)
    index, seconds = _built(packets, ids, config.model_copy(update={"payload": "float16"}))
    prepared_queries = ask(index, queries)
    rows = list(_ours(index, prepared_queries, seconds, progress))
    for payload in ("4bit", "5bit"):
        rows += _ours_coded(
            index, packets, ids, config.model_copy(update={"payload": payload}), prepared_queries, progress
        )
    del packets
    for name in baselines:
        rows += _rival(index, name, prepared_queries, progress)
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
    """All patches of a library by ascending id, as packets `(n, 4, C)` float16, their ids `(n, 12)`, and how its
    present index was made, but that equal patches alone are merged, so that all searchers have the same ones."""
    library = Library.open(library_uri)
    summary = find_index(library, None)
    packets, ids = [], []
    for part in library.parts("patches"):
        table = read_table(library.location, part, ["patch_id", "vector"])
        ids.append(from_fixed_binary(table["patch_id"], "u1", (12,)))
        cells = torch.from_numpy(patch_vectors(table, summary.channels).copy())
        packets += [haar(some.float()).half() for some in cells.split(16384)]
    order = sort_order(np.concatenate(ids))
    found = torch.cat(packets)
    packets.clear()  # of a library of millions there is no room for three copies
    return found[torch.from_numpy(order)], np.concatenate(ids)[order], summary.config.model_copy(update={"merge": 1.0})


def _built(packets: Tensor, ids: NDArray[np.uint8], config: IndexConfig) -> tuple[Index, float]:
    """An index in memory, and the seconds it took."""
    started = time.perf_counter()
    found = build_in_memory(packets, ids, config)
    return found, time.perf_counter() - started


def query_patches(library_uri: str, images: Sequence[str], source: EncoderSource) -> Tensor:
    """All patches `(n, 4, C)` of the images at the library's layer and size, image after image."""
    config = Library.open(library_uri).config.encoder
    loaded = load_encoder(source)
    if loaded.sha256 != config.weights_sha256:
        raise MismatchError(
            f"'{library_uri}' was made with encoder weights {config.weights_sha256[:16]}, not {loaded.sha256[:16]}."
        )
    stride = loaded.network.geometry(config.layer).stride
    found = []
    with torch.inference_mode():
        for image in working_images(images, config.size, held_out=False):
            features = encode(loaded.network, to_tensor(pad_to(image.pixels, stride)), config.layer)
            found.append(unfold(features, *positions(features.shape[1], features.shape[2], 1, cover=True)))
    return torch.cat(found).clone()


def ask(index: Index, queries: Tensor, sample: int = TRUTH) -> DryRunRequest:
    """Find the exact matches of `sample` queries, evenly spread."""
    chosen = torch.arange(min(sample, len(queries))) * len(queries) // min(sample, len(queries))
    exact = find(index, queries[chosen], SearchConfig(searcher="exact"))
    return DryRunRequest(queries, chosen, exact.scores[:, 0], _mean_ncc(index, queries[chosen], exact.rows[:, 0]))


def _ours(
    index: Index, prepared_queries: DryRunRequest, build_seconds: float, progress: Progress
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


def _ours_coded(
    index: Index,
    packets: Tensor,
    ids: NDArray[np.uint8],
    config: IndexConfig,
    prepared_queries: DryRunRequest,
    progress: Progress,
) -> Iterator[SearchFigures]:
    """The same patches in 4 or 5 bits a value: same leaves, same rows. What is found is judged by the library's own."""
    small, build_seconds = _built(packets, ids, config)
    size = index_bytes(small) / small.count
    settings = [probes for probes in OURS if probes < small.tree.leaves]
    for number, probes in enumerate(settings, start=1):
        find = searcher(small, SearchConfig(probes=probes))
        row = measure(index, f"tree {config.payload}", probes, prepared_queries, find, build_seconds, size)
        progress(Step(config.payload, number, len(settings), note=_in_words(row)))
        yield row


def _in_words(row: SearchFigures) -> str:
    """What is known already, long before the table is complete."""
    name = row.searcher if row.setting is None else f"{row.searcher} {row.setting}"
    return f"{name}: recall {row.recall:.4f}, NCC ratio {row.ncc_ratio:.5f}, {row.queries_per_second:.0f} queries/s"


def searcher(index: Index, config: SearchConfig) -> Find:
    """A searcher of an index as a function from raw queries to rows, scores and what is certified."""
    search = Search(index, config)

    def find_first(queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = search.find(queries)
        return found.rows[:, 0], found.scores[:, 0], found.certified

    return find_first


def _rival(index: Index, name: str, prepared_queries: DryRunRequest, progress: Progress) -> list[SearchFigures]:
    baseline = build_baseline(index, name)
    rows: list[SearchFigures] = []
    for probes in BASELINES[name]:

        def find(queries: Tensor, probes: int = probes) -> tuple[Tensor, Tensor, Tensor]:
            vectors, _ = match_parts(haar(queries), index.tree.mean)
            best = search_baseline(baseline, index, vectors, 1, probes)
            return best.rows[:, 0], best.scores[:, 0], torch.zeros(len(queries), dtype=torch.bool)

        setting = None if name == "pq" else probes
        rows.append(
            measure(index, name, setting, prepared_queries, find, baseline.build_seconds, baseline.bytes / index.count)
        )
        progress(Step(name, len(rows), len(BASELINES[name]), note=_in_words(rows[-1])))
    return rows


def measure(
    index: Index,
    name: str,
    setting: int | None,
    prepared_queries: DryRunRequest,
    find: Find,
    build_seconds: float | None,
    bytes_per_patch: float | None,
) -> SearchFigures:
    """One row. Speed on all queries at once, or on the sample where that would take long; quality on the sample, of
    what was found when the time was taken."""
    started = time.perf_counter()
    rows, _, certified = find(prepared_queries.queries[prepared_queries.sample])
    once = time.perf_counter() - started
    whole = once * len(prepared_queries.queries) / len(prepared_queries.sample) < LONG
    timed = prepared_queries.queries if whole else prepared_queries.queries[prepared_queries.sample]
    spent = [] if whole else [once]
    while len(spent) < (REPEATS if sum(spent) < BRIEF else 1):
        started = time.perf_counter()
        rows, _, certified = find(timed)
        spent.append(time.perf_counter() - started)
    if whole:
        rows, certified = rows[prepared_queries.sample], certified[prepared_queries.sample]
    seconds = statistics.median(spent)
    # What bhkm scores is of the bands it reads: all are compared by the canonical score of what they found.
    vectors, _ = match_parts(haar(prepared_queries.queries[prepared_queries.sample]), index.tree.mean)
    scores = canonical_scores(vectors, index.keys(rows))
    return SearchFigures(
        searcher=name,
        setting=setting,
        recall=round(float((scores >= prepared_queries.best - SAME).double().mean()), 4),
        ncc_ratio=round(
            _mean_ncc(index, prepared_queries.queries[prepared_queries.sample], rows) / prepared_queries.best_ncc, 5
        ),
        queries=len(timed),
        queries_per_second=round(len(timed) / seconds, 1),
        certified=round(float(certified.double().mean()), 4),
        build_seconds=None if build_seconds is None else round(build_seconds, 1),
        bytes_per_patch=None if bytes_per_patch is None else round(bytes_per_patch, 1),
    )


def _mean_ncc(index: Index, queries: Tensor, rows: Tensor) -> float:
    return float(canonical_scores(normalise(queries.flatten(1)), normalise(index.values(rows).flatten(1))).mean())


def index_bytes(index: Index) -> int:
    """Of the shards and the tree, as they are on disk."""
    shards = sum(tensor.nbytes for shard in index.shards for tensor in shard.tensors().values())
    return shards + len(index.tree.to_bytes())


def matrix_gflops(size: int = 2048) -> float:
    """10^9 float32 operations a second in a large product, median of five: what the machine could do at best."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    spent = []
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(a, b)
        spent.append(time.perf_counter() - started)
    return round(2 * size**3 / sorted(spent)[2] / 1e9, 1)


def speed_at(rows: Sequence[SearchFigures], name: str, recall: float) -> float | None:
    """Queries a second of a searcher at this recall, between the two settings around it (by the logarithm of the
    speed); None where no setting reaches it."""
    points = sorted((row.recall, row.queries_per_second) for row in rows if row.searcher == name)
    above = [point for point in points if point[0] >= recall]
    below = [point for point in points if point[0] < recall]
    if not above:
        return None
    (high, fast), (low, faster) = above[0], (below[-1] if below else above[0])
    share = 0.0 if high == low else (high - recall) / (high - low)
    return math.exp((1 - share) * math.log(fast) + share * math.log(faster))
