"""The default searcher: the first level of what is probed, then the few patches it leaves, then canonical scores.

Every (query, leaf) pair is a row of one product per leaf, in principal coordinates with the length of the rest as one
more (kernels.principal): 128 values for each patch instead of D. A patch is read in full only when the product says
that it may beat the best found so far. In fast mode the product is an estimate, and the nearest leaves alone are
probed; a certified search reads it as the upper bound it is, for every patch of the index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from kt_batch.index.candidates import (
    Pairs,
    best_few,
    canonically_best,
    distinct,
    joined,
    kth_best,
    scored,
)
from kt_batch.index.index import Index
from kt_batch.kernels.bounds import first_level_slack, rounding_slack
from kt_batch.kernels.principal import first_level, halved

NEAREST = 4  # leaves whose most promising patches may be a query's first candidates
FIRST = 1  # first candidates read in full, beyond top_k
CROWD = 48  # patches of one leaf that may reach what is to beat before the smaller ones are dropped
REST_SHARE = 0.6  # of the product of the rests: what a patch is expected to gain at most, in fast mode
FEW = 10  # patches read in full for a query in fast mode, beyond its first candidates and top_k
ROWS = 4096  # (query, leaf) pairs whose products are looked through at a time
PRODUCTS = 1 << 23  # and at most so many products: a leaf may hold any number of patches that cannot be split
BLOCK = 1024  # queries that meet a leaf at a time in a certified search
PENDING = 1 << 18  # pairs that wait for their canonical score there

_Found = tuple[Tensor, Tensor]


def search_fast(index: Index, vectors: Tensor, k: int, probes: int) -> _Found:
    """The k best of the `probes` nearest leaves, as far as the estimate finds them: rows and canonical scores `(n, k)`.

    vectors: `(n, D)` unit queries in match space. The leaves must hold k patches.
    """
    level = first_level(vectors, index.tree.directions)
    level[:, -1] *= REST_SHARE
    return _in_threads(len(vectors), lambda part: _fast(index, vectors[part], level[part], k, probes))


def search_certified(index: Index, vectors: Tensor, k: int, probes: int) -> _Found:
    """The k best patches of the whole index: rows and canonical scores `(n, k)`.

    `probes` is where it begins: the better the first matches, the fewer patches are read in full.
    """
    rows, scores = search_fast(index, vectors, k, probes)
    lit = vectors.any(1)
    if not lit.all():  # a zero vector ties with every patch: no bound rules out any, and the smallest ids win
        rows[~lit] = index.smallest_ids(k)
    some, begin, known = vectors[lit], rows[lit], scores[lit]
    level = first_level(some, index.tree.directions)
    rows[lit], scores[lit] = _in_threads(
        len(some), lambda part: _certify(index, some[part], level[part], begin[part], known[part])
    )
    return rows, scores


def _in_threads(count: int, work: Callable[[slice], _Found]) -> _Found:
    """`work` on as many shares of the queries as there are threads, each computing on one thread of its own.

    The product of one leaf is too small to be shared among threads.
    """
    threads = torch.get_num_threads()
    size = max(1, -(-count // threads))
    with _one_thread_each(threads), ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(work, [slice(start, start + size) for start in range(0, max(1, count), size)]))
    return torch.cat([rows for rows, _ in found]), torch.cat([scores for _, scores in found])


@contextmanager
def _one_thread_each(threads: int) -> Iterator[None]:
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fast(index: Index, vectors: Tensor, level: Tensor, k: int, probes: int) -> _Found:
    leaves = nearest_leaves(index, level[:, :-1], probes)
    first = _first_candidates(index, level, leaves[:, :NEAREST], k)
    first = scored(index, vectors, best_few(first, FIRST + k))
    to_beat = kth_best(first, len(vectors), k) - 2 * rounding_slack(vectors.shape[1])
    found = []
    for who, products, first_row in _products(index, level, leaves):
        found.append(_survivors(products, who, to_beat[who], first_row, CROWD + k))
    kept = best_few(joined(found), FEW + k)
    both = distinct(joined([first, scored(index, vectors, kept)]))
    return canonically_best(index, vectors, both, k)


def nearest_leaves(index: Index, coordinates: Tensor, probes: int) -> Tensor:
    """The `probes` leaves with the nearest centres `(n, probes)`, best first, of coordinates `(n, d)`."""
    parts = [(part @ index.leaf_coordinates.T).topk(probes, dim=1).indices for part in coordinates.split(BLOCK)]
    return torch.cat(parts)


def _products(index: Index, level: Tensor, leaves: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """First-level products of all queries with the leaves `(n, p)` they probe, ROWS (query, leaf) pairs at a time.

    Yields the queries `(m,)`, products `(m, c)` and the row of the index `(m,)` that the first column stands for; c is
    the size of the largest leaf, and columns beyond a leaf's own are -inf. The products are overwritten by the next.
    """
    order = torch.sort(leaves.flatten(), stable=True).indices
    which = leaves.flatten()[order]
    who = order // leaves.shape[1]
    largest = int(index.tree.leaf_count.max())
    size = max(1, min(ROWS, PRODUCTS // largest))
    buffer = torch.empty(min(size, len(who)), largest)
    for start in range(0, len(who), size):
        part, queries = which[start : start + size], level.index_select(0, who[start : start + size])
        found, counts = part.unique_consecutive(return_counts=True)
        at = 0
        for leaf, count in zip(found.tolist(), counts.tolist(), strict=True):
            x, _ = index.leaf_level(leaf)
            rows = buffer[at : at + count]
            torch.mm(queries[at : at + count], x.T, out=rows[:, : len(x)])
            rows[:, len(x) :] = -torch.inf
            at += count
        yield who[start : start + size], buffer[:at], index.first_rows[part]


def _first_candidates(index: Index, level: Tensor, leaves: Tensor, k: int) -> Pairs:
    """The k most promising patches of each of the leaves `(n, p)`, with their estimates."""
    found = []
    for who, products, first_row in _products(index, level, leaves):
        best = products.max(1, keepdim=True) if k == 1 else products.topk(min(k, products.shape[1]), dim=1)
        pairs = Pairs(who[:, None].expand_as(best[1]), best[1] + first_row[:, None], best[0])
        found.append(pairs.at(best[0] > -torch.inf))
    return joined(found)


def _survivors(products: Tensor, who: Tensor, to_beat: Tensor, first_row: Tensor, at_most: int) -> Pairs:
    """Of products `(m, c)` with the patches from `first_row` `(m,)` on: those that reach `to_beat` `(m,)`, and of these
    the largest `at_most` of each row."""
    some = (products.amax(1) >= to_beat).nonzero()[:, 0]
    products, who, to_beat, first_row = products.index_select(0, some), who[some], to_beat[some], first_row[some]
    possible = products >= to_beat.clamp(min=-2.0)[:, None]
    crowded = (possible.sum(1) > at_most).nonzero()[:, 0]
    if len(crowded):
        least = products[crowded].topk(at_most, dim=1).values[:, -1:]
        possible[crowded] = products[crowded] >= least
    row, column = possible.nonzero().unbind(1)
    return Pairs(who[row], column + first_row[row], products[row, column])


def _certify(index: Index, vectors: Tensor, level: Tensor, rows: Tensor, scores: Tensor) -> _Found:
    """The k best of the whole index, from matches `rows` and canonical `scores` `(n, k)` to begin with."""
    slack = first_level_slack(vectors.shape[1])
    short = halved(level)
    found, waiting = [], 0
    for leaf in range(index.tree.leaves):
        x, first_row = index.leaf_level(leaf)
        short_x = halved(x)
        size = max(1, min(BLOCK, PRODUCTS // len(x)))
        for start in range(0, len(vectors), size):
            to_beat = scores[start : start + size, -1].float() - slack
            some = ((short[start : start + size] @ short_x.T).amax(1) >= to_beat).nonzero()[:, 0]
            who = some + start
            left = _survivors(level[who] @ x.T, who, to_beat[some], torch.full_like(who, first_row), len(x))
            found.append(left)
            waiting += len(left)
            if waiting > PENDING:
                rows, scores = _settled(index, vectors, joined(found), rows, scores)
                found, waiting = [], 0
    return _settled(index, vectors, joined(found), rows, scores)


def _settled(index: Index, vectors: Tensor, pairs: Pairs, rows: Tensor, scores: Tensor) -> _Found:
    n, k = rows.shape
    known = Pairs(torch.arange(n).repeat_interleave(k), rows.flatten(), scores.flatten().float())
    to_beat = scores[:, -1].float() - 2 * rounding_slack(vectors.shape[1])
    fresh = scored(index, vectors, pairs)
    fresh = fresh.at(fresh.scores >= to_beat[fresh.who])
    return canonically_best(index, vectors, distinct(joined([known, fresh])), k)
