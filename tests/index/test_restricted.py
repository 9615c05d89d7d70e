"""An index of some images finds their patches alone, and those as the whole index would."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.config import IndexConfig, SearchConfig
from kt_batch.index.ids import pack_ids
from kt_batch.index.index import Index, build_in_memory
from kt_batch.index.restricted import ONE_IMAGE, RowsOfImages, image_numbers, restricted
from kt_batch.index.search import Search, search
from kt_batch.kernels.haar import haar

IMAGES = [f"{number:016x}" for number in (3, 2**63 + 1, 7, 2**64 - 1, 12, 40)]
EACH = 150
CHANNELS = 16
SEARCHERS = ["tree", "exact", "hkm", "bhkm", "scan"]


def library(config: IndexConfig) -> Index:
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(len(IMAGES) * EACH, 4, CHANNELS, generator=generator)
    ids = np.concatenate([pack_ids(image, np.arange(EACH), np.arange(EACH)) for image in IMAGES])
    return build_in_memory(haar(values).half(), ids, config)


WHOLE = library(IndexConfig(fan_out=4, max_leaf=32))
KEPT = library(IndexConfig(fan_out=4, max_leaf=32, payload="float16"))


def queries(count: int = 40) -> Tensor:
    return torch.rand(count, 4, CHANNELS, generator=torch.Generator().manual_seed(8))


def part(index: Index, images: list[str], leaf: int | None = None) -> Index:
    allowed = image_numbers(b"".join(map(bytes.fromhex, sorted(images))))
    return restricted(index, RowsOfImages(index).allowed(allowed), leaf)


def images_of(patch_ids: Tensor) -> set[str]:
    return {bytes(row[:8]).hex() for row in patch_ids.flatten(0, 1).numpy()}


@pytest.mark.parametrize("searcher", SEARCHERS)
@pytest.mark.parametrize("whole", [WHOLE, KEPT], ids=["4bit", "float16"])
def test_no_searcher_finds_a_patch_of_an_image_that_is_left_out(whole: Index, searcher: str) -> None:
    chosen = [IMAGES[1], IMAGES[4]]
    found = search(part(whole, chosen), queries(), SearchConfig.model_validate({"searcher": searcher, "top_k": 5}))
    assert images_of(found.patch_ids) <= set(chosen)
    assert found.patch_ids.shape[:2] == (40, 5)


@pytest.mark.parametrize("whole", [WHOLE, KEPT], ids=["4bit", "float16"])
def test_the_exact_search_is_the_whole_ranking_without_the_images_left_out(whole: Index) -> None:
    chosen, exact = {IMAGES[0], IMAGES[3]}, SearchConfig(searcher="exact", top_k=64)
    few = search(part(whole, sorted(chosen)), queries(), exact.model_copy(update={"top_k": 2}))
    everything = search(whole, queries(), exact)
    for row in range(len(few.scores)):
        ranked = [
            number for number, patch in enumerate(everything.patch_ids[row].numpy()) if bytes(patch[:8]).hex() in chosen
        ][:2]
        assert few.patch_ids[row, : len(ranked)].equal(everything.patch_ids[row, ranked])
        assert few.scores[row, : len(ranked)].equal(everything.scores[row, ranked])
        assert few.values[row, : len(ranked)].equal(everything.values[row, ranked])


def test_a_certified_search_of_some_images_finds_what_the_exact_one_does() -> None:
    some = part(WHOLE, IMAGES[2:5])
    exact = search(some, queries(), SearchConfig(searcher="exact"))
    certified = search(some, queries(), SearchConfig(certify=True))
    assert certified.certified.all()
    assert certified.patch_ids.equal(exact.patch_ids)


def test_one_image_is_one_leaf_and_every_match_in_it_is_proved() -> None:
    rows = RowsOfImages(WHOLE)
    one = restricted(WHOLE, rows.of_image(IMAGES[3]), ONE_IMAGE)
    assert (one.tree.leaves, one.count) == (1, len(rows.of_image(IMAGES[3])))
    assert Search(one, SearchConfig()).search(queries()).certified.all()


def test_all_images_give_the_rows_of_the_whole_index() -> None:
    every = part(WHOLE, IMAGES)
    rows = torch.arange(WHOLE.count)
    assert every.patch_ids(rows).tolist() == WHOLE.patch_ids(rows).tolist()
    assert every.values(rows).equal(WHOLE.values(rows))
    assert search(every, queries(), SearchConfig(searcher="exact")).scores.equal(
        search(WHOLE, queries(), SearchConfig(searcher="exact")).scores
    )


def test_rows_are_found_by_image_and_unknown_images_have_none() -> None:
    rows = RowsOfImages(WHOLE)
    assert rows.images == sorted(IMAGES)
    assert sum(len(rows.of_image(image)) for image in IMAGES) == WHOLE.count
    assert len(rows.of_image("00000000000000ff")) == 0


@given(st.sets(st.sampled_from(IMAGES), min_size=1), st.integers(1, 500))
def test_whatever_images_and_leaves_all_rows_are_there_once(images: set[str], leaf: int) -> None:
    some = part(WHOLE, sorted(images), leaf)
    held = WHOLE.patch_ids(torch.arange(WHOLE.count))
    wanted = {bytes(row) for row in held if bytes(row[:8]).hex() in images}
    assert {bytes(row) for row in some.patch_ids(torch.arange(some.count))} == wanted
    assert some.count == len(wanted) == int(some.tree.leaf_count.sum())
