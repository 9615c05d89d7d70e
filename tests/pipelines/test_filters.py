"""What a filter leaves out never reaches a picture: provenance names allowed images alone."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from kt_batch.errors import MismatchError, UsageError
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.store.image_filters import ImageFilter
from kt_batch.store.images.files import image_id
from tests.support.shelf import Shelf, pixels, run
from tests.support.tiny import draw_all, hashes, painted_library, rows

EXACT = {"search": {"searcher": "exact"}}


def sources(place: Path) -> set[bytes]:
    return {row["source_image_id"] for row in rows(place, "provenance")}


def numbers(shelf: Shelf, place: Path) -> set[int]:
    by_id = {identity: number for number, identity in shelf.ids.items()}
    return {by_id[source] for source in sources(place)}


@pytest.mark.parametrize("searcher", ["tree", "exact", "hkm", "scan"])
def test_a_tag_lets_its_images_alone_into_pictures(shelf: Shelf, tmp_path: Path, searcher: str) -> None:
    settings = {"search": {"searcher": searcher, "top_k": 3}}
    only = ImageFilter(tags=("odd",))
    run(tmp_path / "run", shelf.photos, library=shelf.library, only=only, settings=settings)
    assert numbers(shelf, tmp_path / "run") == {1, 3}


def test_pictures_are_those_of_a_library_of_the_allowed_images(shelf: Shelf, tmp_path: Path) -> None:
    only = ImageFilter(tags=("odd",))
    run(tmp_path / "filtered", shelf.photos, library=shelf.library, only=only, settings=EXACT)
    run(tmp_path / "alone", shelf.photos, library=shelf.odd, settings=EXACT)
    assert pixels(tmp_path / "filtered") == pixels(tmp_path / "alone")


def test_an_image_id_and_a_condition_choose_images(shelf: Shelf, tmp_path: Path) -> None:
    one = ImageFilter(images=(shelf.ids[4].hex(),))
    run(tmp_path / "one", shelf.photos, library=shelf.library, only=one)
    assert numbers(shelf, tmp_path / "one") == {4}
    where = ImageFilter(tags=("even",), where=f"hex(image_id) <> '{shelf.ids[2].hex().upper()}' AND width = 64")
    run(tmp_path / "where", shelf.photos, library=shelf.library, only=where)
    assert numbers(shelf, tmp_path / "where") == {4}


def test_conditions_of_several_kinds_hold_together(shelf: Shelf) -> None:
    given = ImageFilter(tags=("odd", "even"), licenses=("CC0",), where="list_contains(tags, 'even')")
    config, found = choose("knowledge", {}, Choice(library=shelf.library, only=given))
    assert found.allowed == (b"".join(sorted([shelf.ids[2], shelf.ids[4]])),)
    assert config.allowed_sha256


def test_a_filter_holds_in_every_library(shelf: Shelf, tmp_path: Path) -> None:
    libraries = [shelf.library, shelf.other]
    only = ImageFilter(where="'odd' IN tags OR len(tags) = 0")
    run(tmp_path / "both", shelf.photos, library=libraries, only=only)
    assert numbers(shelf, tmp_path / "both") == {1, 3, 5}
    run(tmp_path / "second", shelf.photos, library=libraries, only=ImageFilter(images=(shelf.ids[5].hex(),)))
    assert numbers(shelf, tmp_path / "second") == {5}
    assert {row["library"] for row in rows(tmp_path / "second", "provenance")} == {str(shelf.other)}


def test_the_same_images_by_another_filter_are_the_same_run(shelf: Shelf, tmp_path: Path) -> None:
    run(tmp_path / "run", shelf.photos, library=shelf.library, only=ImageFilter(tags=("odd",)))
    before = hashes(tmp_path / "run", "images")
    images = (shelf.ids[3].hex(), shelf.ids[1].hex())
    again = run(tmp_path / "run", shelf.photos, library=shelf.library, only=ImageFilter(images=images))
    assert (again.new_images, hashes(tmp_path / "run", "images")) == (0, before)
    with pytest.raises(MismatchError):
        run(tmp_path / "run", shelf.photos, library=shelf.library, only=ImageFilter(tags=("even",)))


def test_a_filtered_run_has_the_same_bytes_in_units_of_any_size(shelf: Shelf, tmp_path: Path) -> None:
    only = ImageFilter(tags=("even",))
    for size in (1, 2):
        run(tmp_path / str(size), shelf.photos, library=shelf.library, only=only, unit_size=size)
    assert hashes(tmp_path / "1", "images") == hashes(tmp_path / "2", "images")


@pytest.mark.parametrize(
    ("only", "words"),
    [
        (ImageFilter(tags=("none",)), "leaves none of the 4 images.*tags there are even, odd, licences CC0"),
        (ImageFilter(images=("0123",)), "--only-image 0123 is no image id"),
        (ImageFilter(images=("0123456789abcdef",)), "0123456789abcdef is in none"),
        (ImageFilter(where="nothing = 1"), "cannot be evaluated over the columns image_id"),
        (ImageFilter(where="(SELECT count(*) FROM read_text('/etc/hostname')) > 0"), "cannot be evaluated"),
        (ImageFilter(where="true) UNION SELECT 1 --"), "cannot be evaluated"),
    ],
)
def test_a_filter_that_allows_nothing_or_says_nothing_is_one_sentence(
    shelf: Shelf, only: ImageFilter, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        choose("knowledge", {}, Choice(library=shelf.library, only=only))


def test_ctrl_c_ends_a_condition_that_runs_for_ever(shelf: Shelf) -> None:
    for_ever = ImageFilter(where="(SELECT count(*) FROM range(100000000000000) t(x) WHERE x % 7 = 3) > 0")
    # A shell ignores the signal for what runs in its background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            choose("knowledge", {}, Choice(library=shelf.library, only=for_ever))
    finally:
        signal.signal(signal.SIGINT, before)


def test_methods_that_search_no_library_refuse_a_filter(shelf: Shelf) -> None:
    with pytest.raises(UsageError, match="no filter of them has an effect"):
        choose("adain", {}, Choice(styles=shelf.photos, only=ImageFilter(tags=("odd",))))


def test_paintings_are_made_from_allowed_images_alone(tmp_path: Path) -> None:
    paintings = draw_all(tmp_path / "paintings", [1, 2, 3])
    painted_library(paintings, tmp_path / "library")
    chosen = image_id((paintings / "2.png").read_bytes())
    only = ImageFilter(images=(chosen,))
    photos = draw_all(tmp_path / "photos", [11])
    run(tmp_path / "run", photos, method="painting", library=tmp_path / "library", only=only)
    assert sources(tmp_path / "run") == {bytes.fromhex(chosen)}


def test_statistics_are_those_of_the_allowed_images(shelf: Shelf, tmp_path: Path) -> None:
    from kt_batch.config import RunOptions
    from kt_batch.pipelines.progress import no_progress
    from kt_batch.pipelines.statistics.finish import build_statistics
    from kt_batch.runners.local import LocalRunner

    for library in (shelf.library, shelf.odd):
        build_statistics(str(library), RunOptions(threads=1), LocalRunner(), no_progress)
    only = ImageFilter(tags=("odd",))
    run(tmp_path / "filtered", shelf.photos, method="adain", library=shelf.library, only=only)
    run(tmp_path / "alone", shelf.photos, method="adain", library=shelf.odd)
    assert pixels(tmp_path / "filtered") == pixels(tmp_path / "alone")
    assert numbers(shelf, tmp_path / "filtered") == {1, 3}
