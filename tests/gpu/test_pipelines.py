"""Libraries, indexes and pictures made on a GPU, beside those of the processor.

The arithmetic differs in last bits, so near ties may be decided otherwise. Promises across numerics classes: at least
99.9 % of the matches are the same, and pictures are close.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kt_batch.config import RunOptions, SearchConfig
from kt_batch.errors import MismatchError
from kt_batch.pipelines.translate.sources import Choice
from kt_batch.store.schemas import patch_vectors
from tests.support.collection import Collection
from tests.support.devices import HERE_AND_THERE, collection_on, translated_on
from tests.support.tiny import (
    device_of,
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

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this torch sees no GPU"),
]
TWICE = {"here": 0, "one": 1, "two": 1}
HERE, ON_GPU = RunOptions(threads=1, unit_size=2), RunOptions(threads=1, unit_size=2, gpus=1)
SAME_MATCHES = 0.999
CLOSE = 45.0  # dB
REPAINTED = 30.0  # dB; a painting's matches follow from those of the level before, so that one may move a stroke


def psnr(run: Path, other: Path) -> float:
    """Return the least PSNR between the pictures of two runs, in dB."""
    found = []
    for path in sorted((run / "images").iterdir()):
        one, two = (np.asarray(Image.open(place), np.float64) for place in (path, other / "images" / path.name))
        error = np.square(one - two).mean()
        found.append(np.inf if error == 0 else 10 * np.log10(255**2 / error))
    return float(min(found))


def same_matches(run: Path, other: Path) -> float:
    """Return the share of patches with the same match in both runs."""

    def matches(place: Path) -> dict[object, object]:
        names = ("output", "row", "col", "rank")
        found = rows(place, "provenance")
        return {
            tuple(row[n] for n in names): (row["source_image_id"], row["source_row"], row["source_col"])
            for row in found
        }

    one, two = matches(run), matches(other)
    assert one.keys() == two.keys()
    return sum(one[key] == two[key] for key in one) / len(one)


def test_a_library_has_nearly_the_same_patches_and_the_same_twice(collection: Collection, tmp_path: Path) -> None:
    for place in ("one", "two"):
        extracted([collection.paintings], tmp_path / place, options=ON_GPU)
    assert device_of(tmp_path / "one") == {torch.cuda.get_device_name()}
    assert hashes(tmp_path / "one", "patches") == hashes(tmp_path / "two", "patches")
    here, there = patches(collection.library), patches(tmp_path / "one")
    assert there["patch_id"].equals(here["patch_id"])
    channels = 152
    expected, found = (patch_vectors(table, channels).astype(np.float64) for table in (here, there))
    assert np.abs(found - expected).max() <= 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("searcher", ["tree", "exact", "scan", "bhkm"])
def test_photographs_get_nearly_the_same_pictures_and_the_same_twice(
    collection: Collection, tmp_path: Path, searcher: str
) -> None:
    collection_on(TWICE, collection, tmp_path, search=SearchConfig(searcher=searcher))
    assert results(tmp_path / "one") == results(tmp_path / "two")
    assert device_of(tmp_path / "one") == {torch.cuda.get_device_name()}
    assert same_matches(tmp_path / "here", tmp_path / "one") >= SAME_MATCHES
    assert psnr(tmp_path / "here", tmp_path / "one") > CLOSE


def test_an_index_gives_nearly_the_same_pictures_and_is_the_same_twice(collection: Collection, tmp_path: Path) -> None:
    for place, options in (("here", HERE), ("one", ON_GPU), ("two", ON_GPU)):
        extracted([collection.paintings], tmp_path / f"{place}-library", options=HERE)
        index = indexed(tmp_path / f"{place}-library", options=options).index
        search = SearchConfig(certify=True)
        request = translate_request(tmp_path / f"{place}-library", tmp_path / place, index, search=search)
        translated([collection.photos], request)
    one, two = (hashes(tmp_path / f"{place}-library", "index") for place in ("one", "two"))
    assert one == two
    assert psnr(tmp_path / "here", tmp_path / "one") > CLOSE


@pytest.mark.parametrize(("method", "close"), [("adain", CLOSE), ("painting", REPAINTED)])
def test_other_methods_make_nearly_the_same_pictures_and_the_same_twice(
    collection: Collection, tmp_path: Path, method: str, close: float
) -> None:
    library = tmp_path / "library"
    painted_library(collection.paintings, library)
    choice = Choice(styles=collection.paintings, size=64) if method == "adain" else Choice(library=library)
    translated_on(TWICE, choice, collection.photos, tmp_path, method)
    assert results(tmp_path / "one") == results(tmp_path / "two")
    assert psnr(tmp_path / "here", tmp_path / "one") > close


def test_several_libraries_are_searched_on_a_gpu(collection: Collection, tmp_path: Path) -> None:
    shutil.copytree(collection.library, tmp_path / "copy")
    choice = Choice(library=[collection.library, f"{tmp_path / 'copy'}=0.5"])
    translated_on(HERE_AND_THERE, choice, collection.photos, tmp_path)
    assert same_matches(tmp_path / "here", tmp_path / "there") >= SAME_MATCHES


def test_a_run_of_the_processor_is_not_continued_on_a_gpu(collection: Collection, tmp_path: Path) -> None:
    request = translate_request(collection.library, tmp_path / "run", collection.index)
    translated([collection.photos / "11.png"], request)
    with pytest.raises(MismatchError, match="device cpu -> "):
        translated([collection.photos], replace(request, options=ON_GPU))
