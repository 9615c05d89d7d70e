"""Every photograph gets one source, by its id and the seed alone, and nothing of any other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kt_batch.config import RunOptions
from kt_batch.errors import MissingError, UsageError
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.statistics.finish import build_statistics
from kt_batch.pipelines.translate import draws
from kt_batch.pipelines.translate.one_source import OneSource
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.local import LocalRunner
from kt_batch.runners.ray.runner import RayRunner
from kt_batch.store.image_filters import ImageFilter
from kt_batch.store.locations import open_location
from kt_batch.store.opening import open_run
from kt_batch.store.plans import Item, make_units
from kt_batch.store.units import Ledger
from tests.support.ray_local import ray_here, ray_runner  # noqa: F401  # the fixtures
from tests.support.shelf import Shelf, pixels, run
from tests.support.tiny import draw_all, hashes, painted_library, rows

IDS = [f"{number:016x}" for number in range(500)]
SOURCES = [f"{number:016x}" for number in range(1000, 1007)]


def drawn(place: Path) -> dict[str, str]:
    """Return the source of each output, as receipts say."""
    found = {}
    for unit, receipt in Ledger(open_location(str(place))).attempts():
        assert receipt is not None
        assert len(receipt.sources) == len(unit.items)
        found.update({item.name: str(source) for item, source in zip(unit.items, receipt.sources, strict=True)})
    return found


def in_provenance(place: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows(place, "provenance"):
        found.setdefault(open_run(str(place)).outputs[row["output"]].input_name, set()).add(
            row["source_image_id"].hex()
        )
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_all(tmp_path_factory.mktemp("many") / "photos", range(21, 27))


# ---- draws -----------------------------------------------------------------------------------------------------------


def test_a_draw_is_even_and_another_seed_is_another_draw() -> None:
    counts = Counter(draws.drawn(0, image, SOURCES) for image in IDS)
    assert set(counts) == set(SOURCES)
    assert max(counts.values()) < 2 * min(counts.values())
    assert [draws.drawn(0, image, SOURCES) for image in IDS] != [draws.drawn(1, image, SOURCES) for image in IDS]


@given(st.integers(0, 2**63 - 1), st.permutations(SOURCES))
def test_sources_are_dealt_in_an_order_of_the_seed_that_holds_each_once(seed: int, sources: list[str]) -> None:
    assert draws.shuffled(seed, sources) == draws.shuffled(seed, SOURCES)
    assert sorted(draws.shuffled(seed, sources)) == SOURCES


@given(st.permutations(IDS[:12]), st.integers(1, 5), st.integers(1, 5))
def test_positions_depend_on_plans_and_not_on_units_or_order(order: list[str], size: int, other: int) -> None:
    def units(images: list[str], size: int) -> list[object]:
        return list(make_units([Item(image, f"/{image}.png", f"{image}.png") for image in images], size))

    first, second = order[:7], order[7:]
    found = draws.positions([units(first, size), units(second, size)])  # type: ignore[list-item]
    again = draws.positions([units(first[::-1], other), units(second[::-1], other)])  # type: ignore[list-item]
    assert found == again
    assert sorted(found.values()) == list(range(12))
    assert {found[image] for image in first} == set(range(7))


def test_the_nearest_source_has_the_most_alike_means_in_units_of_deviation() -> None:
    means = np.array([[0.0, 0.0], [100.0, 1.0], [0.0, 1.0]])
    assert draws.nearest(np.array([1.0, 0.9]), means) == 2
    assert draws.nearest(np.array([0.0, 0.5]), np.zeros((3, 2))) == 0


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", ["random", "round-robin"])
def test_a_picture_has_patches_of_the_one_source_that_its_receipt_names(
    shelf: Shelf,
    photos: Path,
    tmp_path: Path,
    draw: str,
) -> None:
    run(tmp_path / "run", photos, library=shelf.library, draw=draw, seed=5)
    found = drawn(tmp_path / "run")
    assert in_provenance(tmp_path / "run") == {name: {source} for name, source in found.items()}
    assert len(found) == 6
    assert len(set(found.values())) > 1


def test_the_picture_is_that_of_a_filter_which_allows_the_source_alone(
    shelf: Shelf,
    photos: Path,
    tmp_path: Path,
) -> None:
    run(tmp_path / "one", photos, library=shelf.library, draw="random")
    name, source = next(iter(drawn(tmp_path / "one").items()))
    only, exact = ImageFilter(images=(source,)), {"search": {"searcher": "exact"}}
    run(tmp_path / "filter", photos / name, library=shelf.library, only=only, settings=exact)
    (picture,) = pixels(tmp_path / "filter").items()
    assert pixels(tmp_path / "one")[picture[0]] == picture[1]
    assert all(row["certified"] for row in rows(tmp_path / "one", "provenance"))


def test_units_workers_and_order_change_no_draw(
    shelf: Shelf,
    photos: Path,
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    for draw in ("random", "round-robin"):
        run(tmp_path / f"{draw}-1", photos, library=shelf.library, draw=draw, unit_size=1, runner=ray_runner)
        run(tmp_path / f"{draw}-3", photos, library=shelf.library, draw=draw, unit_size=3)
        assert drawn(tmp_path / f"{draw}-1") == drawn(tmp_path / f"{draw}-3")
        assert hashes(tmp_path / f"{draw}-1", "images") == hashes(tmp_path / f"{draw}-3", "images")


def test_dealt_sources_are_used_equally_and_stay_when_photographs_are_added(
    shelf: Shelf,
    photos: Path,
    tmp_path: Path,
) -> None:
    run(tmp_path / "run", photos, library=shelf.library, draw="round-robin", unit_size=1)
    before = drawn(tmp_path / "run")
    assert sorted(Counter(before.values()).values()) == [1, 1, 2, 2]
    more = draw_all(tmp_path / "more", [31, 32])
    run(tmp_path / "run", more, library=shelf.library, draw="round-robin", unit_size=1)
    after = drawn(tmp_path / "run")
    assert {name: after[name] for name in before} == before
    assert sorted(Counter(after.values()).values()) == [2, 2, 2, 2]


def test_a_filter_says_which_sources_are_drawn_also_from_several_libraries(
    shelf: Shelf,
    photos: Path,
    tmp_path: Path,
) -> None:
    only = ImageFilter(where="'odd' IN tags OR len(tags) = 0")
    libraries = [shelf.library, shelf.other]
    run(tmp_path / "run", photos, library=libraries, only=only, draw="round-robin")
    assert set(drawn(tmp_path / "run").values()) == {shelf.ids[number].hex() for number in (1, 3, 5)}
    by_library = {(row["library"], row["source_image_id"]) for row in rows(tmp_path / "run", "provenance")}
    assert (str(shelf.other), shelf.ids[5]) in by_library
    assert {image for place, image in by_library if place == str(shelf.other)} == {shelf.ids[5]}


def test_the_nearest_source_of_a_painting_is_the_painting_itself(shelf: Shelf, tmp_path: Path) -> None:
    build_statistics(str(shelf.library), RunOptions(threads=1), LocalRunner(), no_progress)
    paintings = draw_all(tmp_path / "paintings", [1, 2, 3, 4])
    run(tmp_path / "run", paintings, library=shelf.library, draw="nearest")
    assert drawn(tmp_path / "run") == {f"{number}.png": shelf.ids[number].hex() for number in range(1, 5)}


def test_adain_draws_one_of_its_style_images(photos: Path, tmp_path: Path) -> None:
    styles = draw_all(tmp_path / "styles", [1, 2, 3])
    run(tmp_path / "run", photos, method="adain", styles=styles, draw="random", size=64)
    found = drawn(tmp_path / "run")
    assert in_provenance(tmp_path / "run") == {name: {source} for name, source in found.items()}
    assert len(set(found.values())) > 1


def test_a_painter_takes_strokes_of_the_one_source_alone(tmp_path: Path) -> None:
    painted_library(draw_all(tmp_path / "paintings", [1, 2, 3]), tmp_path / "library")
    photos = draw_all(tmp_path / "photos", [21, 22])
    run(tmp_path / "run", photos, method="painting", library=tmp_path / "library", draw="round-robin")
    found = drawn(tmp_path / "run")
    assert in_provenance(tmp_path / "run") == {name: {source} for name, source in found.items()}
    assert len(set(found.values())) == 2


def test_what_a_worker_keeps_of_sources_changes_no_picture(
    shelf: Shelf,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(tmp_path / "kept", photos, library=shelf.library, draw="random")
    made: list[str] = []
    make = OneSource._made

    def counted(self: OneSource, source: str) -> object:
        made.append(source)
        self._room = 0
        return make(self, source)

    monkeypatch.setattr(OneSource, "_made", counted)
    run(tmp_path / "made", photos, library=shelf.library, draw="random")
    assert len(made) > len(set(made))
    assert hashes(tmp_path / "kept", "images") == hashes(tmp_path / "made", "images")


def test_class_folders_stay_and_equal_names_do_not_meet(shelf: Shelf, tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        draw_all(tmp_path / "data" / name, [41 + number])
        (tmp_path / "data" / name / f"{41 + number}.png").rename(tmp_path / "data" / name / "1.png")
    run(tmp_path / "run", tmp_path / "data", library=shelf.library, draw="random", settings={"format": "jpg"})
    found = sorted(path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*.jpg"))
    assert found == ["images/cat/1.png.jpg", "images/dog/1.png.jpg"]
    with Image.open(tmp_path / "run" / found[0]) as picture:
        assert picture.size == (64, 50)


@pytest.mark.parametrize(
    ("method", "choice", "words"),
    [
        ("knowledge", {"seed": 1}, "--seed 1 has no effect"),
        ("knowledge", {"draw": "nearest", "seed": 1}, "--seed 1 has no effect"),
        ("identity", {"draw": "random"}, "has no single sources"),
    ],
)
def test_options_without_effect_are_refused(
    shelf: Shelf,
    method: str,
    choice: dict[str, object],
    words: str,
) -> None:
    library = {"library": shelf.library} if method == "knowledge" else {}
    with pytest.raises(UsageError, match=words):
        choose(method, {}, Choice(**library, **choice))  # type: ignore[arg-type]


def test_weights_and_styles_without_effect_are_refused(shelf: Shelf) -> None:
    with pytest.raises(UsageError, match=r"weight of .* has no effect with --source random"):
        choose("knowledge", {}, Choice(library=[f"{shelf.library}=0.5", str(shelf.other)], draw="random"))
    with pytest.raises(UsageError, match="it draws no style"):
        choose("adain", {}, Choice(styles=shelf.photos, draw="nearest"))


def test_the_nearest_source_asks_for_statistics_before_a_run_is_planned(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="run: kt-batch statistics"):
        run(tmp_path / "run", shelf.photos, library=shelf.other, draw="nearest")
    assert not (tmp_path / "run").exists()
