"""Certified search: bounds for every patch of the index prove that the matches are the best.

The matches of `search_fast` set the thresholds, and every step leaves fewer patches that may exceed them:

1. Bounds by the first level in 8-bit integers, or by 65 of its values on a processor without instructions for those.
2. Bounds by the whole first level.
3. For many queries, bounds with coordinates along FURTHER more directions, which leave a tenth.
4. Float32 scores of whole patches.
5. Canonical scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kt_batch.index.index import Chunk, Index
from kt_batch.index.packing import spread
from kt_batch.index.searchers.candidates import Best, Pairs, canonically_best, distinct, joined, scored
from kt_batch.index.searchers.estimates import search_fast
from kt_batch.index.searchers.visits import rounded_up
from kt_batch.index.threads import parallel_map
from kt_batch.kernels.bounds import first_level_slack, refined_slack, rounding_slack
from kt_batch.kernels.integers import Queries, integer_products, least_products, round_patches, round_queries
from kt_batch.kernels.principal import bound_correction, first_level, further_directions, halved, other_half
from kt_batch.kernels.tiles import blocks
from kt_batch.models.precision import quick_integers, quick_products

BEGIN = 64  # leaves probed at least, for the first thresholds
CHUNK = 512  # patches bounded together
BLOCK = 2048  # queries bounded together
FURTHER = 128  # directions in addition to those of the first level
SAMPLED = 4096  # patches to which these directions are fitted
MANY = 4096  # queries from which further directions are used
WORTH = 64  # pairs left of a chunk and a block, from which further coordinates pay
PENDING = 1 << 20  # pairs that wait for their scores; one chunk and block may have more
LIST = 64  # pairs that take as much memory as an empty list of pairs


@dataclass(frozen=True)
class _InHalves:
    """Bounds by 65 values of each patch, then, for the queries that these leave, by the other half (kernels.principal).

    short, other: of the queries, `(n, (d + 1) // 2 + 1)` each.
    """

    short: Tensor
    other: Tensor

    def with_chunk(self, x: Tensor, least: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the queries `(m,)` of each block that may reach `least` `(n,)`, and their bounds `(m, c)`.

        Args:
            x: First levels of the patches of a chunk, `(c, d + 1)`.
            least: Scores to be reached, `(n,)`.
        """
        short = halved(x)
        other = other_half(x, short, -1)
        for start in range(0, len(least), BLOCK):
            bounds = self.short[start : start + BLOCK] @ short.T
            some = (bounds.amax(1) >= least[start : start + BLOCK]).nonzero()[:, 0]
            who = some + start
            yield who, bounds.index_select(0, some).add_(_products(self.other, who, other))


def _in_halves(level: Tensor) -> _InHalves:
    short = halved(level)
    return _InHalves(short, other_half(level, short, 1))


