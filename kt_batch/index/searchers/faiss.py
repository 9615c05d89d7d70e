"""The strongest peers, through faiss, behind the interface of our own searchers.

    pq            product quantisation as the paper tried it: no rotation, no second look (needs no probes)
    ivf           inverted lists of float32 vectors; probes are the lists a query looks into
    hnsw          a graph of neighbours over float32 vectors; probes are efSearch
    ivf-panorama  `ivf` that abandons a vector early, on principal coordinates; for the benchmark alone
    ivf-pq        inverted lists of quantised vectors, the best 32 read in full; for the benchmark alone

They search the inner product of unit vectors in match space. What they propose is ranked by canonical score, ties to
the smaller patch id; where more patches tie than faiss proposes, faiss has chosen. Nothing of theirs lies on disk: each
process builds its own.
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
PER_LIST = 64  # vectors of the sample for each list
LEAST_PER_CENTRE = 39  # below this faiss calls a clustering under-trained
LINKS = 32  # of a node of the graph, per level; twice as many at the lowest
CONSTRUCTION = 80  # efConstruction: candidates for a new node's links
LEVELS = 16  # in which Panorama reads a vector, where it is long enough
TOGETHER = 64  # vectors it reads at a time; it pads every list to a multiple, and by default to one of 1024
CODED = 8  # values of a vector that one sub-quantiser codes
RESCORED = 32  # proposals of `ivf-pq` that are read in full
SPARE = 3  # proposals beyond k where faiss knows the float32 score
CHUNK = 8192  # vectors added at a time


@dataclass(frozen=True)
class Baseline:
    """One peer, built over an index. `index` is faiss's; `bytes` is what faiss would write of it; `build_seconds` run
    from the packets in memory; more than `most_probes` change nothing."""

    name: str
    index: Any
    bytes: int
    build_seconds: float
    most_probes: int


class FaissSearcher:
    """Builds its baseline at the first request. `probes` are the lists of `ivf`, efSearch of `hnsw`."""

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
    """Train the peer `name` on a seeded sample and add every kept patch, on torch's threads unless told otherwise.

    Raises UsageError for a name that is not in BASELINES, and where faiss cannot be loaded.
    """
    if name not in BASELINES:
        raise UsageError(f"There is no searcher '{name}' through faiss; there are {', '.join(BASELINES)}.")
    faiss = _faiss(threads)
    started = time.perf_counter()
    lists = list_count(index.count)
    found = _graph(faiss, index, seed) if name == "hnsw" else _trained(faiss, index, name, lists, seed)
    for rows in torch.arange(index.count, device=index.device).split(CHUNK):
        found.add(index.keys(rows).numpy())
    seconds = time.perf_counter() - started
    size = _written_bytes(faiss, found)
    gpu = on_gpu(name)
    if gpu:
        found = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, found)
    most = {"hnsw": index.count, "pq": 1}.get(name, lists)
    return Baseline(name, found, size, seconds, min(most, 2048) if gpu else most)  # what faiss selects on a GPU


def on_gpu(name: str) -> bool:
    """Whether the peer `name` computes on a GPU: `ivf`, where faiss has one. Raises UsageError where it cannot be
    loaded."""
    return name == "ivf" and load_faiss().get_num_gpus() > 0


def search_baseline(
    baseline: Baseline, index: Index, vectors: Tensor, k: int, probes: int, with_values: bool = False
) -> Best:
    """The k best of what the peer proposes, by canonical score.

    vectors: `(n, D)` float32, unit queries in match space; k is at most the patches of the index. Where `probes` find
    fewer than k, they are doubled; where all of them do, as a graph may, every patch is looked at.
    """
    faiss = _faiss(None)
    count = min(index.count, {"pq": k, "ivf-pq": max(RESCORED, k)}.get(baseline.name, k + SPARE))
    probes = min(probes, baseline.most_probes)
    missing, found = torch.arange(len(vectors), device=vectors.device), []
    while True:
        pairs = _proposed(faiss, baseline, vectors, missing, count, probes)
        enough = torch.bincount(pairs.who, minlength=len(vectors)) >= k
        found.append(pairs.at(enough[pairs.who]))
        missing = missing[~enough[missing]]
        if len(missing) == 0 or probes >= baseline.most_probes:
            break
        probes = min(2 * probes, baseline.most_probes)
    proposals = joined([*found, _scanned(index, vectors, missing, count)])
    if baseline.name in ("pq", "ivf-pq"):  # faiss's scores are estimates there
        proposals = scored(
            index, index.prepare_queries(vectors, first_level(vectors, index.tree.directions)), proposals
        )
    return canonically_best(index, vectors, proposals, k, with_values=with_values)


def list_count(count: int) -> int:
    """Inverted lists for `count` vectors: the power of two nearest to 4 sqrt(count), at most count / 39, at least 1."""
    wanted = round(math.log2(4 * math.sqrt(count)))
    allowed = math.floor(math.log2(max(1, count // LEAST_PER_CENTRE)))
    return int(2 ** min(wanted, allowed))


def _faiss(threads: int | None) -> ModuleType:
    faiss = load_faiss()
    faiss.omp_set_num_threads(threads or torch.get_num_threads())
    return faiss


def _trained(faiss: ModuleType, index: Index, name: str, lists: int, seed: int) -> Any:
    """An empty index of `lists` inverted lists, or of codes alone, trained on a sample `(m, D)`."""
    sample = _sample(index, PER_LIST * lists, seed)
    if name == "ivf-panorama":
        return _panorama(faiss, sample, lists, seed)
    dim = sample.shape[1]
    parts = next(parts for parts in range(max(1, dim // CODED), 0, -1) if dim % parts == 0)
    bits = min(8, max(1, math.floor(math.log2(max(2, len(sample) // LEAST_PER_CENTRE)))))
    codes = f"PQ{parts}x{bits}np"
    return _fitted(faiss, {"pq": codes, "ivf": f"IVF{lists},Flat"}.get(name, f"IVF{lists},{codes}"), sample, seed)


def _fitted(faiss: ModuleType, factory: str, sample: Tensor, seed: int) -> Any:
    found = faiss.index_factory(sample.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    clusterings = [part.cp for part in (found, getattr(found, "pq", found)) if hasattr(part, "cp")]
    for clustering in clusterings:
        clustering.seed = seed
        clustering.min_points_per_centroid = 1  # a small library is no reason to warn
    found.train(sample.numpy())
    return found


def _panorama(faiss: ModuleType, sample: Tensor, lists: int, seed: int) -> Any:
    """The lists of `ivf`, their vectors rotated so that the first values matter most.

    Not faiss's own PCA, which subtracts the mean: that would change inner products, and so the best match.
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
    """An empty graph with room for all vectors: growing, it would hold them twice."""
    dim = 4 * index.channels
    found = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
    found.hnsw.efConstruction = CONSTRUCTION
    found.hnsw.rng = faiss.RandomGenerator(seed)
    codes = faiss.downcast_index(found.storage).codes
    codes.resize(4 * dim * index.count)
    codes.resize(0)
    return found


