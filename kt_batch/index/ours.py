"""The default searcher: the first level of what is probed, then the few patches it leaves, then canonical scores.

Every (query, leaf) pair is a row of one product per leaf, in principal coordinates with the length of the rest as one
more (kernels.principal): 128 values for each patch instead of D. A patch is read in full only when the product says
that it may beat the best found so far. In fast mode the product is an estimate; the nearest leaves are probed first,
then of the next nearest those that reach as far as what is to beat by then. A certified search reads the product as the
upper bound it is, for every patch of the index.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import numpy as np
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

FIRST_ROUND = 16  # leaves that every query looks into; a second round is worth it for twice as many probes
NEAREST = 4  # of these, leaves whose most promising patches may be a query's first candidates
FIRST = 2  # first candidates read in full, beyond top_k
REACH = 4.0  # standard deviations from a leaf's mean product to what its best patch is taken to reach
CROWD = 24  # patches of one leaf that may reach what is to beat before the smaller ones are dropped
REST_SHARE = 0.6  # of the product of the rests: what a patch is expected to gain at most, in fast mode
FEW = 10  # patches read in full for a query in a round, beyond top_k; in a second round twice as many
ROWS = 4096  # (query, leaf) pairs whose products are looked through at a time
PRODUCTS = 1 << 23  # and at most so many products: a leaf may hold any number of patches that cannot be split
CHOOSING = 512  # queries whose leaves are chosen at a time
BLOCK = 1024  # queries that meet a leaf at a time in a certified search
PENDING = 1 << 18  # pairs that wait for their canonical score there

_Found = tuple[Tensor, Tensor]


def search_fast(index: Index, vectors: Tensor, k: int, probes: int) -> _Found:
    """The k best of at most the `probes` nearest leaves, as far as estimates find them: rows and canonical scores
    `(n, k)`.

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
    shares = [slice(start, start + size) for start in range(0, max(1, count), size)]
    if threads == 1:
        found = [work(share) for share in shares]
    else:
        with _one_thread_each(threads):
            found = list(_pool(threads).map(work, shares))
    return torch.cat([rows for rows, _ in found]), torch.cat([scores for _, scores in found])


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that live as long as the process: new ones for every search would each leave memory behind, as the
    allocator keeps a share for each."""
    return ThreadPoolExecutor(threads)


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of its parent's threads


@contextmanager
def _one_thread_each(threads: int) -> Iterator[None]:
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fast(index: Index, vectors: Tensor, level: Tensor, k: int, probes: int) -> _Found:
    leaves, reach = nearest_leaves(index, level, probes)
    asked = index.asked(vectors)
    known = scored(index, asked, best_few(_first_candidates(index, level, leaves[:, :NEAREST], k), FIRST + k))
    always = max(FIRST_ROUND, index.leaves_holding(k)) if probes >= 2 * FIRST_ROUND else probes
    known = _round(index, asked, level, _all_pairs(leaves[:, :always]), known, k, FEW)
    if always < probes:
        to_beat = kth_best(known, len(vectors), k)
        who, column = (reach[:, always:] >= to_beat[:, None]).nonzero().unbind(1)
        known = _round(index, asked, level, (who, leaves[who, column + always]), known, k, 2 * FEW)
    return canonically_best(index, vectors, known, k)


def nearest_leaves(index: Index, level: Tensor, probes: int) -> tuple[Tensor, Tensor]:
    """The `probes` leaves with the nearest means `(n, probes)`, best first, for the first level `(n, d + 1)` of n
    queries; and what the estimate of the best patch of each may reach, as if a leaf's were normal: `(n, probes)`, or
    `(n, 0)` for so few probes that one round takes them all."""
    two_rounds = probes >= 2 * FIRST_ROUND
    means, variances = index.leaf_means[:, :-1], index.leaf_variances
    lengths, rests = means.norm(dim=1).clamp(min=1e-12), index.leaf_means[:, -1]
    leaves, reach = [], []
    for part in level.split(CHOOSING):
        products = part[:, :-1] @ means.T
        cosines = products / lengths
        if probes < index.tree.leaves:  # several times faster than topk of so many
            some = torch.from_numpy(np.argpartition(cosines.numpy(), -probes, axis=1)[:, -probes:].copy())
        else:
            some = torch.arange(probes).expand(len(part), -1)
        order = torch.sort(cosines.gather(1, some), dim=1, descending=True, stable=True).indices
        some = some.gather(1, order)
        leaves.append(some)
        if not two_rounds:
            reach.append(part[:, :0])
            continue
        spread = (part[:, : variances.shape[1]].square() @ variances.T).gather(1, some).sqrt_()
        reach.append(products.gather(1, some) + part[:, -1:] * rests[some] + REACH * spread)
    return torch.cat(leaves), torch.cat(reach)


def _all_pairs(leaves: Tensor) -> tuple[Tensor, Tensor]:
    """`(n, p)` leaves -> queries and leaves `(n * p,)` of all pairs."""
    return torch.arange(len(leaves)).repeat_interleave(leaves.shape[1]), leaves.flatten()


def _round(
    index: Index, asked: Tensor, level: Tensor, pairs: tuple[Tensor, Tensor], known: Pairs, k: int, few: int
) -> Pairs:
    """`known`, and with their scores the most promising patches of the (query, leaf) `pairs` that may beat them."""
    to_beat = kth_best(known, len(level), k) - 2 * rounding_slack(4 * index.channels)
    found = []
    for who, products, first_row in _products(index, level, *pairs):
        found.append(_survivors(products, who, to_beat[who], first_row, CROWD + k))
    return distinct(joined([known, scored(index, asked, best_few(joined(found), few + k))]))


def _products(index: Index, level: Tensor, who: Tensor, leaves: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """First-level products of queries `who` `(p,)` with the leaves `(p,)` they probe, ROWS pairs at a time, leaves of
    one size together.

    Yields the queries `(m,)`, products `(m, c)` and the row of the index `(m,)` that the first column stands for; c is
    the size of the largest leaf among them, and columns beyond a leaf's own are -inf. The products are overwritten by
    the next.
    """
    order = torch.from_numpy(np.argsort(index.leaf_size_rank[leaves].numpy(), kind="stable"))
    leaves, who = leaves.index_select(0, order), who.index_select(0, order)
    sizes = index.tree.leaf_count[leaves]
    room = torch.empty(0)
    start = 0
    while start < len(who):
        stop = min(start + ROWS, len(who))
        stop = min(stop, start + max(1, PRODUCTS // int(sizes[stop - 1])))
        width = int(sizes[stop - 1])
        if room.numel() < (stop - start) * width:
            room = torch.empty((stop - start) * width)
        buffer = room[: (stop - start) * width].view(-1, width)
        _leaf_products(index, level.index_select(0, who[start:stop]), leaves[start:stop], buffer)
        yield who[start:stop], buffer, index.first_rows[leaves[start:stop]]
        start = stop


def _leaf_products(index: Index, queries: Tensor, leaves: Tensor, out: Tensor) -> None:
    """Products of queries `(m, d + 1)` with the patches of their leaves `(m,)`, equal ones side by side."""
    found, counts = leaves.unique_consecutive(return_counts=True)
    at = 0
    for leaf, count in zip(found.tolist(), counts.tolist(), strict=True):
        x, _ = index.leaf_level(leaf)
        rows = out[at : at + count]
        torch.mm(queries[at : at + count], x.T, out=rows[:, : len(x)])
        rows[:, len(x) :] = -torch.inf
        at += count


def _first_candidates(index: Index, level: Tensor, leaves: Tensor, k: int) -> Pairs:
    """The k most promising patches of each of the leaves `(n, p)`, with their estimates."""
    found = []
    for who, products, first_row in _products(index, level, *_all_pairs(leaves)):
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
    asked = index.asked(vectors)
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
                rows, scores = _settled(index, vectors, scored(index, asked, joined(found)), rows, scores)
                found, waiting = [], 0
    return _settled(index, vectors, scored(index, asked, joined(found)), rows, scores)


def _settled(index: Index, vectors: Tensor, fresh: Pairs, rows: Tensor, scores: Tensor) -> _Found:
    n, k = rows.shape
    known = Pairs(torch.arange(n).repeat_interleave(k), rows.flatten(), scores.flatten().float())
    to_beat = scores[:, -1].float() - 2 * rounding_slack(vectors.shape[1])
    fresh = fresh.at(fresh.scores >= to_beat[fresh.who])
    return canonically_best(index, vectors, distinct(joined([known, fresh])), k)
