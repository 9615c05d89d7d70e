"""Search several libraries, each with the queries of its own regions, and never with those of others."""

from __future__ import annotations

import torch
from torch import Tensor

from kt_batch.config import SearchConfig
from kt_batch.errors import UsageError
from kt_batch.index.collection import Collection, by_number, deviation_of, nothing_of
from kt_batch.index.index import Index
from kt_batch.index.search import Matches, open_search
from kt_batch.index.served.index import ServedIndex


class RegionSearch:
    """A search of each library of a run; a query names its library by number.

    A library is searched as it is alone, with all probes.
    """

    def __init__(self, index: Index | Collection | ServedIndex, config: SearchConfig) -> None:
        """Take the indexes, and the configuration of the search in each.

        Raises:
            UsageError: The search is none of this index.
        """
        named = by_number(index)
        self._searches = {number: open_search(each, config) for number, each in named.items()}
        self._deviations = {number: deviation_of(each) for number, each in named.items()}
        self._several = isinstance(index, Collection)

    def search(self, queries: Tensor, libraries: Tensor) -> Matches:
        """Return the nearest kept patches of raw query patches in the library of each.

        Args:
            queries: `(n, 4, C)` float32.
            libraries: `(n,)` int64, the number of the library of each, on the device of the queries.

        Returns:
            As many matches for each query as the smallest library that is asked has patches, and at most top_k. A match
            is certified where no patch of its own library has a larger score.

        Raises:
            UsageError: A query is not finite, or takes a library without an allowed patch.
            DamagedError: A file of an index has changed since it was opened, or its values have no scores.
        """
        parts: list[tuple[Tensor, Matches]] = []
        for number in torch.unique(libraries).tolist():
            if number not in self._searches:
                raise UsageError(nothing_of(number))
            places = (libraries == number).nonzero()[:, 0]
            parts.append((places, self._searches[number].search(queries[places])))
        k = min(found.scores.shape[1] for _, found in parts)
        order = torch.cat([places for places, _ in parts]).argsort()

        def joined(name: str) -> Tensor:
            columns = torch.cat([getattr(found, name)[:, :k] for _, found in parts])
            return columns[order.to(columns.device)]

        certified = torch.cat([found.certified for _, found in parts])[order]
        numbers = libraries.cpu().to(torch.uint8)[:, None].expand(-1, k) if self._several else None
        return Matches(joined("patch_ids"), joined("values"), joined("scores"), certified, numbers)

    def deviations(self, libraries: Tensor) -> Tensor:
        """Return the mean standard deviation of patches `(n, C)` float32 of the library of each of n queries."""
        found = {number: self._deviations[number].to(libraries.device) for number in torch.unique(libraries).tolist()}
        deviations = torch.empty(len(libraries), len(next(iter(found.values()))), device=libraries.device)
        for number, deviation in found.items():
            deviations[libraries == number] = deviation
        return deviations
