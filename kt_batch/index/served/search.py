"""A search that asks the owners of an index, and finds what `searchers.estimates` finds in the whole index.

Every step takes one message to each owner concerned, and its answer:

1. The queries with their visits of the first round; the largest estimate of each visit. These of all owners give the
   threshold of each query.
2. The thresholds; the few patches that reach them, with estimates and scores of whole patches. Of these of all owners
   the few with the largest estimates are kept.
3. With many probes, visits of a second round to leaves that may hold a better patch than the best so far; as in 2.
4. The candidates whose scores are near the best; their canonical scores, which decide.
5. The distinct winners; their patches as they are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from kt_batch.index.index import Index
from kt_batch.index.searchers.base import Found, SearchRequest
from kt_batch.index.searchers.candidates import (
    Best,
    Pairs,
    few_of_each,
    joined,
    kth_best,
    picked,
    ranked,
    read_values,
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
from kt_batch.index.served.messages import distinct_cells, items, narrow, wide
from kt_batch.index.served.router import Router
from kt_batch.index.shards import Shard
from kt_batch.index.threads import parallel_map
from kt_batch.index.tree import Tree
from kt_batch.kernels.bounds import rounding_slack
from kt_batch.models.precision import quick_products

R = TypeVar("R")


class Owners(Protocol):
    """The owners of an index."""

    shards: Sequence[Sequence[int]]  # of each owner, ascending; every shard has one owner

    def ask(self, requests: Mapping[int, messages.Request]) -> Mapping[int, messages.Reply | None]:
        """Return the answers of some owners, by number. A lost owner is replaced, and may have forgotten queries."""


@dataclass(frozen=True)
class _Asked:
    """n queries of one search.

    queries: the message that each owner concerned holds.
    who: of each owner concerned, the queries of its message, `(q,)`, ascending.
    """

    queries: dict[int, messages.Queries]
    who: dict[int, Tensor]


class ServedSearch:
    """Searches the leaves of owners. It holds the router, and one portion of the queries of one request at a time."""

    def __init__(self, router: Router, owners: Owners) -> None:
        self._router = router
        self._owners = owners
        self._owner_of_shard = torch.empty(len(router.shard_counts), dtype=torch.int64)
        tree = router.tree
        self._local_leaf = torch.empty(tree.leaves, dtype=torch.int64)
        self._first_rows: list[tuple[Tensor, Tensor]] = []  # of each owner's shards: at the owner, in the index
        starts = router.shard_counts.cumsum(0) - router.shard_counts
        for number, shards in enumerate(owners.shards):
            own = torch.tensor(list(shards))
            self._owner_of_shard[own] = number
            leaves = torch.isin(tree.leaf_shard, own).nonzero()[:, 0]
            self._local_leaf[leaves] = torch.arange(len(leaves))
            counts = router.shard_counts[own]
            self._first_rows.append((counts.cumsum(0) - counts, starts[own]))
        self._owner_of_leaf = self._owner_of_shard[tree.leaf_shard]

    def find(self, request: SearchRequest, probes: int) -> tuple[Found, Tensor]:
        """Return the matches of a request, none certified, and their patch ids `(n, k, 12)` uint8.

        probes: leaves of each query; as many leaves always hold k patches, and the index has more.
        """
        k, keys = request.k, request.keys
        always = max(FIRST_ROUND, self._router.leaves_holding(k)) if probes >= 2 * FIRST_ROUND else probes
        tree = self._router.tree
        with parallel_map() as each, quick_products():
            levels = each(lambda some: estimate_level(some, tree.directions), keys.split(PREPARED))
            leaves, reach = nearest_leaves(self._router, torch.cat(levels), probes, each)
        width = (tree.leaf_count + 63)[leaves[:, :always]].sum(1)
        parts = []
        for part in portions(width, KEPT):
            token = uuid4().hex
            asked = self._asked(token, request.patches[part], leaves[part], always, FEW + k)
            parts.append(self._find(asked, leaves[part], reach[part], always, request))
            self._owners.ask({owner: messages.Done(token) for owner in asked.queries})
        best = Best(torch.cat([part[0].rows for part in parts]), torch.cat([part[0].scores for part in parts]))
        values = self._values(best.rows) if request.with_values else None
        certified = torch.zeros(len(best.rows), dtype=torch.bool)
        return Found(best.rows, best.scores, certified, values), torch.cat([part[1] for part in parts])

    def _asked(self, token: str, patches: Tensor, leaves: Tensor, always: int, few: int) -> _Asked:
        """Divide queries `(n, 4, C)` with `leaves` `(n, probes)` among the owners of these."""
        cells, corners = distinct_cells(patches)
        owner_of = self._owner_of_leaf[leaves]
        queries, concerned = {}, {}
        for owner in owner_of.unique().tolist():
            own = owner_of == owner
            who = own.any(1).nonzero()[:, 0]
            some, places = corners[who].unique(return_inverse=True)
            counts, visited = self._visits(own[who, :always], leaves[who, :always])
            sent = cells[some].numpy()
            queries[owner] = messages.Queries(token, sent, narrow(places), counts, visited, few)
            concerned[owner] = who
        return _Asked(queries, concerned)

    def _visits(self, wanted: Tensor, leaves: Tensor) -> tuple[messages.Array, messages.Array]:
        """Return the counts `(q,)` and the owner's numbers `(p,)` of the `wanted` ones of `leaves`, `(q, c)` each."""
        return narrow(wanted.sum(1)), narrow(self._local_leaf[leaves[wanted]])

    def _find(
        self, asked: _Asked, leaves: Tensor, reach: Tensor, always: int, request: SearchRequest
    ) -> tuple[Best, Tensor]:
        n, probes = leaves.shape
        k, dim = request.k, request.keys.shape[1]
        more = always < probes
        threshold = self._first_threshold(asked, leaves[:, :always], k, more)
        least = {owner: threshold[who].numpy() for owner, who in asked.who.items()}
        token = {owner: message.token for owner, message in asked.queries.items()}
        found = self._ask(asked, {o: messages.Thresholds(token[o], least[o]) for o in least}, messages.Candidates)
        known = self._best_estimates(asked, found, FEW + k)
        if more:
            reached = kth_best(known, n, k)
            wanted = reach[:, always:] >= reached[:, None]
            further = self._further(asked, leaves[:, always:], wanted, second_threshold(reached, dim), 2 * FEW + k)
            found = self._ask(asked, further, messages.Candidates)
            known = joined([known, self._best_estimates(asked, found, 2 * FEW + k)])
        worst = kth_best(known, n, k) - 2 * rounding_slack(dim)
        return self._canonically_best(asked, known.at(known.scores >= worst[known.who]), n, k)

    def _first_threshold(self, asked: _Asked, leaves: Tensor, k: int, more: bool) -> Tensor:
        """Begin the search at its owners, and return the threshold `(n,)` of the first round."""
        best = torch.full(leaves.shape, -torch.inf)
        owner_of = self._owner_of_leaf[leaves]
        for owner, reply in self._ask(asked, asked.queries, messages.Best).items():
            best[owner_of == owner] = torch.from_numpy(reply.best.copy())
        if k > leaves.shape[1]:  # too few leaves hold a patch that reaches any threshold
            return torch.full((len(leaves),), -torch.inf)
        return first_threshold(best, k, more)

    def _further(
        self, asked: _Asked, leaves: Tensor, wanted: Tensor, least: Tensor, few: int
    ) -> dict[int, messages.Further]:
        """Return the visits of the second round: to the `wanted` `(n, c)` of `leaves` `(n, c)`."""
        requests = {}
        wanted_of = torch.where(wanted, self._owner_of_leaf[leaves], -1)
        for owner, who in asked.who.items():
            own = wanted_of[who] == owner
            if own.any():
                counts, visited = self._visits(own, leaves[who])
                token = asked.queries[owner].token
                requests[owner] = messages.Further(token, counts, visited, least[who].numpy(), few)
        return requests

    def _best_estimates(self, asked: _Asked, found: Mapping[int, messages.Candidates], few: int) -> Pairs:
        """Return the `few` candidates of each query with the largest estimates, with the scores of whole patches."""
        parts, scores = [], []
        for owner, reply in sorted(found.items()):
            who = asked.who[owner][items(reply.counts)]
            rows = self._rows_of_index(owner, wide(reply.rows))
            parts.append(Pairs(who, rows, torch.from_numpy(reply.estimates.copy())))
            scores.append(torch.from_numpy(reply.scores.copy()))
        pairs = joined(parts)
        score = torch.cat([torch.empty(0), *scores])
        numbered = Pairs(pairs.who, pairs.rows, pairs.scores)
        kept = few_of_each(numbered, few)
        if len(kept) == len(pairs):
            return Pairs(pairs.who, pairs.rows, score)
        rows = self._router.count
        order = torch.argsort(pairs.who * rows + pairs.rows)
        ordered = (pairs.who * rows + pairs.rows)[order]
        places = order[torch.searchsorted(ordered, kept.who * rows + kept.rows)]
        return Pairs(kept.who, kept.rows, score[places])

    def _canonically_best(self, asked: _Asked, left: Pairs, n: int, k: int) -> tuple[Best, Tensor]:
        """Return the k best of each query by canonical score, and their patch ids `(n, k, 12)`."""
        requests, places = {}, {}
        owner_of = self._owner_of_row(left.rows)
        for owner in owner_of.unique().tolist():
            own = (owner_of == owner).nonzero()[:, 0]
            own = own[torch.sort(left.who[own], stable=True).indices]
            where = torch.searchsorted(asked.who[owner], left.who[own])
            counts = torch.bincount(where, minlength=len(asked.who[owner]))
            rows = self._rows_of_owner(owner, left.rows[own])
            requests[owner] = messages.Finalists(asked.queries[owner].token, narrow(counts), narrow(rows))
            places[owner] = own
        scores = torch.empty(len(left), dtype=torch.float64)
        ids = np.zeros((len(left), 12), np.uint8)
        for owner, reply in self._ask(asked, requests, messages.Canonical).items():
            scores[places[owner]] = torch.from_numpy(reply.scores.copy())
            ids[places[owner].numpy()] = reply.patch_ids
        pairs = Pairs(left.who, left.rows, scores)
        numbers = ranked(ids, pairs, n, k)
        patch_ids = torch.zeros(n, k, 12, dtype=torch.uint8)
        there = numbers >= 0
        patch_ids[there] = torch.from_numpy(ids)[numbers[there]]
        return picked(pairs, numbers), patch_ids

    def _values(self, rows: Tensor) -> Tensor:
        """Return the raw patches `(n, k, 4, C)` float32 of rows `(n, k)`."""
        distinct, which = rows.flatten().unique(return_inverse=True)
        owner_of = self._owner_of_row(distinct)
        places = {owner: (owner_of == owner).nonzero()[:, 0] for owner in owner_of.unique().tolist()}
        requests = {o: messages.Winners(narrow(self._rows_of_owner(o, distinct[own]))) for o, own in places.items()}
        replies = self._ask(None, requests, messages.Kept)
        order = torch.cat([places[owner] for owner in replies])
        tensors = [{name: torch.from_numpy(a.copy()) for name, a in r.tensors.items()} for r in replies.values()]
        kept = {name: torch.cat([part[name] for part in tensors]) for name in tensors[0]}
        index = index_of_kept(self._router.tree, kept)
        at = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))
        with parallel_map() as each:
            return read_values(index, at[which].view(rows.shape), each)

    def _ask(self, asked: _Asked | None, requests: Mapping[int, messages.Request], kind: type[R]) -> dict[int, R]:
        """Return the answers to requests; where an owner holds the queries no more, send them again."""
        replies = dict(self._owners.ask(requests))
        while lost := [owner for owner, reply in replies.items() if isinstance(reply, messages.Forgotten)]:
            if asked is not None:
                self._owners.ask({owner: asked.queries[owner] for owner in lost})
            replies |= self._owners.ask({owner: requests[owner] for owner in lost})
        return {owner: reply for owner, reply in replies.items() if isinstance(reply, kind)}

    def _owner_of_row(self, rows: Tensor) -> Tensor:
        starts = self._router.shard_counts.cumsum(0)
        return self._owner_of_shard[torch.searchsorted(starts, rows, right=True)]

    def _rows_of_index(self, owner: int, rows: Tensor) -> Tensor:
        own, index = self._first_rows[owner]
        shard = torch.searchsorted(own, rows, right=True) - 1
        return rows - own[shard] + index[shard]

    def _rows_of_owner(self, owner: int, rows: Tensor) -> Tensor:
        own, index = self._first_rows[owner]
        shard = torch.searchsorted(index, rows, right=True) - 1
        return rows - index[shard] + own[shard]


def index_of_kept(tree: Tree, kept: dict[str, Tensor]) -> Index:
    """Return an index of patches as `Index.kept` returned them, in one leaf, to read their keys and values."""
    count = len(kept["norms"])
    zero = torch.zeros(1, dtype=torch.int64)
    one_leaf = replace(tree, leaf_node=zero, leaf_shard=zero, leaf_start=zero, leaf_count=torch.full_like(zero, count))
    payload = {name: tensor for name, tensor in kept.items() if name not in ("level", "norms")}
    level = kept["level"]
    ids = torch.zeros(count, 12, dtype=torch.uint8)
    statistics = torch.zeros(1, level.shape[1]), torch.zeros(1, 1)
    return Index(one_leaf, [Shard(payload, ids, kept["norms"], level, *statistics)])
