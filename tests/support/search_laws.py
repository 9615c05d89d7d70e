"""Drawn libraries and queries, ordinary and degenerate, for the laws of searches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.config import IndexConfig
from kt_batch.index.index import Index
from kt_batch.index.searchers import estimates, leaf_choice
from kt_batch.index.searchers.candidates import Best
from kt_batch.index.shards import match_parts
from kt_batch.kernels.haar import haar
from tests.support.synthetic import clustered, sharded_index_of

KINDS = ("ordinary", "equal", "brighter", "bent", "flat", "zero", "negative")
Mixture = list[tuple[str, int]]

many = settings(max_examples=60, deadline=None)
# D = 4 and 32 are fewer values than the first level has coordinates, 160 more; patches of 512 are coded.
channels = st.sampled_from([1, 8, 40, 128])
seeds = st.integers(0, 10**6)
mixtures = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 60)), min_size=1, max_size=5)
configs = st.builds(
    IndexConfig,
    match_space=st.sampled_from(["raw", "centred"]),
    max_leaf=st.sampled_from([8, 32]),
    merge=st.sampled_from([0.9, 0.995, 1.0]),
    clusters=st.sampled_from([(), (), (4, 3)]),
    payload=st.sampled_from(["4bit", "5bit"]),
)


@dataclass(frozen=True)
class Case:
    """An index of drawn patches, and queries: some of the library's own patches, and about as many others."""

    library: Mixture
    asking: Mixture
    width: int
    seed: int
    config: IndexConfig
    shards: int

    @cached_property
    def index(self) -> Index:
        return sharded_index_of(patches_of(self.library, self.width, self.seed), self.config, self.shards)

    @cached_property
    def others(self) -> Tensor:
        return patches_of(self.asking, self.width, self.seed + 100)[::3]

    @cached_property
    def queries(self) -> Tensor:
        return torch.cat([self.others, patches_of(self.library, self.width, self.seed)[::5]])

    @cached_property
    def vectors(self) -> Tensor:
        """The keys of the queries."""
        return match_parts(haar(self.queries), self.index.tree.mean)[0]


def cases(most_shards: int) -> st.SearchStrategy[Case]:
    """Draw indexes of 1 to `most_shards` shards, and queries."""
    return st.builds(Case, mixtures, mixtures, channels, seeds, configs, st.integers(1, most_shards))


def patches_of(mixture: Mixture, channels: int, seed: int) -> Tensor:
    """Return patches `(n, 4, channels)`, so many of each kind."""
    parts = []
    for number, (kind, count) in enumerate(mixture):
        base = clustered(count, channels, clusters=7, seed=seed + number)
        brightness = torch.arange(count)[:, None, None] % 30
        match kind:
            case "equal":
                base = base[:1].expand(count, -1, -1)
            case "brighter":  # ties to the last bit: powers of two are exact
                base = base[:1] * 2.0 ** (brightness % 9 - 4)
            case "bent":  # one patch at many brightnesses: equal up to rounding
                base = base[:1] * 1.1**brightness
            case "flat":  # all four cells equal
                base = base[:, :1].expand(-1, 4, -1)
            case "zero":
                base = torch.zeros_like(base)
            case "negative":  # as the codes of an encoder without ReLU
                base = -base
        parts.append(base)
    return torch.cat(parts)


@contextmanager
def small_rounds() -> Iterator[None]:
    """Let the first round look into two leaves, so that an index of few leaves has a second round."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (estimates, leaf_choice):
            patch.setattr(module, "FIRST_ROUND", 2)
        yield


def assert_same(found: Best, expected: Best, where: Tensor | None = None) -> None:
    """Assert that both have the same rows, scores and values; `where` names the queries that were asked."""
    places = torch.arange(len(expected.rows)) if where is None else where
    assert found.rows.equal(expected.rows[places])
    assert found.scores.equal(expected.scores[places])
    assert found.values is not None
    assert expected.values is not None
    assert found.values.equal(expected.values[places])
