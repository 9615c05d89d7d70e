"""Certified matches of an index that owners hold: each proves its own part, and the best of all parts are the best.

An owner proves its matches as a search of a whole index does (`searchers.certified`). One message to each owner.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from kt_batch.index.index import Index
from kt_batch.index.searchers.candidates import Pairs, joined
from kt_batch.index.searchers.certified import search_certified
from kt_batch.index.searchers.soundness import check_bounds
from kt_batch.index.served.asked import AnyReply
from kt_batch.index.served.encoding import distinct_cells
from kt_batch.index.served.messages import Proof, Proved, narrow, wide
from kt_batch.index.served.places import Places
from kt_batch.index.shards import match_parts
from kt_batch.index.threads import parallel_map
from kt_batch.kernels.haar import haar

PROVED = 16384  # queries of a message; more would be faster, and their patches take memory at every owner
PORTION = 1024  # queries whose keys a thread computes at a time


class Prover:
    """Proves the matches of queries in the patches of an owner."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._checked = False

    def prove(self, request: Proof) -> Proved:
        """Return the best of all patches of the owner.

        Raises:
            DamagedError: The index does not allow a proof (`check_bounds`).
        """
        if not self._checked:
            check_bounds(self._index)
            self._checked = True
        cells, corners = torch.from_numpy(request.cells.copy()), torch.from_numpy(request.corners.copy())
        with parallel_map() as each:
            keys = torch.cat(each(lambda some: self._keys(cells, some), corners.split(PORTION)))
        k = min(request.k, self._index.count)
        probes = self._index.leaves_to_probe(request.probes, k)
        best = search_certified(self._index, keys, k, probes)
        return Proved(narrow(best.rows.flatten()), best.scores.numpy())

    def _keys(self, cells: Tensor, corners: Tensor) -> Tensor:
        return match_parts(haar(cells[corners]), self._index.tree.mean)[0]


def proof_of(patches: Tensor, k: int, probes: int) -> Proof:
    """Return the message that asks for the k best of all patches, of queries `(n, 4, C)`."""
    cells, corners = distinct_cells(patches)
    return Proof(cells.numpy(), corners.view(-1, 4).int().numpy(), k, probes)


def best_of_owners(replies: Mapping[int, AnyReply | None], places: Places, k: int) -> Pairs:
    """Return the k best of what all owners have proved for each query, and all that are as good as the last of them."""
    found = {owner: reply for owner, reply in replies.items() if isinstance(reply, Proved)}
    scores = torch.from_numpy(np.concatenate([reply.scores for reply in found.values()], axis=1))
    last = scores.topk(k, dim=1).values[:, -1:]
    parts = []
    for owner, reply in found.items():
        own = torch.from_numpy(reply.scores.copy())
        who, rank = (own >= last).nonzero().unbind(1)
        rows = places.rows_of_index(owner, wide(reply.rows).view(own.shape)[who, rank])
        parts.append(Pairs(who, rows, own[who, rank].float()))
    return joined(parts)