@dataclass(frozen=True)
class _InIntegers:
    """Bounds by the first level in 8 bits (kernels.integers), then, for the queries that these leave, in float32.

    level: first levels of the queries, `(n, d + 1)`.
    rounded: the same in integers.
    """

    level: Tensor
    rounded: Queries

    def with_chunk(self, x: Tensor, least: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what `_InHalves.with_chunk` yields, from integer products."""
        patches = round_patches(x)
        needed = least_products(self.rounded, patches, least)
        for start in range(0, len(least), BLOCK):
            best = integer_products(self.rounded.values[start : start + BLOCK], patches.values).amax(1)
            who = (best >= needed[start : start + BLOCK]).nonzero()[:, 0] + start
            yield who, _products(self.level, who, x)


@dataclass(frozen=True)
class _Queries:
    """n queries.

    vectors: keys `(n, D)`.
    prepared_queries: `(n, a)`, as `Index.products` takes them.
    bounds: the bounds by the first level.
    further: further directions `(D, e)`.
    bound_correction: of the queries along these (kernels.principal); None for few queries.
    """

    vectors: Tensor
    prepared_queries: Tensor
    bounds: _InHalves | _InIntegers
    further: Tensor
    bound_correction: Tensor | None


def search_certified(index: Index, vectors: Tensor, k: int, probes: int) -> Best:
    """Return the k best patches of the whole index, with their canonical scores.

    Args:
        index: The index.
        vectors: Keys of the queries, `(n, D)` float32; zero vectors are allowed.
        k: Matches per query.
        probes: Leaves of the search for the first matches, if more than BEGIN. Better matches leave fewer patches.
    """
    best = search_fast(index, vectors, k, min(max(probes, BEGIN), index.tree.leaves))
    rows, scores = best.rows, best.scores
    lit = vectors.any(1)
    if not lit.all():  # a zero vector ties with every patch, so the smallest ids win
        rows[~lit] = index.smallest_ids(k)
    if lit.any():
        with quick_products(index.device.type):
            proved = _certified(index, _prepared(index, vectors[lit]), Best(rows[lit], scores[lit]))
            rows[lit], scores[lit] = proved.rows, proved.scores
    return Best(rows, scores)


def _prepared(index: Index, vectors: Tensor) -> _Queries:
    directions = index.tree.directions
    level = first_level(vectors, directions)
    in_integers = level.device.type == "cpu" and quick_integers()
    bounds = _InIntegers(level, round_queries(level)) if in_integers else _in_halves(level)
    further, last = directions[:, :0], None
    if len(vectors) >= MANY and len(directions) > directions.shape[1]:
        sample = index.keys(spread(index.count, SAMPLED, index.device))
        further = further_directions(sample, directions, FURTHER)
        along = torch.cat([(block @ further)[:count] for _, count, block in blocks(vectors)])
        last = bound_correction(level, along, 2 * rounding_slack(vectors.shape[1]), 1)
    return _Queries(vectors, index.prepare_queries(vectors, level), bounds, further, last)


def _certified(index: Index, queries: _Queries, first: Best) -> Best:
    """Return the k best of the whole index, given the first matches."""
    chunks, threads = index.chunks(CHUNK), torch.get_num_threads()
    with parallel_map() as each:
        shares = [chunks[start::threads] for start in range(threads)]
        bests = each(lambda some: _best_of(index, queries, some, first), shares)
        if len(bests) == 1:
            return bests[0]
        pairs = distinct(joined([_pairs(best) for best in bests]))
        return canonically_best(index, queries.vectors, pairs, first.rows.shape[1], each)


def _best_of(index: Index, queries: _Queries, chunks: Sequence[Chunk], best: Best) -> Best:
    """Return the k best of some chunks and of the matches so far."""
    pending, waiting = [], 0
    for chunk in chunks:
        for left in _left(index, queries, chunk, best.scores[:, -1].float()):
            if len(left) == 0:
                continue
            pending.append(left)
            waiting += len(left) + LIST
            if waiting > PENDING:
                best = _merged(index, queries, joined(pending, index.device), best)
                pending, waiting = [], 0
    return _merged(index, queries, joined(pending, index.device), best)


def _left(index: Index, queries: _Queries, chunk: Chunk, threshold: Tensor) -> Iterator[Pairs]:
    """Yield the pairs of a chunk whose bounds reach the `threshold` `(n,)` of their query, by blocks of queries."""
    dim = queries.vectors.shape[1]
    x = index.chunk_level(chunk)
    last = None
    least, refined_least = threshold - first_level_slack(dim), threshold - refined_slack(dim)
    for some, bounds in queries.bounds.with_chunk(x, least):
        who, values, possible = _reaching(some, bounds, least)
        if queries.bound_correction is not None and possible.sum() >= WORTH:
            if last is None:
                last = bound_correction(x, index.chunk_along(chunk, queries.further), 2 * rounding_slack(dim), -1)
            values.add_(_products(queries.bound_correction, who, last))
            who, values, possible = _reaching(who, values, refined_least)
        row, column = possible.nonzero().unbind(1)
        yield Pairs(who[row], column + chunk.first_row, values[row, column])


def _products(queries: Tensor, who: Tensor, x: Tensor) -> Tensor:
    """Return the products `(m, c)` of rows `who` `(m,)` of `queries` with `x` `(c, e)`, padded to few shapes."""
    filled_up = torch.cat([who, who[:1].expand(rounded_up(len(who)) - len(who))])
    return (queries.index_select(0, filled_up) @ x.T)[: len(who)]


def _reaching(who: Tensor, values: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the queries of `who` `(m,)` whose `values` `(m, c)` reach `least` `(n,)`, their values, and where."""
    some = (values.amax(1) >= least[who]).nonzero()[:, 0]
    who, values = who[some], values.index_select(0, some)
    return who, values, values >= least[who][:, None]


def _merged(index: Index, queries: _Queries, fresh: Pairs, best: Best) -> Best:
    """Return the k best of the matches so far and of fresh pairs."""
    threshold = best.scores[:, -1].float() - 2 * rounding_slack(queries.vectors.shape[1])
    fresh = scored(index, queries.prepared_queries, fresh)
    fresh = fresh.at(fresh.scores >= threshold[fresh.who])
    who, number = fresh.who.unique(return_inverse=True)
    if len(who) == 0:
        return best
    both = joined([_pairs(Best(best.rows[who], best.scores[who])), Pairs(number, fresh.rows, fresh.scores)])
    rows, scores = best.rows.clone(), best.scores.clone()
    better = canonically_best(index, queries.vectors[who], distinct(both), rows.shape[1])
    rows[who], scores[who] = better.rows, better.scores
    return Best(rows, scores)


def _pairs(best: Best) -> Pairs:
    n, k = best.rows.shape
    who = torch.arange(n, device=best.rows.device).repeat_interleave(k)
    return Pairs(who, best.rows.flatten(), best.scores.flatten().float())
