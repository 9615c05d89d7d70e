"""Extract, index and translate on another device: nothing is mixed, and the bytes are those of the processor.

The device is a stand-in for a GPU (`tests.support.other_device`): it holds real values and refuses to mix. What a GPU
computes itself is tested in `tests/gpu`, where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kt_batch.config import Draw, IndexConfig, RunOptions, SearchConfig
from kt_batch.errors import MismatchError, UsageError
from kt_batch.pipelines import numerics
from kt_batch.pipelines.extract import worker as extract_worker
from kt_batch.pipelines.index import plan as build_plan
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.statistics.finish import build_statistics
from kt_batch.pipelines.translate import placement
from kt_batch.pipelines.translate import worker as translate_worker
from kt_batch.pipelines.translate.placement import ON_PROCESSOR, index_fits
from kt_batch.pipelines.translate.sources import Choice
from kt_batch.runners.local import LocalRunner
from kt_batch.store.locations import open_location
from tests.support.collection import Collection, Stopping
from tests.support.devices import HERE_AND_THERE, collection_on, translated_on, two_libraries
from tests.support.other_device import DEVICE, DONE, OtherDevice
from tests.support.pairs import draw_pairs, fitted, paired
from tests.support.tiny import (
    SIZE,
    TREE,
    device_of,
    draw_all,
    extracted,
    hashes,
    indexed,
    painted_library,
    patches,
    results,
    rows,
    translate_request,
    translated,
)

ON_GPU = RunOptions(threads=1, unit_size=2, gpus=1)
GPU = "a device that refuses to mix"
MEMORY = 1 << 30


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The device in place of a GPU, for this test."""
    for module in (extract_worker, build_plan, placement):
        monkeypatch.setattr(module, "worker_device", lambda gpus: DEVICE if gpus else torch.device("cpu"))
        monkeypatch.setattr(module, "device_name", lambda device: GPU if device == DEVICE else "cpu")
    monkeypatch.setattr(placement, "device_memory", lambda _: MEMORY)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with OtherDevice():
        yield
    torch.set_num_threads(threads)


def test_a_library_is_extracted_to_the_same_bytes(gpu: None, collection: Collection, tmp_path: Path) -> None:
    extracted([collection.paintings], tmp_path / "library", options=ON_GPU)
    assert device_of(tmp_path / "library") == {GPU}
    assert patches(tmp_path / "library").equals(patches(collection.library))
    assert rows(tmp_path / "library", "images") == rows(collection.library, "images")


def test_every_key_is_extracted_to_the_same_bytes(gpu: None, collection: Collection, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"also": ("relu4_1@64", "relu3_1@48"), "max_patches": 40}
    for place, options in (("there", ON_GPU), ("here", RunOptions(threads=1, unit_size=2))):
        extracted([collection.paintings], tmp_path / place, options=options, **settings)
    there, here = (hashes(tmp_path / place, "patches") for place in ("there", "here"))
    assert there == here


@pytest.mark.parametrize(
    "config",
    [
        TREE,
        TREE.model_copy(update={"match_space": "centred", "payload": "float16", "merge": 0.9}),
        IndexConfig(clusters=(3, 2)),
    ],
    ids=["tree", "centred", "fixed"],
)
def test_an_index_is_built_to_the_same_bytes(gpu: None, tmp_path: Path, config: IndexConfig) -> None:
    pictures = draw_all(tmp_path / "pictures", [1, 2, 3])
    for place, gpus in HERE_AND_THERE.items():
        options = RunOptions(threads=1, unit_size=2, gpus=gpus)
        extracted([pictures], tmp_path / place, options=RunOptions(threads=1, unit_size=2))
        indexed(tmp_path / place, config=config, options=options)
    there, here = (hashes(tmp_path / place, "index") for place in ("there", "here"))
    assert there.keys() == here.keys()
    (summary,) = (name for name in here if here[name] != there[name])
    assert GPU in open_location(str(tmp_path / "there")).read_bytes(summary).decode()  # it names the device


