"""A search that proves its matches: bounds for every patch of the index, tighter ones for what those leave.

What `search_fast` finds is to be beaten. With the first level in 8-bit integers, or with 65 of its values where a
processor has no instructions for those, most pieces of the index are passed by; with the first level as it is most of
the rest; what is left is read in full, and little of that needs canonical scores. Where many ask, coordinates along
FURTHER more directions are computed for a piece first, which leave a tenth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kt_batch.index.index import Index, Piece
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

BEGIN = 64  # leaves probed at least: what is found there is to be beaten everywhere
PIECE = 512  # patches that are looked at together
BLOCK = 2048  # queries that meet them at a time
FURTHER = 128  # directions beside those of the first level
SAMPLED = 4096  # patches that these are fitted to
MANY = 4096  # queries: for fewer, what the first level leaves is read at once
WORTH = 64  # pairs that it leaves of a piece and a block, from which further coordinates are worth their price
PENDING = 1 << 20  # pairs that wait for their full score; of one piece and block there may be more
LIST = 64  # pairs that a list of them takes as much memory as


@dataclass(frozen=True)
class _InHalves:
    """Bounds by 65 values of each patch, then, for the queries that these leave, by the other half (kernels.principal).

    `short` and `other` are the queries' `(n, (d + 1) // 2 + 1)` each."""

    short: Tensor
    other: Tensor

    def with_piece(self, x: Tensor, least: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Of a block of queries at a time those `(m,)` that may reach `least` `(n,)` with a patch of the first levels
        `x` `(c, d + 1)`, and their products with it `(m, c)`."""
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
    """Bounds by all values of the first level in 8 bits (kernels.integers), then, for the queries that these leave, by
    the values themselves: `level` `(n, d + 1)`."""

    level: Tensor
    rounded: Queries

    def with_piece(self, x: Tensor, least: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """As of `_InHalves`."""
        patches = round_patches(x)
        needed = least_products(self.rounded, patches, least)
        for start in range(0, len(least), BLOCK):
            best = integer_products(self.rounded.values[start : start + BLOCK], patches.values).amax(1)
            who = (best >= needed[start : start + BLOCK]).nonzero()[:, 0] + start
            yield who, _products(self.level, who, x)


@dataclass(frozen=True)
class _Queries:
    """n queries: unit vectors `(n, D)`, what `Index.products` takes `(n, a)`, and how the first level is looked at: its
    `bounds`; then `beyond` (kernels.principal), or None for few queries, along the directions `further` `(D, e)`."""

    vectors: Tensor
    prepared_queries: Tensor
    bounds: _InHalves | _InIntegers
    further: Tensor
    bound_correction: Tensor | None


def search_certified(index: Index, vectors: Tensor, k: int, probes: int) -> Best:
    """The k best patches of the whole index for unit (or zero) queries `(n, D)` in match space: rows and canonical
    scores `(n, k)`.

    `probes` is where it begins, if that is more than BEGIN: the better the first matches, the less is left.
    """
    best = search_fast(index, vectors, k, min(max(probes, BEGIN), index.tree.leaves))
    rows, scores = best.rows, best.scores
    lit = vectors.any(1)
    if not lit.all():  # a zero vector ties with every patch: no bound rules out any, and the smallest ids win
        rows[~lit] = index.smallest_ids(k)
    if lit.any():
        with quick_products():
            proved = _certified(index, _prepared(index, vectors[lit]), Best(rows[lit], scores[lit]))
            rows[lit], scores[lit] = proved.rows, proved.scores
    return Best(rows, scores)


def _prepared(index: Index, vectors: Tensor) -> _Queries:
    directions = index.tree.directions
    level = first_level(vectors, directions)
    bounds = _InIntegers(level, round_queries(level)) if quick_integers() else _in_halves(level)
    further, last = directions[:, :0], None
    if len(vectors) >= MANY and len(directions) > directions.shape[1]:
        sample = index.keys(spread(index.count, SAMPLED))
        further = further_directions(sample, directions, FURTHER)
        along = torch.cat([(block @ further)[:count] for _, count, block in blocks(vectors)])
        last = bound_correction(level, along, 2 * rounding_slack(vectors.shape[1]), 1)
    return _Queries(vectors, index.prepare_queries(vectors, level), bounds, further, last)


def _certified(index: Index, queries: _Queries, first: Best) -> Best:
    """The k best of the whole index, from the matches to begin with."""
    pieces, threads = index.pieces(PIECE), torch.get_num_threads()
    with parallel_map() as each:
        shares = [pieces[start::threads] for start in range(threads)]
        found = each(lambda some: _best_of(index, queries, some, first), shares)
        if len(found) == 1:
            return found[0]
        pairs = distinct(joined([_pairs(best) for best in found]))
        return canonically_best(index, queries.vectors, pairs, first.rows.shape[1], each)


def _best_of(index: Index, queries: _Queries, pieces: Sequence[Piece], best: Best) -> Best:
    """As `_certified`, of some pieces and the matches to begin with."""
    found, waiting = [], 0
    for piece in pieces:
        for left in _left(index, queries, piece, best.scores[:, -1].float()):
            if len(left) == 0:
                continue
            found.append(left)
            waiting += len(left) + LIST
            if waiting > PENDING:
                best = _settled(index, queries, joined(found), best)
                found, waiting = [], 0
    return _settled(index, queries, joined(found), best)


def _left(index: Index, queries: _Queries, piece: Piece, threshold: Tensor) -> Iterator[Pairs]:
    """What bounds leave of a piece, for queries that have `to_beat` `(n,)`; a block of queries at a time."""
    dim = queries.vectors.shape[1]
    x = index.piece_level(piece)
    last = None
    least, refined_least = threshold - first_level_slack(dim), threshold - refined_slack(dim)
    for some, bounds in queries.bounds.with_piece(x, least):
        who, values, possible = _reaching(some, bounds, least)
        if queries.bound_correction is not None and possible.sum() >= WORTH:
            if last is None:
                last = bound_correction(x, index.piece_along(piece, queries.further), 2 * rounding_slack(dim), -1)
            values.add_(_products(queries.bound_correction, who, last))
            who, values, possible = _reaching(who, values, refined_least)
        row, column = possible.nonzero().unbind(1)
        yield Pairs(who[row], column + piece.first_row, values[row, column])


def _products(queries: Tensor, who: Tensor, x: Tensor) -> Tensor:
    """Products `(m, c)` of the rows `who` `(m,)` of `queries` with `x` `(c, e)`, in few shapes: rows are filled up."""
    filled_up = torch.cat([who, who[:1].expand(rounded_up(len(who)) - len(who))])
    return (queries.index_select(0, filled_up) @ x.T)[: len(who)]


def _reaching(who: Tensor, values: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of queries `who` `(m,)` with `values` `(m, c)` those that reach `least` `(n,)` anywhere, and where they do."""
    some = (values.amax(1) >= least[who]).nonzero()[:, 0]
    who, values = who[some], values.index_select(0, some)
    return who, values, values >= least[who][:, None]


def _settled(index: Index, queries: _Queries, fresh: Pairs, best: Best) -> Best:
    """The k best of the matches so far and of fresh pairs."""
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
