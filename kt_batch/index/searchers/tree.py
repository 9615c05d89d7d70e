"""The default searcher, `tree`: estimates in the nearest leaves, or with `certify` a proof over all patches."""

from __future__ import annotations

import torch

from kt_batch.config import SearchConfig
from kt_batch.index.index import Index
from kt_batch.index.searchers.base import Found, SearchRequest
from kt_batch.index.searchers.certified import search_certified
from kt_batch.index.searchers.estimates import FEW, search_fast
from kt_batch.index.searchers.soundness import check_bounds


class TreeSearcher:
    """Searches the `probes` nearest leaves of each query."""

    def __init__(self, index: Index, config: SearchConfig, few: int = FEW) -> None:
        """Take an index, the configuration, and the patches beyond k that a query reads whole."""
        self._index = index
        self._few = few
        self._leaves = config.probes
        self._certify = config.certify
        self._checked = False
        if self._certify:
            self._check_bounds()

    def find(self, request: SearchRequest) -> Found:
        """Return the matches of a request; all of them certified, or none.

        Raises:
            DamagedError: Matches were to be certified, and the index does not allow it.
        """
        leaves = self._index.leaves_to_probe(self._leaves, request.k)
        # Estimates in all leaves cost as much as a proof.
        certify = self._certify or leaves == self._index.tree.leaves
        if certify:
            self._check_bounds()
            best = search_certified(self._index, request.keys, request.k, leaves)
        else:
            best = search_fast(self._index, request.keys, request.k, leaves, request.with_values, self._few)
        certified = torch.full((len(best.rows),), certify, device=best.rows.device)
        return Found(best.rows, best.scores, certified, best.values)

    def _check_bounds(self) -> None:
        """Check once, before the first proof, that its bounds hold."""
        if not self._checked:
            check_bounds(self._index)
            self._checked = True
