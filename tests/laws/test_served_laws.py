"""A served search finds, to the last byte, what a search of the whole index finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_batch.config import IndexConfig
from kt_batch.index.index import Index
from kt_batch.index.searchers.base import SearchRequest
from kt_batch.index.searchers.candidates import Best
from kt_batch.index.searchers.estimates import search_fast
from kt_batch.index.served import messages
from kt_batch.index.served.local import LocalOwners
from kt_batch.index.served.messages import distinct_cells
from kt_batch.index.served.owner import Owner
from kt_batch.index.served.router import Router
from kt_batch.index.served.search import ServedSearch
from kt_batch.index.shards import match_parts
from kt_batch.kernels.haar import haar
from tests.laws.test_batching_laws import assert_same, small_rounds
from tests.laws.test_search_laws import channels, configs, made, mixtures, queries_of, seeds

many = settings(max_examples=60, deadline=None)


class MortalOwners(LocalOwners):
    """Owners of which one is lost, and replaced by a new one, before every few questions."""

    def __init__(self, index: Index, shards: list[list[int]], every: int) -> None:
        super().__init__(index, shards)
        self.index, self.every, self.asked, self.lost = index, every, 0, 0

    def ask(self, requests: Mapping[int, Sequence[messages.Request]]) -> dict[int, messages.Reply | None]:
        self.asked += 1
        if self.asked % self.every == 0:
            number = self.lost % len(self.shards)
            own = self.shards[number]
            self.owners[number] = Owner(self.index.tree, own, [self.index.shards[shard] for shard in own])
            self.lost += 1
        return super().ask(requests)


def divided(shards: int, owners: int, seed: int) -> list[list[int]]:
    """Divide shards among at most so many owners; each has some."""
    order = torch.randperm(shards, generator=torch.Generator().manual_seed(seed)).tolist()
    return [sorted(order[number::owners]) for number in range(min(owners, shards))]


def served(owners: LocalOwners, index: Index, request: SearchRequest, probes: int) -> tuple[Best, torch.Tensor]:
    found, ids = ServedSearch(Router.of(index), owners).find(request, probes)
    assert not found.certified.any()
    return Best(found.rows, found.scores, found.values), ids


@many
@given(
    mixtures,
    mixtures,
    channels,
    seeds,
    configs,
    st.integers(1, 6),
    st.sampled_from([1, 2, 5]),
    st.integers(1, 3),
    st.integers(1, 12),
    st.sampled_from([1, 500, 1 << 26]),
    st.sampled_from([3, 4, 1000]),
)
def test_a_served_search_finds_what_a_local_search_finds(
    library: list[tuple[str, int]],
    asking: list[tuple[str, int]],
    width: int,
    seed: int,
    config: IndexConfig,
    shards: int,
    count: int,
    top_k: int,
    probes: int,
    kept: int,
    every: int,
) -> None:
    index = made(library, width, seed, config, shards)
    queries = queries_of(library, asking, width, seed)
    vectors, _ = match_parts(haar(queries), index.tree.mean)
    k = min(top_k, index.count)
    probes = index.leaves_to_probe(probes, k)
    owners = MortalOwners(index, divided(len(index.shards), count, seed), every)
    with small_rounds(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("kt_batch.index.served.search.FIRST_ROUND", 2)
        patch.setattr("kt_batch.index.served.search.KEPT", kept)
        expected = search_fast(index, vectors, k, probes, with_values=True)
        found, ids = served(owners, index, SearchRequest(queries, vectors, k, with_values=True), probes)
    assert_same(found, expected)
    assert ids.flatten(0, 1).equal(torch.from_numpy(index.patch_ids(expected.rows.flatten())))
    assert all(len(owner._held) == 0 for owner in owners.owners)


@many
@given(mixtures, channels, seeds)
def test_patches_are_made_of_their_distinct_cells(asking: list[tuple[str, int]], width: int, seed: int) -> None:
    patches = queries_of(asking, asking, width, seed)
    cells, corners = distinct_cells(patches)
    assert cells[corners].view(torch.int32).equal(patches.view(torch.int32))
    assert len(cells) == len(patches.flatten(0, 1).contiguous().view(torch.int32).unique(dim=0))
