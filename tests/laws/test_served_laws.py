"""A served search finds, to the last byte, what a search of the whole index finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_batch.config import IndexConfig, SearchConfig
from kt_batch.index.ids import pack_ids
from kt_batch.index.index import Index
from kt_batch.index.restricted import index_of_images, mean_leaf
from kt_batch.index.search import open_search
from kt_batch.index.searchers.base import SearchRequest
from kt_batch.index.searchers.candidates import Best
from kt_batch.index.searchers.estimates import search_fast
from kt_batch.index.served.asked import AnyReply, AnyRequest
from kt_batch.index.served.encoding import cells_of, distinct_cells, encoded, steps_of
from kt_batch.index.served.filtered import allowed_by, open_filtered
from kt_batch.index.served.image_messages import CountAllowed
from kt_batch.index.served.index import ServedIndex
from kt_batch.index.served.local import LocalOwners
from kt_batch.index.served.messages import length, narrow, wide
from kt_batch.index.served.router import Router
from kt_batch.index.served.search import ServedSearch
from kt_batch.index.shards import match_parts
from kt_batch.kernels.bounds import rounding_slack
from kt_batch.kernels.fixed_point import STEP, rounded_queries
from kt_batch.kernels.haar import haar
from kt_batch.kernels.principal import first_level
from tests.support.search_laws import (
    Case,
    Mixture,
    assert_same,
    cases,
    channels,
    many,
    mixtures,
    patches_of,
    seeds,
    small_rounds,
)
from tests.support.synthetic import clustered, sharded_index_of


class MortalOwners(LocalOwners):
    """Owners of which one is lost before every few questions, and replaced by a new one.

    With `replicas`, it is replaced by another one that knows what it was asked earlier, and comes back later.
    """

    def __init__(
        self, index: Index, shards: list[list[int]], every: int, *, filtered: bool = False, replicas: bool = False
    ) -> None:
        super().__init__(index, shards, filtered=filtered)
        self.every, self.asked, self.lost = every, 0, 0
        self.others = [self.new_owner(number) for number in range(len(shards))] if replicas else None

    def ask(self, requests: Mapping[int, Sequence[AnyRequest]]) -> dict[int, AnyReply | None]:
        self.asked += 1
        if self.asked % self.every == 0:
            number = self.lost % len(self.shards)
            lost, self.owners[number] = self.owners[number], self.new_owner(number)
            if self.others:
                self.owners[number], self.others[number] = self.others[number], lost
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
    cases(6),
    st.sampled_from([1, 2, 5]),
    st.integers(1, 3),
    st.integers(1, 12),
    st.sampled_from([1, 500, 1 << 26]),
    st.sampled_from([1, 3, 4, 1000]),
    st.booleans(),
)
def test_a_served_search_finds_what_a_local_search_finds(
    case: Case,
    count: int,
    top_k: int,
    probes: int,
    kept: int,
    every: int,
    replicas: bool,
) -> None:
    index, queries, vectors = case.index, case.queries, case.vectors
    k = min(top_k, index.count)
    probes = index.leaves_to_probe(probes, k)
    every = max(every, 2 if replicas else 3)  # one whose every successor is lost before it answers never answers
    owners = MortalOwners(index, divided(len(index.shards), count, case.seed), every, replicas=replicas)
    with small_rounds(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("kt_batch.index.served.search.FIRST_ROUND", 2)
        patch.setattr("kt_batch.index.served.search.KEPT", kept)
        expected = search_fast(index, vectors, k, probes, with_values=True)
        found, ids = served(owners, index, SearchRequest(queries, vectors, k, with_values=True), probes)
    assert_same(found, expected)
    assert ids.flatten(0, 1).equal(torch.from_numpy(index.patch_ids(expected.rows.flatten())))
    holding = [owner._owner for owner in owners.owners if owner._owner]
    assert replicas or all(len(owner._held) == 0 for owner in holding)
    assert not any("statistics" in vars(owner.index) for owner in holding)  # an owner chooses no leaves


@settings(max_examples=25, deadline=None)
@given(
    cases(6),
    st.integers(1, 120),
    st.sampled_from([1, 3]),
    st.sampled_from([(2, 1), (6, 3), (1, 2)]),
    st.sampled_from([3, 1000]),
)
def test_what_owners_find_in_allowed_images_is_what_one_process_finds_in_them(
    case: Case, image: int, count: int, asked: tuple[int, int], every: int
) -> None:
    total = sum(each for _, each in case.library)
    place = torch.randperm(total, generator=torch.Generator().manual_seed(case.seed)).numpy()
    ids = np.concatenate(
        [pack_ids(f"{number // image:016x}", place[number:][:1], place[:1]) for number in range(total)]
    )
    cells = patches_of(case.library, case.width, case.seed)
    index = sharded_index_of(cells, case.config, case.shards, ids)
    held = index.patch_ids(torch.arange(index.count))[:, :8]
    images = np.unique(np.ascontiguousarray(held).view("S8"))[::2].tobytes()
    local = index_of_images(index, images)
    assert local is not None
    probes, top_k = asked
    config = SearchConfig(probes=probes, top_k=top_k, certify=probes == 1)
    shards = divided(len(index.shards), count, case.seed)
    owners = MortalOwners(index, shards, every, filtered=True)
    counted = owners.ask({owner: [CountAllowed(images)] for owner in range(len(shards))})
    allow = allowed_by(images, mean_leaf(index.count, index.tree.leaves), shards, list(counted.values()))
    queries = torch.cat([case.others, cells[::5]])
    with small_rounds(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("kt_batch.index.served.search.FIRST_ROUND", 2)
        expected = open_search(local, config).search(queries)
        router, filtered = open_filtered(index.tree, owners, allow)
        found = open_search(ServedIndex(router, filtered), config).search(queries)
    assert router.tree.leaf_count.equal(local.tree.leaf_count)
    for name in ("patch_ids", "values", "scores", "certified"):
        assert getattr(found, name).equal(getattr(expected, name)), name
    parts = [owner._owner.index for owner in owners.owners if owner._owner]
    assert sum(part.count for part in parts) <= local.count
    assert not any(owner._whole for owner in owners.owners if not owner._waits)


@pytest.mark.parametrize("certify", [False, True])
def test_no_queries_have_no_matches(certify: bool) -> None:
    index = sharded_index_of(clustered(300), IndexConfig(max_leaf=16, merge=1), shards=3)
    shared = ServedIndex(Router.of(index), LocalOwners(index, [list(range(len(index.shards)))]))
    config = SearchConfig(probes=2, top_k=3, certify=certify)
    one, owners = (open_search(each, config).search(clustered(3)[:0]) for each in (index, shared))
    for name in ("patch_ids", "values", "scores", "certified"):
        found, expected = getattr(owners, name), getattr(one, name)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)


@given(st.integers(1, 32), st.lists(st.floats(0, 1), max_size=9))
def test_integers_of_messages_come_back(bits: int, parts: list[float]) -> None:
    numbers = torch.tensor([int(part * (2**bits - 1)) for part in parts], dtype=torch.int64)
    message = narrow(numbers)
    assert wide(message).equal(numbers)
    assert length(message) == len(numbers)
    needed = max(numbers.tolist(), default=0).bit_length() or 1
    even, fours = -(-len(numbers) // 4) * -(-needed // 2), -(-len(numbers) // 2) * -(-needed // 4)
    assert len(message) == 1 + (even if needed <= 16 else fours)


@pytest.mark.parametrize("number", [-1, 2**32])
def test_integers_that_a_message_cannot_hold_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match=rf"A number of a message is {number}; allowed are 0 to 2\^32 - 1"):
        narrow(torch.tensor([5, number]))


@many
@given(mixtures, channels, seeds)
def test_patches_are_made_of_their_distinct_cells(asking: Mixture, width: int, seed: int) -> None:
    patches = torch.cat([patches_of(asking, width, seed + 100)[::3], patches_of(asking, width, seed)[::5]])
    cells, corners = distinct_cells(patches)
    assert cells[corners].view(torch.int32).equal(patches.view(torch.int32))
    assert len(cells) == len(patches.flatten(0, 1).contiguous().view(torch.int32).unique(dim=0))


@many
@given(mixtures, channels, seeds, st.sampled_from([0.0, 1.0, 30.0]), st.sampled_from([1e-9, 1e-4, 1.0, 1e4, 1e6]))
def test_what_12_bits_do_to_a_score_is_bounded_and_first_levels_stay_exact(
    asking: Mixture, width: int, seed: int, offset: float, scale: float
) -> None:
    patches = torch.cat([patches_of(asking, width, seed + 100)[::3], patches_of(asking, width, seed)[::5]]) * scale
    random = torch.Generator().manual_seed(seed)
    mean = torch.randn(4, width, generator=random) * offset * scale
    directions = torch.linalg.qr(torch.randn(4 * width, min(127, 4 * width), generator=random)).Q
    keys = match_parts(haar(patches), mean)[0]
    levels = rounded_queries(first_level(keys, directions))
    found = encoded(patches, levels, mean, directions)
    cells = cells_of(found.cells, found.scales)
    rounded = match_parts(haar(cells[found.corners]), mean)[0]
    changed = (keys.double() - rounded.double()).norm(
        dim=1
    )  # at most so much does the product with a unit vector change
    assert bool((changed <= found.errors + 2 * rounding_slack(4 * width)).all())
    steps = steps_of(rounded @ directions, found.last_bits)
    assert steps[~found.far].equal(levels[~found.far, :-1] / STEP)
    assert found.levels.float().equal(levels / STEP)


def test_two_bits_are_enough_for_the_first_levels_of_usual_queries() -> None:
    patches = clustered(500, 64, clusters=30, seed=1)
    directions = torch.linalg.qr(torch.randn(256, 127, generator=torch.Generator().manual_seed(2))).Q
    mean = haar(patches).mean(0)
    levels = rounded_queries(first_level(match_parts(haar(patches), mean)[0], directions))
    found = encoded(patches, levels, mean, directions)
    assert not found.far.any()
    assert found.last_bits.shape == (500, 32)
    assert bool((found.errors < 0.01).all())
