"""Search an index with the searcher that a configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

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
from kt_batch.index.searchers.several import Part, search_several
from kt_batch.index.searchers.table import SEARCHERS
from kt_batch.index.searchers.tree import TreeSearcher
from kt_batch.index.served.index import ServedIndex
from kt_batch.index.served.search import ServedSearch
from kt_batch.index.served.together import SearchesTogether
from kt_batch.index.shards import match_parts
from kt_batch.index.threads import parallel_map
from kt_batch.index.turns import Turns
from kt_batch.kernels.haar import haar

PORTION = 1024  # queries whose keys a thread computes at a time
CALLERS = 4  # threads that may search several indexes at a time, so that owners get their queries in one call


@dataclass(frozen=True)
class Matches:
    """The matches of n queries with all transferred values, independent of the index, on the device of the queries.

    patch_ids: `(n, k, 12)` uint8, best first; on the processor.
    values: the matched raw patches `(n, k, 4, C)` float32, in cells and not bands.
    scores: `(n, k)` float64, the cosine in match space; for `bhkm`, of the bands it reads; of several libraries,
        weighted.
    certified: `(n,)` bool; True where no kept patch has a larger canonical score than the first match.
    libraries: `(n, k)` uint8, the number of the library that each match is from; on the processor. None for a single
        index.
    """

    patch_ids: Tensor
    values: Tensor
    scores: Tensor
    certified: Tensor
    libraries: Tensor | None = None

    def part(self, some: slice) -> Matches:
        """Return the matches of some of the queries."""
        libraries = None if self.libraries is None else self.libraries[some]
        return Matches(self.patch_ids[some], self.values[some], self.scores[some], self.certified[some], libraries)


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
        _check_found(found)
        return found

    def _keys(self, queries: Tensor) -> Tensor:
        return _keys_of(queries, self._index.tree.mean)


class OwnersSearch:
    """A search of an index whose owners hold its patches; it finds what `Search` finds in the whole index."""

    def __init__(self, index: ServedIndex, config: SearchConfig, few: int = FEW) -> None:
        """Take an index, the configuration of a search, and the patches beyond k that a query reads whole.

        Raises:
            UsageError: The search is none that owners do (`check_served`).
        """
        check_served(config)
        self._index, self._config = index, config
        self._served = ServedSearch(index.router, index.owners, few)
        self._together = SearchesTogether(self._search, Matches.part)

    def search(self, queries: Tensor) -> Matches:
        """Return the nearest kept patches of raw query patches `(n, 4, C)` float32, as `Search.search` does.

        Raises:
            UsageError: A query is not finite.
            DamagedError: A file of the index has changed since it was opened, or its values have no scores.
        """
        return self._together(queries)

    def _search(self, queries: Tensor) -> Matches:
        here, device = queries.cpu(), queries.device
        k = min(self._config.top_k, self._index.count)
        probes = self._index.router.leaves_to_probe(self._config.probes, k)
        self._index.check_files()
        if len(here) == 0:  # owners are not asked about nothing
            ids = torch.empty(0, k, ID_BYTES, dtype=torch.uint8, device="cpu")
            scores = torch.empty(0, k, dtype=torch.float64, device=device)
            values = torch.empty(0, k, 4, self._index.channels, device=device)
            return Matches(ids, values, scores, torch.empty(0, dtype=torch.bool, device=device))
        keys = _keys_of(here, self._index.tree.mean)
        certify = self._config.certify or probes == self._index.tree.leaves  # as `TreeSearcher` does
        search = self._served.prove if certify else self._served.find
        found, patch_ids = search(SearchRequest(here, keys, k, with_values=True), probes)
        self._index.check_files()
        _check_found(found)
        moved = (part.to(device) for part in (cast(Tensor, found.values), found.scores, found.certified))
        return Matches(patch_ids, *moved)


def check_served(config: SearchConfig) -> None:
    """Raise UsageError for a search that owners of an index do not do."""
    if config.searcher != "tree":
        raise UsageError(
            f"--searcher {config.searcher} needs the whole index in one process; an index that is shared among "
            "processes (--index-memory) is searched by --searcher tree."
        )


def _check_found(found: Found) -> None:
    if bool((found.rows < 0).any()) or not bool(found.scores.isfinite().all()):
        raise _not_comparable()


def _not_comparable() -> DamagedError:
    return DamagedError("Some patches of this index are too large or too small to be compared; make it again.")


def _keys_of(queries: Tensor, mean: Tensor) -> Tensor:
    with parallel_map() as each:
        return torch.cat(each(lambda part: _query_keys(part, mean), queries.split(PORTION)))


class CollectionSearch:
    """A searcher on each index of a collection; queries are encoded once and searched in each.

    Owners of several indexes work at the same time, and beside the search of those that are open here.
    """

    def __init__(self, collection: Collection, config: SearchConfig) -> None:
        self._weights, self._numbers = collection.weights, collection.numbers
        self._top_k = config.top_k
        self._together = _shares_together(collection, config)
        self._searches = [
            _search_of_several(index, config, probes, few)
            for index, probes, few in zip(
                collection.indexes, collection.shares(config.probes), collection.shares(FEW), strict=True
            )
        ]
        served = any(isinstance(search, OwnersSearch) for search in self._searches)
        several = served and len(self._searches) > 1
        self._turns = Turns(CALLERS * len(self._searches)) if several else None

    def search(self, queries: Tensor) -> Matches:
        """Return the matches with the largest weighted scores, as `Search.search` does.

        Equal scores go to the library of the smaller number, and in it to the smaller patch id. A match is certified
        where the search of every index is.
        """
        if self._together:
            found = _search_together(self._together, queries, self._top_k)
        elif self._turns:
            found = self._turns.each([partial(search.search, queries) for search in self._searches])
        else:
            found = [search.search(queries) for search in self._searches]
        parts = zip(found, self._weights, strict=True)
        scores = torch.cat([weighted(matches.scores, weight) for matches, weight in parts], dim=1)
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, : self._top_k]
        if not scores.gather(1, order).isfinite().all():
            raise _not_comparable()
        return _picked(found, order, scores.gather(1, order), self._numbers)


def _picked(found: Sequence[Matches], order: Tensor, scores: Tensor, numbers: Sequence[int]) -> Matches:
    """Return the matches in the columns `order` `(n, k)` of those of several libraries with `numbers`."""
    values = found[0].values.new_empty(*order.shape, *found[0].values.shape[2:])  # the only large part: copied once
    patch_ids = found[0].patch_ids.new_empty(*order.shape, ID_BYTES)
    libraries = torch.empty(order.shape, dtype=torch.uint8, device="cpu")
    first = 0
    for matches, number in zip(found, numbers, strict=True):
        columns = matches.scores.shape[1]
        query, rank = ((order >= first) & (order < first + columns)).nonzero().unbind(1)
        column = order[query, rank] - first
        values[query, rank] = matches.values[query, column]
        query, rank, column = query.cpu(), rank.cpu(), column.cpu()
        patch_ids[query, rank], libraries[query, rank] = matches.patch_ids[query, column], number
        first += columns
    certified = torch.stack([matches.certified for matches in found]).all(0)
    return Matches(patch_ids, values, scores, certified, libraries)


@dataclass(frozen=True)
class _Share:
    """One of several indexes that are searched, with its leaves a query, its patches beyond k, and its weight."""

    index: Index
    probes: int
    few: int
    weight: float


def _shares_together(collection: Collection, config: SearchConfig) -> list[_Share]:
    """Return the shares of indexes that are searched by estimates on one device; none where some are searched else."""
    found = []
    several = zip(
        collection.indexes,
        collection.shares(config.probes),
        collection.shares(FEW),
        collection.weights,
        strict=True,
    )
    for index, wanted, few, weight in several:
        if not isinstance(index, Index):
            return []
        probes = index.leaves_to_probe(wanted, min(config.top_k, index.count))
        if probes == index.tree.leaves or config.searcher != "tree" or config.certify:
            return []
        found.append(_Share(index, probes, few, weight))
    return found if len({share.index.device for share in found}) == 1 else []


def _search_together(shares: Sequence[_Share], queries: Tensor, k: int) -> list[Matches]:
    """Return the matches in each index that may be among the k best of all; the scores of others are -inf."""
    device, here = queries.device, queries.to(shares[0].index.device)
    for share in shares:
        share.index.check_files()
    keys: list[Tensor] = []
    for number, share in enumerate(shares):  # raw patches have the same keys in all
        alike = [keys[n] for n in range(number) if shares[n].index.tree.mean.equal(share.index.tree.mean)]
        keys.append(alike[0] if alike else _keys_of(here, share.index.tree.mean))
    parts = zip(shares, keys, strict=True)
    best = search_several([Part(each.index, own, each.probes, each.few, each.weight) for each, own in parts], k)
    ids = [
        torch.from_numpy(s.index.patch_ids(b.rows.flatten().clamp(min=0))) for s, b in zip(shares, best, strict=True)
    ]
    for share in shares:
        share.index.check_files()  # what was read meanwhile is not used
    return [
        Matches(
            own.view(*found.rows.shape, ID_BYTES),
            cast(Tensor, found.values).to(device),
            found.scores.to(device),
            torch.zeros(len(here), dtype=torch.bool, device=device),
        )
        for found, own in zip(best, ids, strict=True)
    ]


def _search_of_several(
    index: Index | ServedIndex, config: SearchConfig, probes: int, few: int
) -> Search | OwnersSearch:
    """Return the search of one of several indexes; the default searcher looks into its share of leaves and patches."""
    if config.searcher != "tree":
        return Search(index, config) if isinstance(index, Index) else OwnersSearch(index, config)
    own = config.model_copy(update={"probes": probes})
    if isinstance(index, ServedIndex):
        return OwnersSearch(index, own, few)
    return Search(index, config, TreeSearcher(index, own, few))


def open_search(
    index: Index | Collection | ServedIndex, config: SearchConfig
) -> Search | CollectionSearch | OwnersSearch:
    """Open a searcher on an index, one on each of several, or one that asks the owners of an index."""
    if isinstance(index, ServedIndex):
        return OwnersSearch(index, config)
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
