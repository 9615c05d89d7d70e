"""An owner: it holds some shards of an index, and answers a served search."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

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
from kt_batch.index.threads import Each, parallel_map
from kt_batch.index.tree import Tree
from kt_batch.kernels.fixed_point import rounded_queries
from kt_batch.kernels.haar import haar
from kt_batch.kernels.tiles import canonical_scores
from kt_batch.models.precision import quick_products

HELD = 8  # searches whose queries are held; those of translators that are gone are forgotten
PORTION = 1024  # queries whose keys, or pairs whose canonical scores, a thread computes at a time


@dataclass
class _Held:
    """The queries of one search: keys `(q, D)`, first levels, prepared queries; and the products of the first round."""

    few: int
    vectors: Tensor
    level: Tensor
    prepared_queries: Tensor
    who: Tensor
    leaves: Tensor
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

    def answer(self, request: messages.Request) -> messages.Reply | None:
        """Answer a request; None where none is expected.

        Raises:
            DamagedError: A mapped file has changed.
        """
        self._index.check_files()
        try:
            return self._answer(request)
        finally:
            self._index.check_files()  # what was read meanwhile is not used

    def _answer(self, request: messages.Request) -> messages.Reply | None:
        match request:
            case messages.Queries():
                return self._begin(request)
            case messages.Winners():
                return self._kept(wide(request.rows))
            case messages.Done():
                self._held.pop(request.token, None)
                return None
        held = self._held.get(request.token)
        return messages.Forgotten() if held is None else self._go_on(held, request)

    def _go_on(
        self, held: _Held, request: messages.Thresholds | messages.Further | messages.Finalists
    ) -> messages.Reply:
        match request:
            case messages.Thresholds():
                return self._first(held, torch.from_numpy(request.least.copy()))
            case messages.Further():
                return self._further(held, request)
            case messages.Finalists():
                return self._canonical(held, request)

    def _begin(self, request: messages.Queries) -> messages.Best:
        """Hold the queries, and return the largest estimate of each visit of the first round."""
        cells = torch.from_numpy(request.cells.copy())
        patches = cells[wide(request.corners)]
        mean = self._index.tree.mean
        with parallel_map() as each, quick_products():
            parts = each(lambda some: match_parts(haar(some), mean)[0], patches.split(PORTION))
            vectors = torch.cat(parts) if parts else patches.flatten(1)
            level, prepared = prepare_estimates(self._index, vectors, each)
            who, leaves = items(request.counts), wide(request.leaves)
            held = _Held(request.few, vectors, rounded_queries(level), prepared, who, leaves)
            held.looked = self._look(held, each)
        self._held[request.token] = held
        while len(self._held) > HELD:
            self._held.popitem(last=False)
        best = torch.full((len(leaves),), -torch.inf)
        for products in held.looked:
            best.scatter_reduce_(0, products.visits, products.best.amax(1), "amax")
        return messages.Best(best.numpy())

    def _look(self, held: _Held, each: Each) -> list[Products]:
        """Return the products of the first round."""
        look = partial(products_of, self._index, held.level, held.who)
        return each(look, grouped(self._index, held.leaves))

    def _first(self, held: _Held, threshold: Tensor) -> messages.Candidates:
        """Return the few patches of the first round that reach the threshold `(q,)`; forget its products."""
        with parallel_map() as each, quick_products():
            looked = self._look(held, each) if held.looked is None else held.looked
            held.looked = None
            left = each(lambda products: survivors(products, threshold, held.few), looked)
            return self._scored(held, few_of_each(joined(left), held.few), each)

    def _further(self, held: _Held, request: messages.Further) -> messages.Candidates:
        threshold = torch.from_numpy(request.least.copy())
        who, leaves = items(request.counts), wide(request.leaves)
        with parallel_map() as each, quick_products():
            groups = grouped(self._index, leaves)
            look = partial(products_of, self._index, held.level, who)
            left = each(lambda group: survivors(look(group), threshold, request.few), groups)
            return self._scored(held, few_of_each(joined(left), request.few), each)

    def _scored(self, held: _Held, pairs: Pairs, each: Each) -> messages.Candidates:
        pairs = pairs.at(torch.sort(pairs.who, stable=True).indices)
        scores = scored(self._index, held.prepared_queries, pairs, each).scores
        counts = torch.bincount(pairs.who, minlength=len(held.vectors))
        return messages.Candidates(narrow(counts), narrow(pairs.rows), pairs.scores.numpy(), scores.numpy())

    def _canonical(self, held: _Held, request: messages.Finalists) -> messages.Canonical:
        who, rows = items(request.counts), wide(request.rows)
        scores = torch.empty(len(rows), dtype=torch.float64)

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
    numbers_of = torch.tensor(list(numbers))
    leaves = torch.isin(tree.leaf_shard, numbers_of).nonzero()[:, 0]
    return replace(
        without_nodes(tree),
        leaf_node=tree.leaf_node[leaves],
        leaf_shard=torch.searchsorted(numbers_of, tree.leaf_shard[leaves]),
        leaf_start=tree.leaf_start[leaves],
        leaf_count=tree.leaf_count[leaves],
    )
