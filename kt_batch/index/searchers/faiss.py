"""Baselines from faiss, behind the interface of the other searchers.

    name          method                                                             effort
    pq            product quantisation as in the paper: no rotation, no re-scoring   none
    ivf           inverted lists of float32 vectors                                  lists
    hnsw          a graph of neighbours over float32 vectors                         efSearch
    ivf-panorama  `ivf` with early abandonment on principal coordinates              lists
    ivf-pq        inverted lists of quantised vectors, the best 32 re-scored         lists

The last two are for benchmarks alone. All search inner products of keys. Their proposals are ranked by canonical score,
ties to the smaller patch id; where more patches tie than faiss proposes, faiss chooses among them. Nothing is stored on
disk: each process builds its own.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kt_batch.config import SearchConfig
from kt_batch.errors import UsageError
from kt_batch.index.index import Index
from kt_batch.index.searchers.base import Found, SearchRequest
from kt_batch.index.searchers.candidates import Best, Pairs, best_few, canonically_best, joined, scored
from kt_batch.index.searchers.faiss_guard import load_faiss
from kt_batch.kernels.principal import first_level, principal_directions

BASELINES = ("pq", "ivf", "hnsw", "ivf-panorama", "ivf-pq")
PER_LIST = 64  # vectors of the sample per list
LEAST_PER_CENTRE = 39  # vectors; below this faiss warns of too few training points
LINKS = 32  # of a node of the graph per level; twice as many at the lowest level
CONSTRUCTION = 80  # efConstruction, the candidates for a new node's links
LEVELS = 16  # in which Panorama reads a vector, if it is long enough
TOGETHER = 64  # vectors that Panorama reads at a time, and pads lists to; its default is 1024
CODED = 8  # values of a vector per sub-quantiser
RESCORED = 32  # proposals of `ivf-pq` that are re-scored
SPARE = 3  # proposals beyond k where faiss returns float32 scores
CHUNK = 8192  # vectors added at a time


@dataclass(frozen=True)
class Baseline:
    """A baseline built over an index.

    index: the object of faiss.
    bytes: size of the file that faiss would write.
    build_seconds: from patches in memory.
    most_effort: lists, or efSearch, beyond which nothing changes.
    """

    name: str
    index: Any
    bytes: int
    build_seconds: float
    most_effort: int


class FaissSearcher:
    """A baseline, built at the first request. Its effort, `probes`, counts lists of `ivf` and is efSearch of `hnsw`."""

    def __init__(self, index: Index, config: SearchConfig) -> None:
        self._index = index
        self._name = config.searcher
        self._effort = config.probes

    @cached_property
    def baseline(self) -> Baseline:
        """The baseline. A graph grown on several threads depends on their order, so `hnsw` grows on one thread."""
        return build_baseline(self._index, self._name, threads=1 if self._name == "hnsw" else None)

    def find(self, request: SearchRequest) -> Found:
        """Return the best of what faiss proposes, none certified."""
        best = search_baseline(self.baseline, self._index, request.keys, request.k, self._effort, request.with_values)
        certified = torch.zeros(len(best.rows), dtype=torch.bool, device=best.rows.device)
        return Found(best.rows, best.scores, certified, best.values)


def build_baseline(index: Index, name: str, seed: int = 0, threads: int | None = None) -> Baseline:
    """Train a baseline on a seeded sample, and add every kept patch.

    Args:
        index: The index whose patches are added.
        name: One of BASELINES.
        seed: Of the sample and of the training.
        threads: Threads that build; None takes torch's.

    Raises:
        UsageError: The name is unknown, or faiss cannot be loaded.
    """
    if name not in BASELINES:
        raise UsageError(f"There is no searcher '{name}' through faiss; there are {', '.join(BASELINES)}.")
    faiss = _faiss(threads)
    started = time.perf_counter()
    lists = list_count(index.count)
    built = _graph(faiss, index, seed) if name == "hnsw" else _trained(faiss, index, name, lists, seed)
    for rows in torch.arange(index.count, device=index.device).split(CHUNK):
        built.add(index.keys(rows).numpy())
    seconds = time.perf_counter() - started
    size = _written_bytes(faiss, built)
    gpu = on_gpu(name)
    if gpu:
        built = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, built)
    most = {"hnsw": index.count, "pq": 1}.get(name, lists)
    return Baseline(name, built, size, seconds, min(most, 2048) if gpu else most)  # faiss selects at most 2048 on a GPU


def on_gpu(name: str) -> bool:
    """Return whether a baseline computes on a GPU: `ivf` does, where faiss has one.

    Raises:
        UsageError: faiss cannot be loaded.
    """
    return name == "ivf" and load_faiss().get_num_gpus() > 0


def search_baseline(
    baseline: Baseline, index: Index, vectors: Tensor, k: int, effort: int, with_values: bool = False
) -> Best:
    """Return the k best proposals of a baseline by canonical score.

    Where a query gets fewer than k proposals, its effort is doubled. Where the largest effort gives fewer, which a
    graph may, every patch is compared.

    Args:
        baseline: The baseline.
        index: The index it was built over.
        vectors: Keys of the queries, `(n, D)` float32.
        k: Matches per query, at most the number of patches.
        effort: Lists per query; efSearch of `hnsw`; `pq` has none.
        with_values: Return the raw patches too.
    """
    faiss = _faiss(None)
    count = min(index.count, {"pq": k, "ivf-pq": max(RESCORED, k)}.get(baseline.name, k + SPARE))
    effort = min(effort, baseline.most_effort)
    missing, proposed = torch.arange(len(vectors), device=vectors.device), []
    while True:
        pairs = _proposed(faiss, baseline, vectors, missing, count, effort)
        enough = torch.bincount(pairs.who, minlength=len(vectors)) >= k
        proposed.append(pairs.at(enough[pairs.who]))
        missing = missing[~enough[missing]]
        if len(missing) == 0 or effort >= baseline.most_effort:
            break
        effort = min(2 * effort, baseline.most_effort)
    proposals = joined([*proposed, _scanned(index, vectors, missing, count)])
    if baseline.name in ("pq", "ivf-pq"):  # faiss's scores are estimates there
        proposals = scored(
            index, index.prepare_queries(vectors, first_level(vectors, index.tree.directions)), proposals
        )
    return canonically_best(index, vectors, proposals, k, with_values=with_values)


def list_count(count: int) -> int:
    """Return the lists for `count` vectors: the power of two nearest to 4 sqrt(count), from 1 to count / 39."""
    wanted = round(math.log2(4 * math.sqrt(count)))
    allowed = math.floor(math.log2(max(1, count // LEAST_PER_CENTRE)))
    return int(2 ** min(wanted, allowed))


def _faiss(threads: int | None) -> ModuleType:
    faiss = load_faiss()
    faiss.omp_set_num_threads(threads or torch.get_num_threads())
    return faiss


def _trained(faiss: ModuleType, index: Index, name: str, lists: int, seed: int) -> Any:
    """Train an empty index on a sample, of `lists` inverted lists or of codes alone."""
    sample = _sample(index, PER_LIST * lists, seed)
    if name == "ivf-panorama":
        return _panorama(faiss, sample, lists, seed)
    dim = sample.shape[1]
    parts = next(parts for parts in range(max(1, dim // CODED), 0, -1) if dim % parts == 0)
    bits = min(8, max(1, math.floor(math.log2(max(2, len(sample) // LEAST_PER_CENTRE)))))
    codes = f"PQ{parts}x{bits}np"
    return _fitted(faiss, {"pq": codes, "ivf": f"IVF{lists},Flat"}.get(name, f"IVF{lists},{codes}"), sample, seed)


def _fitted(faiss: ModuleType, factory: str, sample: Tensor, seed: int) -> Any:
    fitted = faiss.index_factory(sample.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    clusterings = [part.cp for part in (fitted, getattr(fitted, "pq", fitted)) if hasattr(part, "cp")]
    for clustering in clusterings:
        clustering.seed = seed
        clustering.min_points_per_centroid = 1  # faiss would warn of a small library
    fitted.train(sample.numpy())
    return fitted


def _panorama(faiss: ModuleType, sample: Tensor, lists: int, seed: int) -> Any:
    """Make the lists of `ivf` over vectors that are rotated to principal coordinates.

    The PCA of faiss subtracts the mean. This would change inner products, and the best match.
    """
    dim = sample.shape[1]
    plain = _fitted(faiss, f"IVF{lists},Flat", sample, seed)
    directions = principal_directions(sample, dim)
    rotation = faiss.LinearTransform(dim, dim, False)
    faiss.copy_array_to_vector(directions.T.contiguous().flatten().numpy(), rotation.A)
    rotation.is_trained = True
    levels = min(LEVELS, max(1, dim // 8))
    inner = faiss.index_factory(dim, f"IVF{lists},FlatPanorama{levels}_{TOGETHER}", faiss.METRIC_INNER_PRODUCT)
    inner.quantizer.add(rotation.apply(plain.quantizer.reconstruct_n(0, lists)))
    inner.is_trained = True
    return faiss.IndexPreTransform(rotation, inner)


def _graph(faiss: ModuleType, index: Index, seed: int) -> Any:
    """Make an empty graph with room for all vectors; a growing one would hold them twice."""
    dim = 4 * index.channels
    found = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
    found.hnsw.efConstruction = CONSTRUCTION
    found.hnsw.rng = faiss.RandomGenerator(seed)
    codes = faiss.downcast_index(found.storage).codes
    codes.resize(4 * dim * index.count)
    codes.resize(0)
    return found


def _sample(index: Index, count: int, seed: int) -> Tensor:
    """Return keys `(m, D)` of at most `count` random patches, by ascending row; m >= 2, the least that faiss fits."""
    order = torch.randperm(index.count, generator=torch.Generator(device="cpu").manual_seed(seed), device="cpu")
    vectors = index.keys(order[:count].sort().values)
    return vectors if len(vectors) > 1 else vectors.repeat(2, 1)


def _written_bytes(faiss: ModuleType, found: Any) -> int:
    """Count the bytes that faiss would write."""
    sizes: list[int] = []
    faiss.write_index(found, faiss.PyCallbackIOWriter(lambda part: sizes.append(len(part))))
    return sum(sizes)


def _proposed(faiss: ModuleType, baseline: Baseline, vectors: Tensor, who: Tensor, count: int, effort: int) -> Pairs:
    """Return at most `count` proposals for each of the queries `who` `(m,)`, with the scores of faiss."""
    options = None
    if baseline.name == "hnsw":
        ef_search = max(effort, count)
        options = faiss.SearchParametersHNSW(efSearch=ef_search)
    elif baseline.name != "pq":
        lists = effort
        options = faiss.SearchParametersIVF(nprobe=lists)
    if baseline.name == "ivf-panorama":
        options = faiss.SearchParametersPreTransform(index_params=options)
    scores, rows = map(torch.from_numpy, baseline.index.search(vectors[who].numpy(), count, params=options))
    pairs = Pairs(who[:, None].expand_as(rows).flatten(), rows.flatten(), scores.flatten())
    return pairs.at(pairs.rows >= 0)


def _scanned(index: Index, vectors: Tensor, who: Tensor, count: int) -> Pairs:
    """Return the best `count` of all patches for each of the queries `who` `(m,)`, by float32 score."""
    best = joined([])
    for rows in torch.arange(index.count if len(who) else 0, device=index.device).split(CHUNK):
        products = vectors[who] @ index.keys(rows).T
        top = products.topk(min(count, len(rows)), dim=1)
        fresh = Pairs(who[:, None].expand_as(top.indices).flatten(), rows[top.indices].flatten(), top.values.flatten())
        best = best_few(joined([best, fresh]), count)
    return best
