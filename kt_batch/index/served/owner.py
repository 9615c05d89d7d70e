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
from kt_batch.index.ordering import stable_order
from kt_batch.index.searchers.candidates import Pairs, few_of_each, joined, scored
from kt_batch.index.searchers.estimates import survivors
from kt_batch.index.searchers.visits import Products, grouped, products_of
from kt_batch.index.served import messages
from kt_batch.index.served.encoding import cells_of, steps_of, twice_vectors
from kt_batch.index.served.messages import items, narrow, wide
from kt_batch.index.served.proofs import Prover
from kt_batch.index.served.router import without_nodes
from kt_batch.index.shards import Shard
from kt_batch.index.threads import parallel_map
from kt_batch.index.tree import Tree
from kt_batch.kernels.fixed_point import STEP
from kt_batch.kernels.tiles import divide_rows
from kt_batch.models.precision import quick_products

HELD = 64  # searches whose queries are held; those of translators that are gone are forgotten first
PORTION = 512  # queries that a thread prepares at a time


@dataclass
class _Held:
    """The queries of one search.

    cells: rounded, `(m, C)` float32.
    level: first levels in fixed point, `(q, d + 1)` float32.
    prepared_queries: rounded queries times a length each, as `Index.products` takes them, `(q, a)` and room for more.
    lengths: these, `(q,)`.
    few: patches of each query that are read whole in the first round, at most.
    looked: the products of the first round, until they are looked through.
    """

    cells: Tensor
    level: Tensor
    prepared_queries: Tensor
    lengths: Tensor
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
        held: int = HELD,
    ) -> None:
        """Take the shards with `numbers`, ascending, of an index; `files` and `read_soon` as in `Index`.

        `held` is how many searches may be under way at a time.
        """
        self._index = Index(part_of_tree(tree, numbers), shards, files, read_soon)
        self._prover = Prover(self._index)
        self._most = held
        self._held: OrderedDict[str, _Held] = OrderedDict()

    @property
    def index(self) -> Index:
        """The index of its shards."""
        return self._index

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
            case messages.Finalists():
                return self._kept(wide(request.rows))
            case messages.Proof():
                return self._prover.prove(request)
            case messages.Done():
                self._held.pop(request.token, None)
                return None
        held = self._held.get(request.token)
        if held is None:
            return messages.Forgotten()
        self._held.move_to_end(request.token)
        return self._go_on(held, request)

    def _go_on(self, held: _Held, request: messages.OfHeld) -> messages.Reply | None:
        match request:
            case messages.Visits():
                return self._visit(held, request)
            case messages.Thresholds():
                return self._first(held, torch.from_numpy(request.least.copy()))
            case messages.Further():
                return self._further(held, request)

    def _hold(self, request: messages.Queries) -> None:
        """Hold further queries of a search."""
        held = self._held.get(request.token)
        if (0 if held is None else len(held.level)) != request.before:
            return
        last_bits = torch.from_numpy(request.last_bits.copy())
        if held is None:
            held = self._held[request.token] = self._none_held(request.most)
        cells = cells_of(torch.from_numpy(request.cells.copy()), torch.from_numpy(request.scales.copy()))
        held.cells = torch.cat([held.cells, cells])
        room = held.prepared_queries[request.before :].split(PORTION)
        parts = zip(wide(request.corners).view(-1, 4).split(PORTION), last_bits.split(PORTION), room, strict=False)
        with parallel_map() as each, quick_products():
            prepared = each(lambda part: self._prepare(held.cells, *part), parts)
        level, lengths = (torch.cat(part) for part in zip(*prepared, strict=True))
        level[:, -1] = torch.from_numpy(request.rests.astype(np.float32))
        level[wide(request.far)] = torch.from_numpy(request.levels.astype(np.float32))
        held.level, held.lengths = torch.cat([held.level, level.mul_(STEP)]), torch.cat([held.lengths, lengths])
        while len(self._held) > self._most:
            self._held.popitem(last=False)

    def _none_held(self, most: int) -> _Held:
        """Return room for so many queries; memory is taken where it is written."""
        index = self._index
        return _Held(
            cells=torch.empty(0, index.channels, device="cpu"),
            level=torch.empty(0, index.tree.directions.shape[1] + 1, device="cpu"),
            prepared_queries=torch.empty(most, index.query_width, device="cpu"),
            lengths=torch.empty(0, device="cpu"),
        )

    def _prepare(self, cells: Tensor, corners: Tensor, last_bits: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
        """Prepare queries with `corners` `(n, 4)` in `room`; return first levels in steps but for rests, lengths."""
        vectors = twice_vectors(cells, corners, self._index.tree.mean)
        lengths = vectors.norm(dim=1)
        coordinates = self._index.prepare_quickly(vectors, room[: len(vectors)])
        level = torch.empty(len(corners), coordinates.shape[1] + 1, device="cpu")
        level[:, :-1] = steps_of(divide_rows(coordinates, lengths), last_bits)
        return level, lengths

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
        pairs = pairs.at(stable_order(pairs.who, len(held.level)))
        with parallel_map() as each, quick_products():
            scores = scored(self._index, held.prepared_queries, pairs, each).scores
        scores = divide_rows(scores[:, None], held.lengths[pairs.who])[:, 0].nan_to_num_(0, 0, 0).clamp_(-2, 2)
        counts = torch.bincount(pairs.who, minlength=len(held.level))
        steps = (scores / messages.SCORE).round_().clamp_(max=32767).short().numpy()
        return messages.Candidates(narrow(counts), narrow(pairs.rows), pairs.scores.numpy(), steps)

    def _kept(self, rows: Tensor) -> messages.Kept:
        tensors = {name: tensor.numpy() for name, tensor in self._index.kept(rows).items()}
        return messages.Kept(tensors, self._index.patch_ids(rows))


def part_of_tree(tree: Tree, numbers: Sequence[int]) -> Tree:
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
