"""An owner: it holds some shards of an index, and answers a served search."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from kt_batch.index.index import Index, Mapped
from kt_batch.index.searchers.candidates import Pairs, few_of_each, joined, scored
from kt_batch.index.searchers.estimates import prepare_estimates, survivors
from kt_batch.index.searchers.visits import Products, grouped, products_of
from kt_batch.index.served import messages
from kt_batch.index.served.messages import items, narrow, wide
from kt_batch.index.served.router import without_nodes
from kt_batch.index.shards import Shard, match_parts
from kt_batch.index.threads import parallel_map
from kt_batch.index.tree import Tree
from kt_batch.kernels.fixed_point import STEP
from kt_batch.kernels.haar import haar
from kt_batch.kernels.tiles import canonical_scores
from kt_batch.models.precision import quick_products

HELD = 8  # searches whose queries are held; those of translators that are gone are forgotten
PORTION = 1024  # queries whose keys, or pairs whose canonical scores, a thread computes at a time


@dataclass
class _Held:
    """The queries of one search.

    level: first levels in fixed point, `(q, d + 1)` float32.
    place: where the patch of each query is among those that have arrived, `(q,)`; -1 where it has not.
    vectors, prepared_queries: their keys, and as `Index.products` takes them.
    few: patches of each query that may be read whole in the first round.
    looked: the products of the first round, until they are looked through.
    """

    level: Tensor
    place: Tensor
    vectors: Tensor
    prepared_queries: Tensor
    few: int = 0
    looked: list[Products] | None = None


class Owner:
    """Some shards of an index, as an index of their own. Its rows and leaves are numbered from 0."""

    def __init__(
        self,
        tree: Tree,
        numbers: Sequence[int],
        shards: Sequence[Shard],
        files: Sequence[Mapped] = (),
        read_soon: Callable[[Tensor], None] | None = None,
    ) -> None:
        """Take the shards with `numbers`, ascending, of an index; `files` and `read_soon` as in `Index`."""
        self._index = Index(_part(tree, numbers), shards, files, read_soon)
        self._held: OrderedDict[str, _Held] = OrderedDict()

    def answer(self, requests: Sequence[messages.Request]) -> messages.Reply | None:
        """Answer the last of some requests, after the others; None where no answer is expected.

        Raises:
            DamagedError: A mapped file has changed.
        """
        self._index.check_files()
        try:
            return [self._answer(request) for request in requests][-1]
        finally:
            self._index.check_files()  # what was read meanwhile is not used

    def _answer(self, request: messages.Request) -> messages.Reply | None:
        match request:
            case messages.Queries():
                self._hold(request)
                return None
            case messages.Winners():
                return self._kept(wide(request.rows))
            case messages.Done():
                self._held.pop(request.token, None)
                return None
        held = self._held.get(request.token)
        return messages.Forgotten() if held is None else self._go_on(held, request)

    def _go_on(self, held: _Held, request: messages.OfHeld) -> messages.Reply | None:
        match request:
            case messages.Patches():
                self._arrive(held, request)
                return None
            case messages.Visits():
                return self._visit(held, request)
            case messages.Thresholds():
                return self._first(held, torch.from_numpy(request.least.copy()))
            case messages.Further():
                return self._further(held, request)
            case messages.Whole():
                return self._whole(held, request)
            case messages.Finalists():
                return self._canonical(held, request)

    def _hold(self, request: messages.Queries) -> None:
        """Hold further queries of a search."""
        level = torch.from_numpy(request.levels.astype(np.float32)).mul_(STEP)
        place = torch.full((len(level),), -1, device="cpu")
        held = self._held.get(request.token)
        if (0 if held is None else len(held.level)) != request.before:
            return
        if held is None:
            none = torch.empty(0, device="cpu")
            self._held[request.token] = _Held(level, place, none, none)
        else:
            held.level, held.place = torch.cat([held.level, level]), torch.cat([held.place, place])
        while len(self._held) > HELD:
            self._held.popitem(last=False)

    def _visit(self, held: _Held, request: messages.Visits) -> messages.Best:
        """Return the largest estimate of each visit of the first round."""
        who, leaves = items(request.counts), wide(request.leaves)
        look = partial(products_of, self._index, held.level, who)
        with parallel_map() as each, quick_products():
            held.looked = each(look, grouped(self._index, leaves))
        held.few = request.few
        best = torch.full((len(leaves),), -torch.inf, device="cpu")
        for products in held.looked:
            best.scatter_reduce_(0, products.visits, products.best.amax(1), "amax")
        return messages.Best(best.numpy())

    def _arrive(self, held: _Held, request: messages.Patches) -> None:
        """Hold the patches of some queries."""
        patches = torch.from_numpy(request.cells.copy())[wide(request.corners)]
        mean = self._index.tree.mean
        with parallel_map() as each, quick_products():
            vectors = torch.cat(each(lambda some: match_parts(haar(some), mean)[0], patches.split(PORTION)))
            _, prepared = prepare_estimates(self._index, vectors, each)
        here = int(held.place.max()) + 1
        held.place[wide(request.who)] = torch.arange(here, here + len(vectors), device="cpu")
        held.vectors = torch.cat([held.vectors, vectors]) if here else vectors
        held.prepared_queries = torch.cat([held.prepared_queries, prepared]) if here else prepared

    def _first(self, held: _Held, threshold: Tensor) -> messages.Candidates | messages.Forgotten:
        """Return the few patches of the first round that reach the threshold `(q,)`; forget its products."""
        if held.looked is None:
            return messages.Forgotten()
        looked, held.looked = held.looked, None
        with parallel_map() as each:
            left = each(lambda products: survivors(products, threshold, held.few), looked)
        return self._candidates(held, few_of_each(joined(left), held.few))

    def _further(self, held: _Held, request: messages.Further) -> messages.Candidates:
        threshold = torch.from_numpy(request.least.copy())
        who, leaves = items(request.counts), wide(request.leaves)
        with parallel_map() as each, quick_products():
            groups = grouped(self._index, leaves)
            look = partial(products_of, self._index, held.level, who)
            left = each(lambda group: survivors(look(group), threshold, request.few), groups)
        return self._candidates(held, few_of_each(joined(left), request.few))

    def _candidates(self, held: _Held, pairs: Pairs) -> messages.Candidates:
        pairs = pairs.at(torch.sort(pairs.who, stable=True).indices)
        counts = torch.bincount(pairs.who, minlength=len(held.level))
        return messages.Candidates(narrow(counts), narrow(pairs.rows), pairs.scores.numpy())

    def _whole(self, held: _Held, request: messages.Whole) -> messages.Scores:
        who, rows = held.place[items(request.counts)], wide(request.rows)
        with parallel_map() as each, quick_products():
            pairs = scored(
                self._index, held.prepared_queries, Pairs(who, rows, torch.empty(len(rows), device="cpu")), each
            )
        return messages.Scores(pairs.scores.numpy())

    def _canonical(self, held: _Held, request: messages.Finalists) -> messages.Canonical:
        who, rows = held.place[items(request.counts)], wide(request.rows)
        scores = torch.empty(len(rows), dtype=torch.float64, device="cpu")

        def score(part: Tensor) -> None:
            distinct, which = rows[part].unique_consecutive(return_inverse=True)
            keys = self._index.keys(distinct).index_select(0, which)
            scores[part] = canonical_scores(held.vectors.index_select(0, who[part]), keys)

        with parallel_map() as each, quick_products():
            each(score, torch.sort(rows, stable=True).indices.split(PORTION))
        return messages.Canonical(scores.numpy(), self._index.patch_ids(rows))

    def _kept(self, rows: Tensor) -> messages.Kept:
        return messages.Kept({name: tensor.numpy() for name, tensor in self._index.kept(rows).items()})


def _part(tree: Tree, numbers: Sequence[int]) -> Tree:
    """Return the leaves of the shards with `numbers` as a tree without nodes, whose shards are numbered from 0."""
    numbers_of = torch.tensor(list(numbers), device="cpu")
    leaves = torch.isin(tree.leaf_shard, numbers_of).nonzero()[:, 0]
    return replace(
        without_nodes(tree),
        leaf_node=tree.leaf_node[leaves],
        leaf_shard=torch.searchsorted(numbers_of, tree.leaf_shard[leaves]),
        leaf_start=tree.leaf_start[leaves],
        leaf_count=tree.leaf_count[leaves],
    )
