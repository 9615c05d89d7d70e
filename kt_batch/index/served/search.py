"""A search that asks the owners of an index, and finds what `searchers.estimates` finds in the whole index.

Every step takes one message to each owner concerned, and its answer:

1. The queries, rounded (`encoding`), with their visits of the first round; the largest estimate of each visit. These of
   all owners give the threshold of each query.
2. The thresholds; the few patches that reach them, and their scores with the rounded queries. Of these of all owners
   those with the largest estimates are kept.
3. With many probes, the candidates near the best; their patches as they are kept, for exact scores of the best. Then
   visits of a second round to leaves that may hold a better patch; the few patches that reach these scores, as in 2.
4. The distinct candidates whose scores are near the best; their patches as they are kept. Canonical scores decide.

Scores of rounded queries differ from those of the queries by a bounded error, so some more candidates are near the
best, and the same ones win: what decides are scores of the queries themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kt_batch.index.index import WINDOW, Index
from kt_batch.index.ordering import ascending_order
from kt_batch.index.searchers.base import Found, SearchRequest
from kt_batch.index.searchers.candidates import (
    Best,
    Pairs,
    canonically_best,
    few_of_each,
    joined,
    kth_best,
    scored,
)
from kt_batch.index.searchers.estimates import (
    FEW,
    KEPT,
    PREPARED,
    estimate_level,
    first_threshold,
    portions,
    second_threshold,
)
from kt_batch.index.searchers.leaf_choice import FIRST_ROUND, nearest_leaves
from kt_batch.index.served import messages
from kt_batch.index.served.asked import Asked, Owners
from kt_batch.index.served.messages import Array, narrow, wide
from kt_batch.index.served.places import Places
from kt_batch.index.served.proofs import PROVED, best_of_owners, proof_of
from kt_batch.index.served.router import Router
from kt_batch.index.shards import Shard
from kt_batch.index.threads import parallel_map
from kt_batch.index.tree import Tree
from kt_batch.kernels.bounds import rounding_slack
from kt_batch.kernels.fixed_point import rounded_queries
from kt_batch.models.precision import quick_products

PATCH_IDS = "patch ids"  # beside the tensors of kept patches, whose names have no space
ALIKE = 2.0**-24  # times scores: their differences are then below the rounding error of any vector


class ServedSearch:
    """Searches the leaves of owners. It holds the router, and one portion of the queries of one request at a time."""

    def __init__(self, router: Router, owners: Owners, few: int = FEW) -> None:
        """Take a router, its owners, and the patches beyond k that a query reads whole, as `TreeSearcher`."""
        self._router = router
        self._owners = owners
        self._beyond = few
        self._places = Places(router, owners.shards)
        self._dim = router.tree.mean.numel()

    def find(self, request: SearchRequest, probes: int) -> tuple[Found, Tensor]:
        """Return the matches of a request, none certified, and their patch ids `(n, k, 12)` uint8.

        probes: leaves of each query; as many leaves always hold k patches, and the index has more.
        """
        k, tree = request.k, self._router.tree
        always = max(FIRST_ROUND, self._router.leaves_holding(k)) if probes >= 2 * FIRST_ROUND else probes
        with parallel_map() as each, quick_products():
            levels = each(lambda some: estimate_level(some, tree.directions), request.keys.split(PREPARED))
            level = torch.cat(levels)
            leaves, reach = nearest_leaves(self._router, level, probes, each)
        parts = []
        for part in portions(self._products(leaves[:, :always]), KEPT):
            queries = _Queries(request.keys[part], level[part], leaves[part], reach[part], always)
            asked = Asked(self._owners, rounded_queries(queries.level), request.patches[part], tree)
            known, kept = self._candidates(asked, queries, k)
            asked.end()
            parts.append(self._best(queries.keys, known, kept, k, request.with_values))
        return self._found(parts, certified=False)

    def prove(self, request: SearchRequest, probes: int) -> tuple[Found, Tensor]:
        """Return the best matches of all patches, all certified, and their patch ids `(n, k, 12)` uint8.

        probes: leaves of each query in which an owner looks for first matches; they change how long it takes.

        Raises:
            DamagedError: The index does not allow it.
        """
        parts = []
        for patches, keys in zip(request.patches.split(PROVED), request.keys.split(PROVED), strict=True):
            proof = proof_of(patches, request.k, probes)
            replies = self._owners.ask({owner: [proof] for owner in self._places.holders})
            known = best_of_owners(replies, self._places, request.k)
            kept = self._fetched(known.rows.unique())
            parts.append(self._best(keys, known, kept, request.k, request.with_values))
        return self._found(parts, certified=True)

    def _found(self, parts: Sequence[tuple[Best, Tensor]], *, certified: bool) -> tuple[Found, Tensor]:
        """Return the matches of all portions of a request, which is answered."""
        self._owners.settle()
        best = Best(torch.cat([best.rows for best, _ in parts]), torch.cat([best.scores for best, _ in parts]))
        found = [best.values for best, _ in parts if best.values is not None]
        proved = torch.full((len(best.rows),), certified, device="cpu")
        patch_ids = torch.cat([ids for _, ids in parts])
        return Found(best.rows, best.scores, proved, torch.cat(found) if found else None), patch_ids

    def _products(self, leaves: Tensor) -> Tensor:
        """Return the most products of each query `(n,)` that an owner keeps for `leaves` `(n, c)` of a first round."""
        products, owner_of = (self._router.tree.leaf_count + WINDOW - 1)[leaves], self._places.owner_of_leaf[leaves]
        of_owners = products.new_zeros(len(leaves), len(self._owners.shards)).scatter_add_(1, owner_of, products)
        return of_owners.amax(1)

    def _candidates(self, asked: Asked, queries: _Queries, k: int) -> tuple[Pairs, _Fetched]:
        """Return the candidates near the best, with approximate scores, and their patches."""
        always, (n, probes) = queries.always, queries.leaves.shape
        threshold = self._first_threshold(asked, queries.leaves[:, :always], k, always < probes)
        thresholds = {o: [messages.Thresholds(asked.token, asked.of_each(o, threshold))] for o in asked.owners}
        known = self._few(asked, asked.ask(thresholds, messages.Candidates), self._beyond + k)
        error = asked.errors + 2 * rounding_slack(self._dim) + messages.SCORE  # lengths of queries are rounded too
        known = near_best(known, error[known.who], n, k)
        kept = self._fetched(known.rows.unique())
        if always < probes:
            known = self._exactly_scored(queries, known, kept)
            reached = kth_best(known, n, k)
            wanted = queries.reach[:, always:] >= reached[:, None]
            least = second_threshold(reached, self._dim)
            further = self._further(asked, queries.leaves[:, always:], wanted, least, 2 * self._beyond + k)
            few = self._few(asked, asked.ask(further, messages.Candidates), 2 * self._beyond + k)
            errors = torch.cat([torch.full_like(known.scores, rounding_slack(self._dim)), error[few.who]])
            known = near_best(joined([known, few]), errors, n, k)
            rows = known.rows.unique()
            kept = kept.and_(self._fetched(rows[~torch.isin(rows, kept.rows)]))
        return known, kept

    def _exactly_scored(self, queries: _Queries, pairs: Pairs, kept: _Fetched) -> Pairs:
        """Return candidates with the scores of whole patches that a local search has."""
        index = kept.index(self._router.tree)
        with parallel_map() as each, quick_products():
            parts = zip(queries.keys.split(PREPARED), queries.level.split(PREPARED), strict=True)
            prepared = torch.cat(each(lambda part: index.prepare_queries(*part), parts))
            there = Pairs(pairs.who, kept.places_of(pairs.rows), pairs.scores)
            return replace(pairs, scores=scored(index, prepared, there, each).scores)

    def _best(self, keys: Tensor, known: Pairs, kept: _Fetched, k: int, with_values: bool) -> tuple[Best, Tensor]:
        """Return the k best of candidates of queries with `keys` `(n, D)`, and their patch ids `(n, k, 12)`."""
        # All get canonical scores. What is left of their own says which values are likely to be wanted.
        alike = Pairs(known.who, kept.places_of(known.rows), known.scores.clamp(-2, 2) * ALIKE)
        with parallel_map() as each, quick_products():
            best = canonically_best(kept.index(self._router.tree), keys, alike, k, each, with_values)
        there = best.rows >= 0
        ids = torch.where(there[..., None], kept.patch_ids[best.rows], 0)
        return Best(torch.where(there, kept.rows[best.rows], -1), best.scores, best.values), ids

    def _first_threshold(self, asked: Asked, leaves: Tensor, k: int, more: bool) -> Tensor:
        """Begin the search at its owners, and return the threshold `(n,)` of the first round."""
        requests, places = {}, {}
        for owner, who, column, leaf in self._places.visits(leaves, torch.ones_like(leaves, dtype=torch.bool)):
            sent = asked.send(owner, who)
            order, counts = asked.in_order(owner, who)
            places[owner] = who[order], column[order]
            visits = messages.Visits(asked.token, counts, narrow(leaf[order]), self._beyond + k)
            requests[owner] = [*sent, *asked.noted(owner, visits)]
        best = torch.full(leaves.shape, -torch.inf, device="cpu")
        for owner, reply in asked.ask(requests, messages.Best).items():
            place = places[owner]
            best[place] = torch.maximum(best[place], torch.from_numpy(reply.best.copy()))
        if k > leaves.shape[1]:  # too few leaves hold a patch that reaches any threshold
            return torch.full((len(leaves),), -torch.inf, device="cpu")
        return first_threshold(best, k, more)

    def _further(
        self, asked: Asked, leaves: Tensor, wanted: Tensor, least: Tensor, few: int
    ) -> dict[int, list[messages.Request]]:
        """Return the visits of the second round: to the `wanted` `(n, c)` of `leaves` `(n, c)`."""
        requests = {}
        for owner, who, _, leaf in self._places.visits(leaves, wanted):
            sent = asked.send(owner, who)
            order, counts = asked.in_order(owner, who)
            further = messages.Further(asked.token, counts, narrow(leaf[order]), asked.of_each(owner, least), few)
            requests[owner] = [*sent, further]
        return requests

    def _few(self, asked: Asked, found: Mapping[int, messages.Candidates], few: int) -> Pairs:
        """Return the `few` candidates of each query with the largest estimates, and their scores of whole patches."""
        none = torch.empty(0, device="cpu")
        parts, scores = [], [none]
        for owner, reply in found.items():
            rows = self._places.rows_of_index(owner, wide(reply.rows))
            parts.append(Pairs(asked.queries_of(owner, reply.counts), rows, torch.from_numpy(reply.estimates.copy())))
            scores.append(torch.from_numpy(reply.scores.astype(np.float32) * messages.SCORE))
        pairs = joined(parts)
        order = ascending_order(pairs.rows)  # so that of equal estimates the smaller row is kept
        ordered = pairs.at(order)
        numbers = torch.arange(len(order), device="cpu")
        left = few_of_each(Pairs(ordered.who, numbers, ordered.scores), few).rows
        return Pairs(ordered.who[left], ordered.rows[left], torch.cat(scores)[order[left]])

    def _fetched(self, rows: Tensor) -> _Fetched:
        """Return the patches of distinct `rows` `(m,)`, ascending."""
        return _Fetched(rows, *self.kept(rows)) if len(rows) else _Fetched(rows, {}, rows)

    def kept(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return distinct rows `(m,)` as their owners keep them, and their patch ids `(m, 12)`."""
        places = self._places.by_owner(rows)
        requests: dict[int, list[messages.Request]] = {
            owner: [messages.Finalists(narrow(self._places.rows_of_owner(owner, rows[own])))]
            for owner, own in places.items()
        }
        replies = {o: reply for o, reply in self._owners.ask(requests).items() if isinstance(reply, messages.Kept)}
        found: dict[str, Array] = {}
        for owner, reply in replies.items():
            for name, part in {**reply.tensors, PATCH_IDS: reply.patch_ids}.items():
                whole = found.setdefault(name, np.empty((len(rows), *part.shape[1:]), part.dtype))
                whole[places[owner].numpy()] = part
        tensors = {name: torch.from_numpy(array) for name, array in found.items()}
        return tensors, tensors.pop(PATCH_IDS)


