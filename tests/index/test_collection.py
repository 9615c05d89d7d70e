"""A collection finds what a search of each index finds, ranked by weighted scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.config import IndexConfig, SearchConfig
from kt_batch.errors import UsageError
from kt_batch.index.collection import Collection, collected, deviation_of, weighted
from kt_batch.index.ids import pack_ids
from kt_batch.index.index import Index, build_in_memory
from kt_batch.index.search import CollectionSearch, open_search, search
from kt_batch.kernels.haar import haar

CONFIG = IndexConfig(fan_out=4, max_leaf=32, match_space="centred")


def index(image: str, seed: int, count: int = 200, channels: int = 16) -> Index:
    values = torch.rand(count, 4, channels, generator=torch.Generator().manual_seed(seed))
    return build_in_memory(haar(values).half(), pack_ids(image, np.arange(count), np.arange(count)), CONFIG)


def queries(count: int = 30) -> Tensor:
    return torch.rand(count, 4, 16, generator=torch.Generator().manual_seed(9))


INDEXES = (index("0000000000000005", 1), index("0000000000000003", 2, 90), index("0000000000000004", 3))


@given(
    st.lists(st.sampled_from([0.5, 1.0, 2.0, 0.97]), min_size=3, max_size=3),
    st.integers(1, 7),
    st.sampled_from(["tree", "exact"]),
)
def test_matches_are_the_best_of_all_by_weighted_score(weights: list[float], k: int, searcher: str) -> None:
    config = SearchConfig.model_validate({"searcher": searcher, "top_k": k, "probes": 1000})
    found = open_search(collected(INDEXES, weights), config).search(queries())
    each = [search(one, queries(), config) for one in INDEXES]
    for row in range(len(queries())):
        ranked = sorted(
            (-float(weighted(matches.scores[row, rank], weight)), number, rank)
            for number, (matches, weight) in enumerate(zip(each, weights, strict=True))
            for rank in range(matches.scores.shape[1])
        )[:k]
        assert found.libraries is not None
        assert found.libraries[row].tolist() == [number for _, number, _ in ranked]
        assert found.scores[row].tolist() == [-score for score, _, _ in ranked]
        for place, (_, number, rank) in enumerate(ranked):
            assert found.patch_ids[row, place].equal(each[number].patch_ids[row, rank])
            assert found.values[row, place].equal(each[number].values[row, rank])
    assert found.certified.all()


@given(
    st.lists(st.sampled_from([0.5, 1.0, 2.0, 0.97]), min_size=3, max_size=3),
    st.integers(1, 4),
    st.sampled_from([6, 12]),
)
def test_candidates_that_cannot_win_are_left_out_and_matches_stay(weights: list[float], k: int, probes: int) -> None:
    config = SearchConfig(top_k=k, probes=probes)
    both = Collection(INDEXES, tuple(weights), (0, 1, 2))
    together, apart = CollectionSearch(both, config), CollectionSearch(both, config)
    assert together._together
    apart._together = []
    found, expected = together.search(queries()), apart.search(queries())
    for name in ("patch_ids", "values", "scores", "certified", "libraries"):
        assert getattr(found, name).equal(getattr(expected, name))


@given(st.floats(-1, 1), st.floats(0.001, 1000), st.floats(1.0, 1000))
def test_more_weight_never_lowers_a_score(score: float, weight: float, more: float) -> None:
    one = torch.tensor([score], dtype=torch.float64)
    assert weighted(one, weight * more) >= weighted(one, weight)


def test_equal_matches_go_to_the_library_that_is_named_first() -> None:
    twice = collected([INDEXES[0], INDEXES[0]], [1.0, 1.0])
    found = open_search(twice, SearchConfig(searcher="exact")).search(queries())
    assert found.libraries is not None
    assert not found.libraries.any()


def test_probes_are_divided_by_patches_and_none_gets_none() -> None:
    whole = collected(INDEXES, [1.0] * 3)
    assert isinstance(whole, Collection)
    assert whole.shares(8) == [4, 2, 4]
    assert whole.shares(1) == [1, 1, 1]


def test_a_library_without_allowed_patches_keeps_the_numbers_of_the_others() -> None:
    some = collected([None, None, INDEXES[2]], [1.0] * 3)
    found = open_search(some, SearchConfig()).search(queries())
    assert found.libraries is not None
    assert (found.libraries == 2).all()
    with pytest.raises(UsageError, match="holds no patch"):
        collected([None], [1.0])


def test_the_deviation_of_a_collection_is_that_of_all_its_patches() -> None:
    both = collected(INDEXES[:2], [1.0, 1.0])
    counts = torch.tensor([one.count for one in INDEXES[:2]], dtype=torch.float64)
    expected = sum(one.tree.deviation.double() * count for one, count in zip(INDEXES[:2], counts, strict=True))
    assert torch.allclose(deviation_of(both).double(), expected / counts.sum(), atol=1e-6)
    assert collected([INDEXES[0]], [0.5]) is INDEXES[0]


def test_indexes_of_other_channels_are_refused() -> None:
    with pytest.raises(UsageError, match="8 and 16 channels"):
        collected([INDEXES[0], index("0000000000000009", 4, channels=8)], [1.0, 1.0])
