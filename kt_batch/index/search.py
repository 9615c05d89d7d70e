"""Searchers behind one function: `exact`, `hkm`, `bhkm` (as published, 1 to 4 bands), `ours`, `scan`, and peers
(index.rivals).

All work on a batch of queries, whose (query, leaf) pairs are grouped by leaf. The products of `exact`, `hkm` and `bhkm`
have fixed shapes; `ours` (index.ours, proved by index.certified) and `scan` (index.scan) decide by canonical scores
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kt_batch.config import SearchConfig
from kt_batch.errors import UsageError
from kt_batch.index.index import Index
from kt_batch.index.searchers.candidates import pairs_by_leaf
from kt_batch.index.searchers.certified import search_certified
from kt_batch.index.searchers.faiss import BASELINES, baseline_of, search_baseline
from kt_batch.index.searchers.scan import search_scan
from kt_batch.index.searchers.tree import READY, search_fast
from kt_batch.index.shards import match_parts
from kt_batch.index.threads import parallel_map
from kt_batch.kernels.bounds import rounding_slack
from kt_batch.kernels.haar import haar
from kt_batch.kernels.tiles import canonical_scores, pad_rows, unit
from kt_batch.models.precision import quick_products

QUERY_TILE = 128
PATCH_TILE = 64  # leaves are padded to a multiple
SPARE = 3  # candidates kept beyond top_k for the canonical re-scoring
PAIRS = 65536  # re-scored at a time


@dataclass(frozen=True)
class Matches:
    """The nearest patches of n queries, with what a transfer and its provenance need of them; k each, best first.

    patch_ids: `(n, k, 12)` uint8. values: `(n, k, 4, C)` float32, the raw patches. scores: `(n, k)` float64, the cosine
    in match space. certified: `(n,)` bool.
    """

    patch_ids: Tensor
    values: Tensor
    scores: Tensor
    certified: Tensor


@dataclass(frozen=True)
class Found:
    """What a search found for n queries: rows `(n, k)` int64 of the index, best first; scores `(n, k)` float64, the
    cosine in match space (of the bands read, for `bhkm`); certified `(n,)` bool: no kept patch has a larger canonical
    score than the first match."""

    rows: Tensor
    scores: Tensor
    certified: Tensor


def search(index: Index, queries: Tensor, config: SearchConfig) -> Matches:
    """Find the nearest patches of `(n, 4, C)` float32 raw query patches, as `find` does, and read them."""
    found = find(index, queries, config)
    n, k = found.rows.shape
    rows, which = found.rows.flatten().unique(return_inverse=True)
    ids = torch.from_numpy(index.patch_ids(found.rows.flatten()))
    values = index.patches(rows).index_select(0, which)
    return Matches(ids.view(n, k, 12), values.view(n, k, *queries.shape[1:]), found.scores, found.certified)


def find(index: Index, queries: Tensor, config: SearchConfig) -> Found:
    """The nearest kept patches of `(n, 4, C)` float32 raw query patches. k = min(top_k, patches in the index).

    Where `config.probes` leaves may hold fewer than k patches, more leaves are probed. Raises UsageError for a query
    that is not finite.
    """
    with parallel_map() as each:
        vectors = torch.cat(each(lambda some: _match_vectors(some, index.tree.mean), queries.split(READY)))
    k = min(config.top_k, index.count)
    if config.searcher == "exact":
        return _exact(index, vectors, k)
    if config.searcher in BASELINES:
        rows, scores = search_baseline(baseline_of(index, config.searcher), index, vectors, k, config.probes)
        return Found(rows, scores, torch.zeros(len(vectors), dtype=torch.bool))
    if config.searcher == "scan":
        rows, scores = search_scan(index, vectors, k)
        return Found(rows, scores, torch.zeros(len(vectors), dtype=torch.bool))
    probes = min(max(config.probes, index.leaves_holding(k)), index.tree.leaves)
    if config.searcher == "ours":
        # All leaves probed by estimate cost as much as all proved by bound.
        certify = config.certify or probes == index.tree.leaves
        rows, scores = (search_certified if certify else search_fast)(index, vectors, k, probes)
        return Found(rows, scores, torch.full((len(vectors),), certify))
    bands = None if config.searcher == "hkm" else config.bands
    return _published(index, vectors, haar(queries), k, probes, bands)


def _match_vectors(queries: Tensor, mean: Tensor) -> Tensor:
    """Raw patches `(n, 4, C)` -> unit vectors `(n, D)` in match space."""
    vectors, norms = match_parts(haar(queries), mean)
    if not norms.isfinite().all():
        raise UsageError("A query patch holds NaN, infinity or values too large for float32; it has no nearest patch.")
    return vectors


class _Pool:
    """The best k candidates of each of n queries so far, by float32 score, and SPARE more that rounding may hide."""

    def __init__(self, n: int, k: int, dim: int) -> None:
        self.scores = torch.full((n, k + SPARE), -torch.inf)
        self.rows = torch.full((n, k + SPARE), -1, dtype=torch.int64)
        self.k = k
        self.slack = 2 * rounding_slack(dim)

    def threshold(self, who: Tensor) -> Tensor:
        """Float32 scores below this, `(m,)`, cannot belong to the k canonically best."""
        return self.scores[who, self.k - 1] - self.slack

    def crowded(self) -> Tensor:
        """Queries `(m,)` whose every place is taken by a score that rounding may hide a better one behind."""
        return (self.scores[:, -1] >= self.scores[:, self.k - 1] - self.slack).nonzero()[:, 0]

    def offer(self, who: Tensor, scores: Tensor, rows: Tensor) -> None:
        """Scores `(m, c)` of queries `who` `(m,)` against the patches `rows` `(c,)`."""
        better = (scores.amax(1) >= self.threshold(who)).nonzero()[:, 0]
        who, scores = who[better], scores[better]
        size = self.scores.shape[1]
        best = scores.topk(min(size, scores.shape[1]), dim=1)
        scores = torch.cat([self.scores[who], best.values], dim=1)
        found = torch.cat([self.rows[who], rows[best.indices]], dim=1)
        top = scores.topk(size, dim=1)
        self.scores[who] = top.values
        self.rows[who] = found.gather(1, top.indices)


# Queries `(m,)` -> what they are compared with: queries `(j,)` among them, unit vectors `(p, D)` padded, rows `(c,)`.
_Offers = Callable[[Tensor], Iterator[tuple[Tensor, Tensor, Tensor]]]


def _exact(index: Index, queries: Tensor, k: int) -> Found:
    def offers(who: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for x, rows in _all_patches(index):
            for some in who.split(1024):
                yield some, x, rows

    rows, scores = _canonically_best(index, queries, k, offers)
    return Found(rows, scores, torch.ones(len(queries), dtype=torch.bool))


def _all_patches(index: Index) -> Iterator[tuple[Tensor, Tensor]]:
    """Unit match vectors of 1024 patches at a time, padded to `(1024, D)`, and the rows `(c,)` of these c patches."""
    for rows in torch.arange(index.count).split(1024):
        yield pad_rows(index.match_vectors(rows), 1024), rows


def _canonically_best(index: Index, queries: Tensor, k: int, offers: _Offers) -> tuple[Tensor, Tensor]:
    """Of all that is offered to a query the k best `(n, k)` by canonical score, ties to the smaller id; and the scores.

    Float32 products leave a few candidates per query, canonical scores decide among them. A query with more candidates
    than its pool holds (patches that differ in brightness alone) is offered everything again.
    """
    pool = _Pool(len(queries), k, queries.shape[1])
    for who, x, rows in offers(torch.arange(len(queries))):
        with quick_products():
            products = _product(queries, who, x)
        pool.offer(who, products[:, : len(rows)], rows)
    best, scores = _rescore(index, queries, pool)
    crowded = pool.crowded()
    if len(crowded):
        distinct, which = queries[crowded].unique(dim=0, return_inverse=True)
        one_each = torch.empty(len(distinct), dtype=torch.int64)
        one_each[which] = crowded
        settled = _settle(index, queries, pool, one_each, offers)
        best[crowded], scores[crowded] = settled[0][which], settled[1][which]
    return best, scores


def _settle(index: Index, queries: Tensor, pool: _Pool, who: Tensor, offers: _Offers) -> tuple[Tensor, Tensor]:
    """As `_canonically_best` for the queries `who` `(m,)`, of every patch that rounding cannot rule out; `(m, k)`."""
    best = torch.full((len(who), pool.k), -1, dtype=torch.int64)
    scores = torch.full((len(who), pool.k), -torch.inf, dtype=torch.float64)
    place = torch.empty(len(queries), dtype=torch.int64)
    place[who] = torch.arange(len(who))
    for some, x, rows in offers(who):
        with quick_products():
            products = _product(queries, some, x)
        possible = products[:, : len(rows)] >= pool.threshold(some)[:, None]
        columns = possible.any(0).nonzero()[:, 0]
        found = torch.full((len(some), len(columns)), -torch.inf, dtype=torch.float64)
        for pairs in possible[:, columns].nonzero().split(PAIRS):
            query, column = pairs.unbind(1)
            found[query, column] = canonical_scores(queries[some[query]], x[columns[column]])
        at = place[some]
        best[at], scores[at] = _best(
            index,
            torch.cat([best[at], rows[columns].expand(len(some), -1)], dim=1),
            torch.cat([scores[at], found], dim=1),
            pool.k,
        )
    return best, scores


def _product(queries: Tensor, who: Tensor, x: Tensor) -> Tensor:
    """Scores `(m, p)` of the queries `who` `(m,)` against `(p, d)`, in tiles of QUERY_TILE queries.

    The last tile is filled up with its first query; p is a property of the leaf alone.
    """
    missing = -len(who) % QUERY_TILE
    q = queries[torch.cat([who, who[:1].expand(missing)])]
    out = torch.empty(len(q), len(x))
    for start in range(0, len(q), QUERY_TILE):
        torch.mm(q[start : start + QUERY_TILE], x.T, out=out[start : start + QUERY_TILE])
    return out[: len(who)]


def _rescore(index: Index, queries: Tensor, pool: _Pool) -> tuple[Tensor, Tensor]:
    """Canonical scores of the candidates that can still be among the k best; those k, ties to the smaller id."""
    n, size = pool.rows.shape
    everyone = torch.arange(n)
    possible = (pool.rows >= 0) & (pool.scores >= pool.threshold(everyone)[:, None])
    flat = pool.rows.flatten()
    scores = torch.full((n * size,), -torch.inf, dtype=torch.float64)
    for part in possible.flatten().nonzero()[:, 0].split(PAIRS):
        scores[part] = canonical_scores(queries[part // size], index.match_vectors(flat[part]))
    return _best(index, pool.rows, scores.view(n, size), pool.k)


def _best(index: Index, rows: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    n, size = rows.shape
    ids = np.ascontiguousarray(index.patch_ids(rows.flatten().clamp(min=0))).view("S12")[:, 0]
    query = np.repeat(np.arange(n), size)
    order = torch.from_numpy(np.lexsort((ids, -scores.flatten().numpy(), query))).view(n, size)
    return rows.flatten()[order[:, :k]], scores.flatten()[order[:, :k]]


def _published(index: Index, vectors: Tensor, packets: Tensor, k: int, probes: int, bands: int | None) -> Found:
    """HKM, and BHKM as the paper has it: greedy descent with `vectors` `(n, D)`, then the cosine of the bands read with
    their own norms, no re-scoring. `bands` None is HKM: the cosine of the patches themselves."""
    mean = index.tree.mean
    leaves = _descend(index, vectors, probes)
    queries = _view(packets, mean, bands)
    pool = _Pool(len(queries), k, queries.shape[1])
    for leaf, who in pairs_by_leaf(leaves):
        _, _, count, first_row = index.leaf_rows(leaf)
        rows = torch.arange(first_row, first_row + count)
        x = pad_rows(_view(_read_bands(index, leaf, bands).float(), mean, bands), PATCH_TILE)
        pool.offer(who, _product(queries, who, x)[:, :count], rows)
    rows, scores = _best(index, pool.rows, pool.scores.double(), k)
    return Found(rows, scores, torch.zeros(len(queries), dtype=torch.bool))


def _read_bands(index: Index, leaf: int, bands: int | None) -> Tensor:
    """`(count, bands, C)` float16 of a leaf: only the bands that are compared are read, where the shard has bands; all
    four where `bands` is None."""
    shard, start, count, first_row = index.leaf_rows(leaf)
    if shard.bits:
        return index.packets(torch.arange(first_row, first_row + count))[:, :bands]
    return torch.stack([band[start : start + count] for band in list(shard.payload.values())[:bands]], dim=1)


def _view(packets: Tensor, mean: Tensor, bands: int | None) -> Tensor:
    """What is compared, unit length: the patches themselves, or their first `bands` bands with their own norm."""
    shifted = packets[:, :bands] - mean[:bands]
    return unit((haar(shifted) if bands is None else shifted).flatten(1))


def _descend(index: Index, queries: Tensor, beam: int) -> Tensor:
    """Follow the `beam` best nodes of each level; `(n, beam)` leaves. `beam` is at most the number of leaves, so that
    as many are reached."""
    tree = index.tree
    n = len(queries)
    nodes = torch.zeros(n, 1, dtype=torch.int64)
    scores = torch.zeros(n, 1)
    while bool((tree.child_count[nodes.clamp(min=0)] > 0).logical_and(nodes >= 0).any()):
        nodes, scores = _descend_once(index, queries, nodes, scores, beam)
    return tree.leaf[nodes]


def _descend_once(index: Index, queries: Tensor, nodes: Tensor, scores: Tensor, beam: int) -> tuple[Tensor, Tensor]:
    tree = index.tree
    who_parts, node_parts, score_parts = [], [], []
    for node, slots in pairs_by_leaf(nodes.reshape(-1, 1)):
        if node < 0:
            continue
        who = slots // nodes.shape[1]
        children = int(tree.child_count[node])
        if children == 0:
            found, reached = torch.full((len(who), 1), node), scores.flatten()[slots][:, None]
        else:
            first = int(tree.first_child[node])
            found = torch.arange(first, first + children).expand(len(who), -1)
            reached = _product(queries, who, tree.centres[first : first + children])
        who_parts.append(who[:, None].expand_as(found).flatten())
        node_parts.append(found.flatten())
        score_parts.append(reached.flatten())
    who, found, reached = torch.cat(who_parts), torch.cat(node_parts), torch.cat(score_parts)
    order = torch.from_numpy(np.lexsort((found.numpy(), -reached.numpy(), who.numpy())))
    who, found, reached = who[order], found[order], reached[order]
    rank = torch.arange(len(who)) - torch.searchsorted(who, who)
    keep = rank < beam
    out_nodes = torch.full((len(queries), beam), -1, dtype=torch.int64)
    out_scores = torch.full((len(queries), beam), -torch.inf)
    out_nodes[who[keep], rank[keep]] = found[keep]
    out_scores[who[keep], rank[keep]] = reached[keep]
    return out_nodes, out_scores
