"""The numerics class is pinned, stored in every receipt and not mixed by default."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kt_batch import __version__
from kt_batch.errors import MismatchError
from kt_batch.index.searchers import faiss as baselines
from kt_batch.pipelines.numerics import PACKAGES, check_numerics, fix_numerics, search_device
from kt_batch.store.locations import open_location
from kt_batch.store.units import Ledger
from tests.support.collection import Collection


@pytest.mark.usefixtures("threads")
def test_the_threads_are_pinned_and_named() -> None:
    found = fix_numerics(2)
    assert torch.get_num_threads() == 2
    assert (found["threads"], found["kt_batch"], found["torch"]) == ("2", __version__, torch.__version__)


def test_a_class_consists_of_versions_device_instructions_products_and_threads() -> None:
    found = fix_numerics(1)
    assert found.keys() == {"kt_batch", "torch", *PACKAGES, "device", "isa", "products", "threads"}
    assert found["products"] in ("medium", "highest")  # of two processors called AVX512 one may round, with AMX
    assert {"numpy", "pillow", "pyarrow"} <= set(PACKAGES)
    assert all(found.values())


@pytest.mark.parametrize("gpu", [False, True])
def test_a_search_with_gpu_estimates_is_a_separate_class(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    assert search_device("scan") == ("cpu and Some GPU" if gpu else "cpu")
    assert search_device("tree") == search_device("hnsw") == "cpu"
    assert fix_numerics(1, search_device("scan"))["device"] == search_device("scan")


@pytest.mark.parametrize("gpus", [0, 2])
def test_a_search_that_faiss_runs_on_a_gpu_is_a_separate_class(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "load_faiss", lambda: SimpleNamespace(get_num_gpus=lambda: gpus))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # faiss may have a GPU where torch has none
    assert search_device("ivf") == ("cpu and a GPU" if gpus else "cpu")


def test_the_same_class_and_the_first_one_may_continue() -> None:
    now = fix_numerics(1)
    check_numerics(None, now, mix=False)
    check_numerics(dict(now), now, mix=False)


def test_another_class_is_refused_with_the_difference_by_default() -> None:
    now = fix_numerics(1)
    other = {**now, "isa": "SSE", "torch": "1.0"}
    with pytest.raises(MismatchError) as refused:
        check_numerics(other, now, mix=False)
    assert f"torch 1.0 -> {now['torch']}, isa SSE -> {now['isa']}" in str(refused.value)
    assert "numpy" not in str(refused.value)
    check_numerics(other, now, mix=True)


def test_every_receipt_contains_the_class(collection: Collection) -> None:
    receipts = Ledger(open_location(str(collection.library))).receipts().values()
    assert [receipt.numerics for receipt in receipts] == [fix_numerics(1)] * 2
