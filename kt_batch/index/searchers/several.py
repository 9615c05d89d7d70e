"""Search by estimates in several indexes: only candidates that may be among the best of all get canonical scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from kt_batch.index.collection import weighted
from kt_batch.index.index import Index
from kt_batch.index.searchers.candidates import Best, Pairs, canonically_best, joined, kth_best
from kt_batch.index.searchers.estimates import candidates
from kt_batch.index.threads import parallel_map
from kt_batch.kernels.bounds import rounding_slack
from kt_batch.models.precision import quick_products


@dataclass(frozen=True)
class Part:
    """One of several indexes.

    keys: of the queries, `(n, D)` float32.
    probes: leaves of each query.
    few: patches beyond k that a query reads whole.
    weight: times which its scores count.
    """

    index: Index
    keys: Tensor
    probes: int
    few: int
    weight: float


def search_several(parts: Sequence[Part], k: int) -> list[Best]:
    """Return what `search_fast` finds in each index, with values, of what may be among the k best of all.

    The rows of other matches are -1, and their scores -inf. Scores are not weighted. An index with fewer than k patches
    has as many matches.
    """
    with parallel_map() as each, quick_products(parts[0].index.device.type):
        known = [
            candidates(part.index, part.keys, min(k, part.index.count), part.probes, part.few, each) for part in parts
        ]
        found = zip(parts, near_best(parts, known, k), strict=True)
        return [
            canonically_best(part.index, part.keys, pairs, min(k, part.index.count), each, with_values=True)
            for part, pairs in found
        ]


def near_best(parts: Sequence[Part], known: Sequence[Pairs], k: int) -> list[Pairs]:
    """Return the candidates of each index that may be among the k best of all by weighted canonical scores."""
    slack = 2 * rounding_slack(parts[0].keys.shape[1])
    both = list(zip(parts, known, strict=True))
    least = kth_best(joined([_moved(pairs, -slack, part.weight) for part, pairs in both]), len(parts[0].keys), k)
    return [pairs.at(_moved(pairs, slack, part.weight).scores >= least[pairs.who]) for part, pairs in both]


def _moved(pairs: Pairs, by: float, weight: float) -> Pairs:
    return replace(pairs, scores=weighted(pairs.scores + by, weight))
