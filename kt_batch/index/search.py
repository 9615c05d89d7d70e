"""Search an index with the searcher that a configuration names."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kt_batch.config import SearchConfig
from kt_batch.errors import DamagedError, UsageError
from kt_batch.index.collection import Collection, weighted
from kt_batch.index.ids import ID_BYTES
from kt_batch.index.index import Index
from kt_batch.index.searchers.base import Found, Searcher, SearchRequest
from kt_batch.index.searchers.candidates import read_values
from kt_batch.index.searchers.estimates import FEW
from kt_batch.index.searchers.table import SEARCHERS
from kt_batch.index.searchers.tree import TreeSearcher
from kt_batch.index.shards import match_parts
from kt_batch.index.threads import parallel_map
from kt_batch.kernels.haar import haar

PORTION = 1024  # queries whose keys a thread computes at a time


@dataclass(frozen=True)
class Matches:
    """The matches of n queries with all transferred values, independent of the index, on the device of the queries.

    patch_ids: `(n, k, 12)` uint8, best first; on the processor.
    values: the matched raw patches `(n, k, 4, C)` float32, in cells and not bands.
    scores: `(n, k)` float64, the cosine in match space; for `bhkm`, of the bands it reads; of several libraries,
        weighted.
    certified: `(n,)` bool; True where no kept patch has a larger canonical score than the first match.
    libraries: `(n, k)` uint8, the number of the library that each match is from; None for a single index.
    """

    patch_ids: Tensor
    values: Tensor
    scores: Tensor
    certified: Tensor
    libraries: Tensor | None = None


class Search:
    """A searcher opened on an index, for any number of requests. It holds what the searcher builds for the index."""

    def __init__(self, index: Index, config: SearchConfig, searcher: Searcher | None = None) -> None:
        """Open the searcher of a configuration, or take one of this index."""
        self._index = index
        self._top_k = config.top_k
        self._searcher = searcher or SEARCHERS[config.searcher](index, config)

    def find(self, queries: Tensor) -> Found:
        """Return the nearest kept patches of raw query patches, as rows of the index.

        Args:
            queries: `(n, 4, C)` float32.

        Returns:
            k = min(top_k, patches in the index) matches per query, on the device of the index.

        Raises:
            UsageError: A query is not finite.
            DamagedError: A file of the index has changed since it was opened, or its values have no scores.
        """
        return self._find(queries, with_values=False)

    def search(self, queries: Tensor) -> Matches:
        """Return the nearest kept patches of raw query patches `(n, 4, C)` float32: see `find`."""
        device = queries.device
        found = self._find(queries, with_values=True)
        values = found.values
        if values is None:
            with parallel_map() as each:
                values = read_values(self._index, found.rows, each)
        ids = torch.from_numpy(self._index.patch_ids(found.rows.flatten()))
        self._index.check_files()
        moved = (part.to(device) for part in (values, found.scores, found.certified))
        return Matches(ids.view(*found.rows.shape, ID_BYTES), *moved)

    def _find(self, queries: Tensor, with_values: bool) -> Found:
        k, queries = min(self._top_k, self._index.count), queries.to(self._index.device)
        self._index.check_files()
        try:
            found = self._searcher.find(SearchRequest(queries, self._keys(queries), k, with_values))
        finally:
            self._index.check_files()  # what was read meanwhile is not used
        if bool((found.rows < 0).any()) or not bool(found.scores.isfinite().all()):
            raise DamagedError("Some patches of this index are too large or too small to be compared; make it again.")
        return found

    def _keys(self, queries: Tensor) -> Tensor:
        mean = self._index.tree.mean
        with parallel_map() as each:
            return torch.cat(each(lambda part: _query_keys(part, mean), queries.split(PORTION)))


class CollectionSearch:
    """A searcher on each index of a collection; queries are encoded once and searched in each."""

    def __init__(self, collection: Collection, config: SearchConfig) -> None:
        self._weights, self._numbers = collection.weights, collection.numbers
        self._top_k = config.top_k
        self._searches = [
            Search(index, config, _part_of_search(index, config, probes, few) if config.searcher == "tree" else None)
            for index, probes, few in zip(
                collection.indexes, collection.shares(config.probes), collection.shares(FEW), strict=True
            )
        ]

    def search(self, queries: Tensor) -> Matches:
        """Return the matches with the largest weighted scores, as `Search.search` does.

        Equal scores go to the library of the smaller number, and in it to the smaller patch id. A match is certified
        where the search of every index is.
        """
        found = [search.search(queries) for search in self._searches]
        parts = zip(found, self._weights, strict=True)
        scores = torch.cat([weighted(matches.scores, weight) for matches, weight in parts], dim=1)
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, : self._top_k]
        named = zip(found, self._numbers, strict=True)
        numbers = [torch.full_like(matches.scores, number, dtype=torch.uint8) for matches, number in named]
        rows = torch.arange(len(scores), device=scores.device)[:, None]
        return Matches(
            patch_ids=torch.cat([matches.patch_ids for matches in found], dim=1)[rows, order],
            values=torch.cat([matches.values for matches in found], dim=1)[rows, order],
            scores=scores.gather(1, order),
            certified=torch.stack([matches.certified for matches in found]).all(0),
            libraries=torch.cat(numbers, dim=1).gather(1, order),
        )


def _part_of_search(index: Index, config: SearchConfig, probes: int, few: int) -> Searcher:
    """Return the default searcher for one of several indexes, which looks into its share of leaves and patches."""
    return TreeSearcher(index, config.model_copy(update={"probes": probes}), few)


def open_search(index: Index | Collection, config: SearchConfig) -> Search | CollectionSearch:
    """Open a searcher on an index, or one on each of several."""
    return CollectionSearch(index, config) if isinstance(index, Collection) else Search(index, config)


def find(index: Index, queries: Tensor, config: SearchConfig) -> Found:
    """Open a searcher for one request: see `Search.find`."""
    return Search(index, config).find(queries)


def search(index: Index, queries: Tensor, config: SearchConfig) -> Matches:
    """Open a searcher for one request: see `Search.search`."""
    return Search(index, config).search(queries)


def _query_keys(queries: Tensor, mean: Tensor) -> Tensor:
    keys, norms = match_parts(haar(queries), mean)
    if not norms.isfinite().all():
        raise UsageError("A query patch holds NaN, infinity or values too large for float32; it has no nearest patch.")
    return keys