def _sample(index: Index, count: int, seed: int) -> Tensor:
    """Unit vectors in match space `(m, D)` of at most `count` patches chosen by chance, in order; m >= 2, since two
    centres are the fewest that faiss fits."""
    order = torch.randperm(index.count, generator=torch.Generator(device="cpu").manual_seed(seed), device="cpu")
    vectors = index.keys(order[:count].sort().values)
    return vectors if len(vectors) > 1 else vectors.repeat(2, 1)


def _written_bytes(faiss: ModuleType, found: Any) -> int:
    """The bytes faiss would write, counted and not kept."""
    sizes: list[int] = []
    faiss.write_index(found, faiss.PyCallbackIOWriter(lambda part: sizes.append(len(part))))
    return sum(sizes)


def _proposed(faiss: ModuleType, baseline: Baseline, vectors: Tensor, who: Tensor, count: int, probes: int) -> Pairs:
    """At most `count` patches for each of the queries `who` `(m,)`, with faiss's scores."""
    options = None
    if baseline.name == "hnsw":
        options = faiss.SearchParametersHNSW(efSearch=max(probes, count))
    elif baseline.name != "pq":
        options = faiss.SearchParametersIVF(nprobe=probes)
    if baseline.name == "ivf-panorama":
        options = faiss.SearchParametersPreTransform(index_params=options)
    scores, rows = map(torch.from_numpy, baseline.index.search(vectors[who].numpy(), count, params=options))
    pairs = Pairs(who[:, None].expand_as(rows).flatten(), rows.flatten(), scores.flatten())
    return pairs.at(pairs.rows >= 0)


def _scanned(index: Index, vectors: Tensor, who: Tensor, count: int) -> Pairs:
    """The best `count` patches of each of the queries `who` `(m,)`, of all there are."""
    best = joined([])
    for rows in torch.arange(index.count if len(who) else 0, device=index.device).split(CHUNK):
        products = vectors[who] @ index.keys(rows).T
        top = products.topk(min(count, len(rows)), dim=1)
        fresh = Pairs(who[:, None].expand_as(top.indices).flatten(), rows[top.indices].flatten(), top.values.flatten())
        best = best_few(joined([best, fresh]), count)
    return best
