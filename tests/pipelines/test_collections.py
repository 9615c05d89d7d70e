"""Several libraries are searched as one, with weights, and their provenance says which is which."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from kt_batch.config import IndexConfig
from kt_batch.errors import MismatchError, MissingError, UsageError
from kt_batch.events import write_log
from kt_batch.maintenance.made_with import MadeWith
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.report.explain import explain
from kt_batch.report.inspect import inspect
from kt_batch.report.session import Session
from kt_batch.report.views import connect
from kt_batch.runners.ray.runner import RayRunner
from tests.support.ray_local import ray_here, ray_runner  # noqa: F401  # the fixtures
from tests.support.shelf import pixels, run
from tests.support.tiny import column, draw_all, encoder_config, extracted, hashes, indexed, painted_library, rows

EXACT = {"searcher": "exact"}


@dataclass(frozen=True)
class Libraries:
    """Two libraries, one of both together, and photographs. Paintings 1 and 2 are in `left`, 3 and 4 in `right`."""

    left: Path
    right: Path
    both: Path
    photos: Path


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    root = tmp_path_factory.mktemp("libraries")
    found = Libraries(root / "libs" / "left", root / "libs" / "right", root / "both", root / "photos")
    left, right = draw_all(root / "paintings" / "left", [1, 2]), draw_all(root / "paintings" / "right", [3, 4])
    for paintings, library in (([left], found.left), ([right], found.right), ([left, right], found.both)):
        extracted(paintings, library)
        indexed(library, config=IndexConfig(merge=1.0, payload="float16", fan_out=4, max_leaf=64))
    draw_all(found.photos, [11, 12])
    return found


def test_two_libraries_give_the_pictures_of_one_of_both(libraries: Libraries, tmp_path: Path) -> None:
    settings = {"search": EXACT}
    run(tmp_path / "two", libraries.photos, library=[libraries.left, libraries.right], settings=settings)
    run(tmp_path / "one", libraries.photos, library=libraries.both, settings=settings)
    assert pixels(tmp_path / "two") == pixels(tmp_path / "one")
    matches = [
        [
            {name: value for name, value in row.items() if name != "library"}
            for row in rows(tmp_path / name, "provenance")
        ]
        for name in ("two", "one")
    ]
    assert matches[0] == matches[1]


def test_every_match_names_the_library_that_holds_its_image(libraries: Libraries, tmp_path: Path) -> None:
    run(tmp_path / "run", libraries.photos, library=[libraries.left, libraries.right])
    held = {str(library): set(column(library, "images", "image_id")) for library in (libraries.left, libraries.right)}
    found = rows(tmp_path / "run", "provenance")
    assert {row["library"] for row in found} == set(held)
    assert all(row["source_image_id"] in held[row["library"]] for row in found)


def test_a_smaller_weight_gives_a_library_fewer_matches(libraries: Libraries, tmp_path: Path) -> None:
    shares = []
    for number, weight in enumerate(("1", "0.95", "0.001")):
        named = [str(libraries.left), f"{libraries.right}={weight}"]
        run(tmp_path / str(number), libraries.photos, library=named)
        found = rows(tmp_path / str(number), "provenance")
        shares.append(sum(row["library"] == str(libraries.right) for row in found) / len(found))
    assert shares[0] > shares[1] > shares[2] == 0


def test_a_pattern_stands_for_the_libraries_that_it_matches(libraries: Libraries, tmp_path: Path) -> None:
    run(tmp_path / "named", libraries.photos, library=[libraries.left, libraries.right])
    run(tmp_path / "pattern", libraries.photos, library=f"{libraries.left.parent}/*")
    assert hashes(tmp_path / "pattern", "images") == hashes(tmp_path / "named", "images")


def test_a_pixel_is_explained_from_any_of_the_libraries(libraries: Libraries, tmp_path: Path) -> None:
    run(tmp_path / "run", libraries.photos, library=[libraries.left, libraries.right])
    places = [(photo, x, y) for photo in ("11.png", "12.png") for x in range(2, 64, 9) for y in range(2, 50, 9)]
    session = Session.open(str(tmp_path / "run"))
    parts = [part for place in places for part in session.explain(*place).contributions]
    assert {part.library for part in parts} == {str(libraries.left), str(libraries.right)}
    assert all(Path(part.uris[0]).parent.name == Path(part.library).name for part in parts)
    (tmp_path / "run" / "run.json").unlink()  # as in a run that is not finished
    assert explain(str(tmp_path / "run"), "11.png", 20, 20).contributions


def test_a_run_of_moved_libraries_is_explained_and_done_once_more(libraries: Libraries, tmp_path: Path) -> None:
    for place in (libraries.left, libraries.right):
        shutil.copytree(place, tmp_path / "old" / place.name)
    old, new = ([str(tmp_path / where / name) for name in ("left", "right")] for where in ("old", "new"))
    run(tmp_path / "run", libraries.photos, library=[f"{old[0]}=0.5", f"{old[1]}=0.9"])
    assert len(recompute(str(tmp_path / "run"), Recompute(2), no_progress).equal) == 2
    facts = inspect(str(tmp_path / "run"))
    named = [(facts["library"], facts["library_weight"])]
    named += [(each["library"], each["weight"]) for each in facts["further_libraries"]]
    assert named == [(old[0], 0.5), (old[1], 0.9)]
    before = explain(str(tmp_path / "run"), "11.png", 20, 20).contributions
    (tmp_path / "old").rename(tmp_path / "new")
    extracted([libraries.photos], Path(new[1]))  # grown, and not indexed again
    with pytest.raises(MissingError, match="say where it is now"):
        explain(str(tmp_path / "run"), "11.png", 20, 20)
    after = explain(str(tmp_path / "run"), "11.png", 20, 20, new).contributions
    assert [each.uris for each in after] == [each.uris for each in before]
    again = recompute(str(tmp_path / "run"), Recompute(2, made=MadeWith(libraries=tuple(new))), no_progress)
    assert len(again.equal) == 2
    for work in (
        lambda: explain(str(tmp_path / "run"), "11.png", 20, 20, new[0]),
        lambda: recompute(str(tmp_path / "run"), Recompute(2, made=MadeWith(libraries=(new[0],))), no_progress),
    ):
        with pytest.raises(UsageError, match="made from 2 libraries, and --library names 1"):
            work()


def test_a_library_in_a_store_that_the_caller_did_not_name_is_not_asked_for(
    libraries: Libraries, tmp_path: Path
) -> None:
    run(tmp_path / "run", libraries.photos, library=[libraries.left, libraries.right])
    summary = json.loads((tmp_path / "run" / "run.json").read_text())
    for stranger in ({"library": "s3://stranger/a"}, {"libraries": [str(libraries.left), "s3://stranger/a"]}):
        (tmp_path / "run" / "run.json").unlink()
        (tmp_path / "run" / "run.json").write_text(json.dumps(summary | stranger))
        with pytest.raises(UsageError, match="in a store that you did not name"):
            explain(str(tmp_path / "run"), "11.png", 20, 20)


def test_the_view_of_sources_covers_all_libraries(libraries: Libraries, tmp_path: Path) -> None:
    run(tmp_path / "run", libraries.photos, library=[libraries.left, libraries.right])
    with connect(str(tmp_path / "run")) as connection:
        (counted,) = connection.execute("SELECT count(*) FROM sources").fetchall()
        (all_rows,) = connection.execute("SELECT count(*) FROM provenance").fetchall()
    assert counted == all_rows


def test_a_run_of_other_weights_is_another_run(libraries: Libraries, tmp_path: Path) -> None:
    named = [str(libraries.left), str(libraries.right)]
    run(tmp_path / "run", libraries.photos, library=named)
    with pytest.raises(MismatchError):
        run(tmp_path / "run", libraries.photos, library=[named[0], f"{named[1]}=0.5"])


def test_libraries_that_do_not_fit_are_refused_in_a_sentence(libraries: Libraries, tmp_path: Path) -> None:
    extracted([libraries.photos], tmp_path / "large", encoder=encoder_config(size=48))
    indexed(tmp_path / "large")
    with pytest.raises(MismatchError, match=r"cannot be searched together.*relu3_1@64.*relu3_1@48"):
        choose("knowledge", {}, Choice(library=[libraries.left, tmp_path / "large"]))
    (tmp_path / "link").symlink_to(libraries.left)
    for given, words in (
        ([libraries.left, libraries.left], "named twice"),
        ([libraries.left, tmp_path / "link"], "named twice"),
        ([f"{libraries.left}=0"], "weight 0"),
        ([f"{libraries.left}=-1"], "weight -1"),
        ([f"{libraries.left}=nan"], "weight nan"),
        ([str(libraries.photos / "*")], "matches no knowledge library"),
    ):
        with pytest.raises(UsageError, match=words):
            choose("knowledge", {}, Choice(library=given))
    with pytest.raises(UsageError, match="knowledge needs --library"):
        choose("knowledge", {}, Choice(library=[]))
    with pytest.raises(UsageError, match="takes one library"):
        choose("adain", {}, Choice(library=[libraries.left, libraries.right]))


def test_a_single_library_has_the_configuration_that_it_always_had(libraries: Libraries) -> None:
    plain = choose("knowledge", {}, Choice(library=libraries.left))[0]
    assert choose("knowledge", {}, Choice(library=[f"{libraries.left}=0.5"]))[0] == plain
    assert not {"library_weight", "further_libraries"} & plain.model_dump(mode="json").keys()


def test_another_library_on_a_warm_pool_loads_no_network(
    libraries: Libraries,
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    log = tmp_path / "log"
    with write_log(str(log)):
        for number, library in enumerate((libraries.left, libraries.right, libraries.both)):
            run(tmp_path / str(number), libraries.photos, library=library, runner=ray_runner, unit_size=1)
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    first_run = events.index("summary") + 1
    assert events[:first_run].count("network_loaded") >= 2
    assert "network_loaded" not in events[first_run:]


def test_paintings_of_several_libraries_name_the_library_of_every_image(tmp_path: Path) -> None:
    names = ("left", "right")
    for name, seeds in zip(names, ([1, 2], [3, 4]), strict=True):
        painted_library(draw_all(tmp_path / name, seeds), tmp_path / f"{name}.lib")
    places = [str(tmp_path / f"{name}.lib") for name in names]
    run(tmp_path / "run", draw_all(tmp_path / "photos", [11, 12]), method="painting", library=places)
    held = {place: set(column(place, "images", "image_id")) for place in places}
    found = rows(tmp_path / "run", "provenance")
    assert {row["library"] for row in found} == set(places)
    assert all(row["source_image_id"] in held[row["library"]] for row in found)
