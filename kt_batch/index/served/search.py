"""A search that asks the owners of an index, and finds what `searchers.estimates` finds in the whole index.

Every step takes one message to each owner concerned, and its answer:

1. The first levels of the queries with their visits of the first round; the largest estimate of each visit. These of
   all owners give the threshold of each query.
2. The thresholds; the few patches that reach them. Of these of all owners those with the largest estimates are kept.
3. The candidates, and the patches of their queries; the scores of whole patches.
4. With many probes, visits of a second round to leaves that may hold a better patch than the best so far; then as in 2
   and 3.
5. The candidates whose scores are near the best; their canonical scores, which decide.
6. The distinct winners; their patches as they are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kt_batch.index.ids import ID_BYTES
from kt_batch.index.index import WINDOW, Index
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
from kt_batch.index.served.asked import Asked, Owners
from kt_batch.index.served.messages import narrow, wide
from kt_batch.index.served.places import Places
from kt_batch.index.served.router import Router
from kt_batch.index.shards import Shard
from kt_batch.index.threads import parallel_map
from kt_batch.index.tree import Tree
from kt_batch.kernels.bounds import rounding_slack
from kt_batch.kernels.fixed_point import rounded_queries
from kt_batch.models.precision import quick_products


class ServedSearch:
    """Searches the leaves of owners. It holds the router, and one portion of the queries of one request at a time."""

    def __init__(self, router: Router, owners: Owners) -> None:
        self._router = router
        self._owners = owners
        self._places = Places(router, owners.shards)

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
        products = (tree.leaf_count + WINDOW - 1)[leaves[:, :always]].sum(1)
        parts = []
        for part in portions(products, KEPT):
            asked = Asked(self._owners, rounded_queries(level[part]), request.patches[part])
            parts.append(self._matches(asked, leaves[part], reach[part], always, k))
            asked.end()
        best = Best(torch.cat([best.rows for best, _ in parts]), torch.cat([best.scores for best, _ in parts]))
        values = self._values(best.rows) if request.with_values else None
        certified = torch.zeros(len(best.rows), dtype=torch.bool, device="cpu")
        return Found(best.rows, best.scores, certified, values), torch.cat([ids for _, ids in parts])

    def _matches(self, asked: Asked, leaves: Tensor, reach: Tensor, always: int, k: int) -> tuple[Best, Tensor]:
        """Return the matches of queries with `leaves` and `reach` `(n, probes)`, and their patch ids."""
        n, probes = leaves.shape
        dim = 4 * self._router.tree.mean.shape[1]
        threshold = self._first_threshold(asked, leaves[:, :always], k, always < probes)
        thresholds = {o: [messages.Thresholds(asked.token, asked.of_each(o, threshold))] for o in asked.owners}
        known = self._scored(asked, self._few(asked, asked.ask(thresholds, messages.Candidates), FEW + k))
        if always < probes:
            reached = kth_best(known, n, k)
            wanted = reach[:, always:] >= reached[:, None]
            least = second_threshold(reached, dim)
            further = self._further(asked, leaves[:, always:], wanted, least, 2 * FEW + k)
            few = self._few(asked, asked.ask(further, messages.Candidates), 2 * FEW + k)
            known = joined([known, self._scored(asked, few)])
        worst = kth_best(known, n, k) - 2 * rounding_slack(dim)
        return self._canonically_best(asked, known.at(known.scores >= worst[known.who]), n, k)

    def _first_threshold(self, asked: Asked, leaves: Tensor, k: int, more: bool) -> Tensor:
        """Begin the search at its owners, and return the threshold `(n,)` of the first round."""
        requests, places = {}, {}
        for owner, who, column in self._visits(leaves, torch.ones_like(leaves, dtype=torch.bool)):
            sent = asked.send(owner, who)
            order, counts = asked.in_order(owner, who)
            places[owner] = who[order], column[order]
            visited = narrow(self._places.leaf_at_owner[leaves[places[owner]]])
            visits = messages.Visits(asked.token, counts, visited, FEW + k)
            requests[owner] = [*sent, *asked.noted(owner, visits)]
        best = torch.full(leaves.shape, -torch.inf, device="cpu")
        for owner, reply in asked.ask(requests, messages.Best).items():
            best[places[owner]] = torch.from_numpy(reply.best.copy())
        if k > leaves.shape[1]:  # too few leaves hold a patch that reaches any threshold
            return torch.full((len(leaves),), -torch.inf, device="cpu")
        return first_threshold(best, k, more)

    def _further(
        self, asked: Asked, leaves: Tensor, wanted: Tensor, least: Tensor, few: int
    ) -> dict[int, list[messages.Request]]:
        """Return the visits of the second round: to the `wanted` `(n, c)` of `leaves` `(n, c)`."""
        requests = {}
        for owner, who, column in self._visits(leaves, wanted):
            sent = asked.send(owner, who)
            order, counts = asked.in_order(owner, who)
            visited = narrow(self._places.leaf_at_owner[leaves[who[order], column[order]]])
            further = messages.Further(asked.token, counts, visited, asked.of_each(owner, least), few)
            requests[owner] = [*sent, further]
        return requests

    def _visits(self, leaves: Tensor, wanted: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each owner with the queries and columns `(p,)` of the `wanted` ones of its `leaves`, `(n, c)` each."""
        owner_of = torch.where(wanted, self._places.owner_of_leaf[leaves], -1)
        for owner in owner_of.unique().tolist():
            if owner >= 0:
                yield owner, *(owner_of == owner).nonzero().unbind(1)

    def _few(self, asked: Asked, found: Mapping[int, messages.Candidates], few: int) -> Pairs:
        """Return the `few` candidates of each query with the largest estimates."""
        parts = []
        for owner, reply in found.items():
            rows = self._places.rows_of_index(owner, wide(reply.rows))
            estimates = torch.from_numpy(reply.estimates.copy())
            parts.append(Pairs(asked.queries_of(owner, reply.counts), rows, estimates))
        return few_of_each(joined(parts), few)

    def _scored(self, asked: Asked, pairs: Pairs) -> Pairs:
        """Return candidates with the scores of whole patches."""
        requests: dict[int, list[messages.Request]] = {}
        places = {}
        for owner, own in self._places.by_owner(pairs.rows).items():
            sent = asked.send_patches(owner, pairs.who[own])
            order, counts = asked.in_order(owner, pairs.who[own])
            places[owner] = own[order]
            rows = self._places.rows_of_owner(owner, pairs.rows[places[owner]])
            requests[owner] = [*sent, messages.Whole(asked.token, counts, narrow(rows))]
        scores = torch.empty(len(pairs), device="cpu")
        for owner, reply in asked.ask(requests, messages.Scores).items():
            scores[places[owner]] = torch.from_numpy(reply.scores.copy())
        return Pairs(pairs.who, pairs.rows, scores)

    def _canonically_best(self, asked: Asked, left: Pairs, n: int, k: int) -> tuple[Best, Tensor]:
        """Return the k best of each query by canonical score, and their patch ids `(n, k, 12)`."""
        requests, places = {}, {}
        for owner, own in self._places.by_owner(left.rows).items():
            order, counts = asked.in_order(owner, left.who[own])
            places[owner] = own[order]
            rows = self._places.rows_of_owner(owner, left.rows[places[owner]])
            requests[owner] = [messages.Finalists(asked.token, counts, narrow(rows))]
        scores = torch.empty(len(left), dtype=torch.float64, device="cpu")
        ids = np.zeros((len(left), ID_BYTES), np.uint8)
        for owner, reply in asked.ask(requests, messages.Canonical).items():
            scores[places[owner]] = torch.from_numpy(reply.scores.copy())
            ids[places[owner].numpy()] = reply.patch_ids
        pairs = Pairs(left.who, left.rows, scores)
        numbers = ranked(ids, pairs, n, k)
        patch_ids = torch.zeros(n, k, ID_BYTES, dtype=torch.uint8, device="cpu")
        there = numbers >= 0
        patch_ids[there] = torch.from_numpy(ids)[numbers[there]]
        return picked(pairs, numbers), patch_ids

    def _values(self, rows: Tensor) -> Tensor:
        """Return the raw patches `(n, k, 4, C)` float32 of rows `(n, k)`."""
        distinct, which = rows.flatten().unique(return_inverse=True)
        places = self._places.by_owner(distinct)
        requests: dict[int, list[messages.Request]] = {
            owner: [messages.Winners(narrow(self._places.rows_of_owner(owner, distinct[own])))]
            for owner, own in places.items()
        }
        replies = {o: reply for o, reply in self._owners.ask(requests).items() if isinstance(reply, messages.Kept)}
        order = torch.cat([places[owner] for owner in replies])
        tensors = [{name: torch.from_numpy(a.copy()) for name, a in r.tensors.items()} for r in replies.values()]
        kept = {name: torch.cat([part[name] for part in tensors]) for name in tensors[0]}
        index = index_of_kept(self._router.tree, kept)
        at = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device="cpu"))
        with parallel_map() as each:
            return read_values(index, at[which].view(rows.shape), each)


def index_of_kept(tree: Tree, kept: dict[str, Tensor]) -> Index:
    """Return an index of patches as `Index.kept` returned them, in one leaf, to read their keys and values."""
    count = len(kept["norms"])
    zero = torch.zeros(1, dtype=torch.int64, device="cpu")
    one_leaf = replace(tree, leaf_node=zero, leaf_shard=zero, leaf_start=zero, leaf_count=torch.full_like(zero, count))
    payload = {name: tensor for name, tensor in kept.items() if name not in ("level", "norms")}
    level = kept["level"]
    ids = torch.zeros(count, 12, dtype=torch.uint8, device="cpu")
    statistics = torch.zeros(1, level.shape[1], device="cpu"), torch.zeros(1, 1, device="cpu")
    return Index(one_leaf, [Shard(payload, ids, kept["norms"], level, *statistics)])
