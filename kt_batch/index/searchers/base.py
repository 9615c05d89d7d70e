"""The arguments and results of every searcher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class SearchRequest:
    """n queries for the k nearest patches each.

    patches: raw query patches `(n, 4, C)` float32.
    keys: their unit vectors in match space `(n, D)` float32; the key of a zero vector is zero.
    k: matches per query, at most the number of patches in the index.
    with_values: the matched raw patches are wanted too.
    """

    patches: Tensor
    keys: Tensor
    k: int
    with_values: bool = False


@dataclass(frozen=True)
class Found:
    """The matches of n queries as rows of an index.

    rows: `(n, k)` int64, best first.
    scores: `(n, k)` float64, the cosine in match space; for `bhkm`, of the bands it reads.
    certified: `(n,)` bool; True where no kept patch has a larger canonical score than the first match.
    values: the matched raw patches `(n, k, 4, C)` float32, where they were wanted and the search has decoded them.
    """

    rows: Tensor
    scores: Tensor
    certified: Tensor
    values: Tensor | None = None


class Searcher(Protocol):
    """A way of searching one index. It keeps what it builds for the index, and is used for many requests."""

    def find(self, request: SearchRequest) -> Found:
        """Return the matches of a request."""