@dataclass(frozen=True)
class _Queries:
    """n queries.

    keys: `(n, D)`.
    level: first levels `(n, d + 1)`, the length of the rest scaled for estimates.
    leaves, reach: `(n, probes)`, from `leaf_choice.nearest_leaves`.
    always: leaves of the first round.
    """

    keys: Tensor
    level: Tensor
    leaves: Tensor
    reach: Tensor
    always: int


@dataclass(frozen=True)
class _Fetched:
    """Patches as their owners keep them.

    rows: of the index, `(m,)`, ascending.
    tensors: norms, level and payload (index.shards) by name; none where m is 0.
    patch_ids: `(m, 12)` uint8.
    """

    rows: Tensor
    tensors: dict[str, Tensor]
    patch_ids: Tensor

    def places_of(self, rows: Tensor) -> Tensor:
        """Return the places `(q,)` of rows `(q,)`, which are all here."""
        return torch.searchsorted(self.rows, rows)

    def and_(self, more: _Fetched) -> _Fetched:
        """Return these patches and others."""
        if len(more.rows) == 0:
            return self
        rows, order = torch.cat([self.rows, more.rows]).sort()
        tensors = {name: torch.cat([each, more.tensors[name]])[order] for name, each in self.tensors.items()}
        return _Fetched(rows, tensors, torch.cat([self.patch_ids, more.patch_ids])[order])

    def index(self, tree: Tree) -> Index:
        """Return an index of the patches; `tree` is that of the whole."""
        return index_of_kept(tree, self.tensors, self.patch_ids)


def index_of_kept(tree: Tree, kept: dict[str, Tensor], patch_ids: Tensor) -> Index:
    """Return an index of patches as `Index.kept` returned them, in one leaf, to read their keys and values."""
    count = len(kept["norms"])
    zero = torch.zeros(1, dtype=torch.int64, device="cpu")
    one_leaf = replace(tree, leaf_node=zero, leaf_shard=zero, leaf_start=zero, leaf_count=torch.full_like(zero, count))
    payload = {name: tensor for name, tensor in kept.items() if name not in ("level", "norms")}
    level = kept["level"]
    statistics = torch.zeros(1, level.shape[1], device="cpu"), torch.zeros(1, 1, device="cpu")
    return Index(one_leaf, [Shard(payload, patch_ids, kept["norms"], level, *statistics)])


def near_best(pairs: Pairs, errors: Tensor, n: int, k: int) -> Pairs:
    """Return the candidates that may be among the k best of n queries, by scores with `errors` `(m,)`."""
    least = kth_best(replace(pairs, scores=pairs.scores - errors), n, k)
    return pairs.at(pairs.scores + errors >= least[pairs.who])