@pytest.mark.parametrize(
    ("search", "swap"),
    [
        (SearchConfig(), "geometric"),
        (SearchConfig(probes=2, top_k=3), "statistics"),
        (SearchConfig(certify=True), "geometric"),
        (SearchConfig(searcher="exact", top_k=2), "geometric"),
        (SearchConfig(searcher="hkm"), "geometric"),
        (SearchConfig(searcher="bhkm", bands=2), "geometric"),
        (SearchConfig(searcher="scan", top_k=2), "geometric"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.searcher}-{value.certify}-{value.top_k}",
)
def test_photographs_are_translated_to_the_same_bytes(
    gpu: None, collection: Collection, tmp_path: Path, search: SearchConfig, swap: str
) -> None:
    for summary in collection_on(HERE_AND_THERE, collection, tmp_path, search=search, swap=swap):
        assert summary.images == 3
    assert results(tmp_path / "there") == results(tmp_path / "here")
    assert device_of(tmp_path / "there") == {GPU}
    assert DONE["convolution"] > 0
    assert DONE["sort"] > 0  # of a search


def test_several_libraries_are_searched_on_the_device(gpu: None, collection: Collection, tmp_path: Path) -> None:
    choice, photo = Choice(library=two_libraries(tmp_path)), collection.photos / "11.png"
    translated_on(HERE_AND_THERE, choice, photo, tmp_path, search=SearchConfig(top_k=2))
    assert results(tmp_path / "there") == results(tmp_path / "here")
    assert rows(tmp_path / "there", "provenance") == rows(tmp_path / "here", "provenance")


class OnWorkers(LocalRunner):
    """Says when a worker computes: the driver of a cluster may have no GPU."""

    working = False

    def run(self, factory: Any, units: Any, *rest: Any) -> Iterator[Any]:
        for unit in units:
            self.working = True
            found = list(super().run(factory, [unit], *rest))
            self.working = False
            yield from found


def test_the_driver_of_a_build_needs_no_gpu(gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = OnWorkers()

    def worker_device(gpus: float) -> torch.device:
        assert runner.working, "the driver asks for a GPU"
        return DEVICE

    monkeypatch.setattr(build_plan, "worker_device", worker_device)
    extracted([draw_all(tmp_path / "pictures", [1, 2])], tmp_path / "library")
    assert indexed(tmp_path / "library", runner, options=ON_GPU).built


def test_a_large_index_stays_on_the_processor(
    gpu: None, collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "device_memory", lambda _: 1 << 10)
    collection_on(HERE_AND_THERE, collection, tmp_path)
    assert results(tmp_path / "there") == results(tmp_path / "here")
    assert device_of(tmp_path / "there") == {f"{GPU}, search on cpu"}


@pytest.mark.parametrize(
    ("size", "gpus", "fits"), [(40, 1, True), (60, 1, False), (60, 8, False), (20, 0.5, True), (30, 0.5, False)]
)
def test_an_index_may_take_half_of_a_share_of_a_gpu(size: int, gpus: float, fits: bool) -> None:
    assert index_fits(size, 100, gpus) == fits


@pytest.fixture(scope="module")
def paintings(collection: Collection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library for the method painting, with the statistics of its features."""
    library = tmp_path_factory.mktemp("paintings") / "library"
    painted_library(collection.paintings, library)
    build_statistics(str(library), RunOptions(threads=1), LocalRunner(), no_progress)
    return library


@pytest.mark.parametrize(("method", "size"), [("painting", None), ("painting", 100), ("adain", None)])
def test_every_method_makes_the_same_pictures(
    paintings: Path, gpu: None, collection: Collection, tmp_path: Path, method: str, size: int | None
) -> None:
    choice = Choice(library=paintings, size=size)
    for summary in translated_on(HERE_AND_THERE, choice, collection.photos / "11.png", tmp_path, method):
        assert summary.images == 1
    assert results(tmp_path / "there") == results(tmp_path / "here")
    assert DONE["convolution"] > 0


@pytest.mark.parametrize("method", ["adain", "wct", "patch_swap", "ift", "gatys"])
def test_style_images_come_to_the_device(gpu: None, collection: Collection, tmp_path: Path, method: str) -> None:
    choice, photo = Choice(styles=collection.paintings / "1.png", size=SIZE), collection.photos / "11.png"
    settings = {"iterations": 2} if method == "gatys" else {}
    for summary in translated_on(HERE_AND_THERE, choice, photo, tmp_path, method, **settings):
        assert summary.images == 1
    assert results(tmp_path / "there") == results(tmp_path / "here")


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("knowledge", {"swap": "statistics"}),
        ("ift", {"levels": 1, "updates": 3}),
        ("patch_swap", {}),
    ],
)
def test_regions_are_made_on_the_device(
    gpu: None, collection: Collection, tmp_path: Path, method: str, settings: dict[str, Any]
) -> None:
    if method == "knowledge":
        choice = Choice(library=two_libraries(tmp_path), regions=2)
    else:
        choice = Choice(styles=[str(collection.paintings / f"{seed}.png") for seed in (1, 2)], size=SIZE, regions=2)
    translated_on(HERE_AND_THERE, choice, collection.photos / "11.png", tmp_path, method, **settings)
    assert results(tmp_path / "there") == results(tmp_path / "here")
    assert device_of(tmp_path / "there") == {GPU}


@pytest.mark.parametrize("draw", ["random", "nearest"])
def test_a_source_is_drawn_on_the_device(gpu: None, collection: Collection, tmp_path: Path, draw: Draw) -> None:
    extracted([collection.paintings], tmp_path / "library")
    indexed(tmp_path / "library")
    build_statistics(str(tmp_path / "library"), RunOptions(threads=1), LocalRunner(), no_progress)
    choice = Choice(library=tmp_path / "library", draw=draw)
    translated_on(HERE_AND_THERE, choice, collection.photos / "11.png", tmp_path)
    assert results(tmp_path / "there") == results(tmp_path / "here")


class AtOnce:
    """Runs what a worker does in the background at once: the device of tests is that of one thread."""

    def submit(self, _image: str, work: Callable[..., Any], *args: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*args))
        except BaseException as error:  # noqa: BLE001 - as a background thread does
            done.set_exception(error)
        return done


@pytest.mark.parametrize("series", ["none", "folder"])
def test_photographs_are_edited_to_the_same_bytes(
    gpu: None, collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, series: str
) -> None:
    monkeypatch.setattr(translate_worker, "BackgroundExecutor", AtOnce)
    paired(*draw_pairs(tmp_path / "pairs", range(1, 5)), tmp_path / "library")
    fitted(tmp_path / "library")
    choice = Choice(library=tmp_path / "library")
    DONE.clear()
    for summary in translated_on(HERE_AND_THERE, choice, collection.photos, tmp_path, "retouch", series=series):
        assert summary.images == 3
    assert results(tmp_path / "there") == results(tmp_path / "here")
    assert device_of(tmp_path / "there") == {GPU}
    assert bool(DONE["clamp_"]) == (series == "none")  # shared edits are applied on the processor


# ---- numerics classes and refusals -----------------------------------------------------------------------------------


def test_what_was_begun_on_the_processor_is_not_continued_on_a_gpu(
    gpu: None, collection: Collection, tmp_path: Path
) -> None:
    request = translate_request(collection.library, tmp_path / "run", collection.index)
    translated([collection.photos / "11.png"], request)
    with pytest.raises(MismatchError, match=f"device cpu -> {GPU}"):
        translated([collection.photos], replace(request, options=RunOptions(threads=1, gpus=1)))
    extracted([collection.paintings / "1.png"], tmp_path / "library")
    with pytest.raises(MismatchError, match=f"device cpu -> {GPU}"):
        extracted([collection.paintings], tmp_path / "library", options=ON_GPU)


def test_a_build_on_a_gpu_is_not_continued_on_the_processor(gpu: None, collection: Collection, tmp_path: Path) -> None:
    extracted([collection.paintings], tmp_path / "library", options=RunOptions(threads=1))
    with pytest.raises(ZeroDivisionError):
        indexed(tmp_path / "library", Stopping(after=1), options=ON_GPU)
    with pytest.raises(MismatchError, match=f"device {GPU} -> cpu"):
        indexed(tmp_path / "library")
    indexed(tmp_path / "library", options=ON_GPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_worker_that_is_given_a_gpu_where_there_is_none_says_so(collection: Collection, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--gpus 1 asks for a GPU, and torch .* finds none on '.*'; leave it out"):
        extracted([collection.paintings], tmp_path / "library", options=ON_GPU)


def test_a_worker_without_a_gpu_computes_on_the_processor() -> None:
    assert numerics.worker_device(0.0) == torch.device("cpu")
    assert ON_PROCESSOR.named("cpu and a GPU that scans") == "cpu and a GPU that scans"
