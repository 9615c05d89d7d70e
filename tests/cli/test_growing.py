"""Growing an index by the commands and the job: what they say, and what their options do."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import build_library
from tests.cli.conftest import Say
from tests.support.tiny import draw, draw_all, hashes

ONE = ("--threads", "1")
SMALL = ("--size", "64", *ONE)


@pytest.fixture
def library(kt: Say, tmp_path: Path) -> Path:
    """Four paintings and their index, and one painting that was added."""
    place = tmp_path / "lib"
    assert kt("extract", draw_all(tmp_path / "paintings", range(1, 5)), "--library", place, *SMALL).code == 0
    assert kt("index", place, *ONE).code == 0
    assert kt("extract", draw(tmp_path / "more.png", 9), "--library", place, *SMALL).code == 0
    return place


def test_the_index_command_grows_an_index_and_says_from_what(kt: Say, library: Path) -> None:
    (generation,) = (index["index"] for index in kt("index", library, "--status", "--json").json["indexes"])
    said = kt("index", library, *ONE)
    assert said.code == 0
    assert f"grown from {generation} by 180 patches" in said.out
    again = kt("index", library, *ONE, "--json").json
    assert (again["built"], again["generation"], again["patches"], again["new_patches"]) == (
        False,
        generation,
        900,
        180,
    )
    indexes = {index["digest"]: index for index in kt("inspect", library, "--json").json["indexes"]}
    assert (indexes[again["index"]]["generation"], indexes[again["index"]]["share"]) == (generation, 0.2)
    assert (indexes[generation]["generation"], indexes[generation]["share"]) == (None, 0)
    assert f"generation: {generation}\n" in kt("inspect", library).out


def test_fresh_builds_afresh_by_the_command_and_the_job(kt: Say, library: Path, tmp_path: Path) -> None:
    grown = kt("index", library, *ONE, "--json").json
    words = (tmp_path / "paintings", tmp_path / "more.png", "--library", library, *SMALL, "--runner", "local", "--json")
    made = kt(*words, "--fresh", of=build_library.load_app())
    assert made.code == 0, made.err
    assert (made.json["index"]["built"], made.json["index"]["generation"]) == (True, None)
    again = kt("index", library, *ONE, "--fresh", "--json").json
    assert (again["index"], again["built"]) == (made.json["index"]["index"], False)
    assert grown["index"] != again["index"]


def test_the_status_says_what_each_index_has_grown_from_and_builds_nothing(kt: Say, library: Path) -> None:
    said = kt("index", library, "--status")
    assert said.out.splitlines()[0] == f"{library.as_uri()}: 1 index"
    assert "raw, stale: fresh, 720 patches" in said.out
    assert said.out.endswith(f"    The library has changed since; run: kt-batch index {library}\n")
    grown = kt("index", library, *ONE, "--json").json["index"]
    said = kt("index", library, "--status")
    assert f"{grown} of relu3_1@64, raw, current: grown from " in said.out
    assert "by 180 patches (20.0%), drift " in said.out
    assert f"run: kt-batch index {library} --fresh" in said.out
    found = {index["index"]: index for index in kt("index", library, "--status", "--json").json["indexes"]}
    assert len(found) == 2
    assert found[grown]["share"] == 0.2
    assert found[grown]["pays"] is True


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (["--fresh"], "--fresh"),
        (["--at", "relu3_1@64"], "--at"),
        (["--threads", "1"], "--threads"),
        (["--fresh", "--max-leaf", "64", "--runner", "ray"], "--fresh and --max-leaf and --runner"),
        (["--build-memory", "1"], "--build-memory"),
        (["--log-file", "-"], "--log-file"),
    ],
)
def test_the_status_goes_with_no_option_of_a_build(kt: Say, library: Path, other: list[str], named: str) -> None:
    said = kt("index", library, "--status", *other)
    assert said.code == 2
    assert said.err == f"kt-batch: --status reports all indexes and builds none: leave {named} out.\n"


def test_gc_names_the_old_indexes(kt: Say, library: Path) -> None:
    old = kt("index", library, "--status", "--json").json["indexes"][0]["index"]
    assert kt("index", library, *ONE, "--fresh").code == 0
    assert f"  old index {old}" in kt("gc", library, "--old-indexes").out
    assert kt("gc", library, "--old-indexes", "--delete", "--json").json["old_indexes"] == [old]
    assert [index["state"] for index in kt("index", library, "--status", "--json").json["indexes"]] == ["current"]


def test_an_index_for_paintings_grows_and_the_picture_depends_on_no_step(kt: Say, tmp_path: Path) -> None:
    painted = ("--preset", "painting", *ONE)
    first, photo = draw_all(tmp_path / "paintings", range(1, 9)), draw(tmp_path / "photo.png", 11)
    more = [draw(tmp_path / f"more/{seed}.png", seed) for seed in (21, 22)]
    found = []
    for name, steps in (("one", [more]), ("two", [more[:1], more[1:]])):
        library = tmp_path / name
        assert kt("extract", first, "--library", library, "--size", "64", *painted).code == 0
        generation = kt("index", library, *ONE, "--json").json
        assert generation["for_painting"]
        for step in steps:
            assert kt("extract", *step, "--library", library, "--size", "64", "--unit-size", "1", *painted).code == 0
            grown = kt("index", library, *ONE, "--json").json
            assert (grown["generation"], grown["for_painting"]) == (generation["index"], True)
        said = kt(
            "translate", photo, *more, "--library", library, "--out", tmp_path / f"{name}.run", *painted, "--json"
        )
        assert said.code == 0, said.err
        shares = {
            source["uris"][0]: source["share"] for source in kt("inspect", said.json["run"], "--json").json["sources"]
        }
        assert all(shares[str(picture)] > 0.1 for picture in more)  # they were added, and are translated too
        found.append((grown["index"], hashes(library, "index/shards"), hashes(tmp_path / f"{name}.run", "images")))
    assert found[0][0] == found[1][0]
    assert found[0][2] == found[1][2] != {}
    assert found[0][1].items() <= found[1][1].items()
