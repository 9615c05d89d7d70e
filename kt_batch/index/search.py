"""Search an index with the searcher that a configuration names."""

from __future__ import annotations

import torch
from torch import Tensor

from kt_batch.config import SearchConfig
from kt_batch.errors import UsageError
from kt_batch.index.index import Index
from kt_batch.index.searchers.base import Found, SearchRequest
from kt_batch.index.searchers.table import SEARCHERS
from kt_batch.index.shards import match_parts
from kt_batch.index.threads import parallel_map
from kt_batch.kernels.haar import haar

PORTION = 1024  # queries whose keys a thread computes at a time


class Search:
    """A searcher opened on an index, for any number of requests. It holds what the searcher builds for the index."""

    def __init__(self, index: Index, config: SearchConfig) -> None:
        self._index = index
        self._top_k = config.top_k
        self._searcher = SEARCHERS[config.searcher](index, config)

    def find(self, queries: Tensor) -> Found:
        """Return the nearest kept patches of raw query patches, as rows of the index.

        Args:
            queries: `(n, 4, C)` float32.

        Returns:
            k = min(top_k, patches in the index) matches per query.

        Raises:
            UsageError: A query is not finite.
        """
        k = min(self._top_k, self._index.count)
        return self._searcher.find(SearchRequest(queries, self._keys(queries), k))

    def _keys(self, queries: Tensor) -> Tensor:
        mean = self._index.tree.mean
        with parallel_map() as each:
            return torch.cat(each(lambda part: _query_keys(part, mean), queries.split(PORTION)))


def find(index: Index, queries: Tensor, config: SearchConfig) -> Found:
    """Open a searcher for one request: see `Search.find`."""
    return Search(index, config).find(queries)


def _query_keys(queries: Tensor, mean: Tensor) -> Tensor:
    keys, norms = match_parts(haar(queries), mean)
    if not norms.isfinite().all():
        raise UsageError("A query patch holds NaN, infinity or values too large for float32; it has no nearest patch.")
    return keys
