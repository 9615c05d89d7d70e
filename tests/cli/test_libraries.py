"""`kt-batch libraries` lists what is there, and several libraries are named on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from kt_batch.cli.app import app
from kt_batch.cli.jobs import translate_app
from kt_batch.report.collections import list_libraries
from kt_batch.store import layout
from tests.cli.conftest import Say
from tests.support.s3_server import S3Server, moto_server  # noqa: F401  # the fixture
from tests.support.tiny import draw_all, extracted, indexed, rows

SEARCH = ["--threads", "1"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an indexed library of two pictures, one of one picture two folders deeper, and a run."""
    root = tmp_path_factory.mktemp("shelf")
    extracted([draw_all(root / "pictures" / "a", [1, 2])], root / "shelf" / "a", license="CC0")
    indexed(root / "shelf" / "a")
    extracted([draw_all(root / "pictures" / "b", [3])], root / "shelf" / "more" / "deep" / "b")
    return root / "shelf"


def test_every_library_is_one_row_with_its_facts(shelf: Path) -> None:
    first, second = list_libraries(str(shelf))
    assert (first.place, first.images, first.keys, first.licenses) == (str(shelf / "a"), 2, ("relu3_1@64",), ("CC0",))
    assert first.patches == 2 * 15 * 12
    assert first.index_state == "current"
    assert (second.place, second.index, second.licenses) == (str(shelf / "more" / "deep" / "b"), None, ())
    assert second.bytes < first.bytes


def test_the_table_and_json_say_the_same(kt: Say, shelf: Path) -> None:
    found = kt("libraries", shelf, "--json").json["libraries"]
    table = kt("libraries", shelf)
    assert table.code == 0
    assert [row["place"] for row in found] == [line.split()[-1] for line in table.out.splitlines()[1:]]
    assert found[0]["index"] in table.out


def test_a_damaged_library_is_a_row_with_its_reason_and_no_failure(kt: Say, shelf: Path, tmp_path: Path) -> None:
    broken = tmp_path / "shelf" / "broken"
    (broken / "plan").mkdir(parents=True)
    (broken / layout.plan_path(0)).write_bytes(b"no plan")
    said = kt("libraries", tmp_path / "shelf")
    assert said.code == 0
    assert f"cannot be read: {broken}:" in said.out


def test_links_are_not_followed(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(shelf)
    assert list_libraries(str(tmp_path)) == []


def test_a_place_without_libraries_says_so(kt: Say, tmp_path: Path) -> None:
    said = kt("libraries", tmp_path)
    assert (said.code, said.out.startswith("no library at")) == (0, True)
    assert kt("libraries", tmp_path / "nothing").code == 1


def test_libraries_of_a_bucket_are_found_by_a_pattern_and_listed(
    kt: Say,
    shelf: Path,
    tmp_path: Path,
    moto_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = moto_server.new_location(monkeypatch).uri
    libraries = [f"{place}/libs/{name}" for name in ("a", "c")]
    for library, seed in zip(libraries, (1, 4), strict=True):
        extracted([draw_all(tmp_path / "pictures" / str(seed), [seed])], library)
        indexed(library)
    assert [row.place for row in list_libraries(place)] == libraries
    photos = draw_all(tmp_path / "photos", [11])
    said = kt("translate", photos, "--library", f"{place}/libs/*", "--out", tmp_path / "run", *SEARCH)
    assert said.code == 0, said.err
    assert {row["library"] for row in rows(tmp_path / "run", "provenance")} == set(libraries)


def test_weights_stand_behind_the_names_of_libraries(kt: Say, shelf: Path, tmp_path: Path) -> None:
    extracted([draw_all(tmp_path / "pictures", [4])], tmp_path / "c")
    indexed(tmp_path / "c")
    photos = draw_all(tmp_path / "photos", [11])
    libraries = ["--library", shelf / "a", "--library", f"{tmp_path / 'c'}=0.001"]
    assert kt("translate", photos, *libraries, "--out", tmp_path / "run", *SEARCH).code == 0
    assert {row["library"] for row in rows(tmp_path / "run", "provenance")} == {str(shelf / "a")}
    for words in (("inspect",), ("report",), ("gc",), ("sheet", "--out", tmp_path / "sheet")):
        assert kt(words[0], tmp_path / "run", *words[1:]).code == 0
    refused = kt("translate", photos, *libraries[:3], f"{tmp_path / 'c'}=1001", "--out", tmp_path / "run", *SEARCH)
    assert (refused.code, "allowed is above 0, up to 1000" in refused.err) == (2, True)


@pytest.mark.parametrize("place", ["command", "job"])
def test_filters_and_draws_are_options_of_command_and_job(kt: Say, shelf: Path, tmp_path: Path, place: str) -> None:
    photos = draw_all(tmp_path / "photos", [11, 12])
    head: list[object] = [photos] if place == "job" else ["translate", photos]
    options = ["--library", shelf / "a", "--only-license", "CC0", "--where", "width = 64", "--source", "round-robin"]
    words = [*head, *options, "--seed", "3", "--out", tmp_path / "run", "--runner", "local", *SEARCH]
    of = translate_app() if place == "job" else app
    assert kt(*words, "--dry-run", "--pilot", "1", of=of).code == 0
    assert kt(*words, of=of).code == 0
    assert len({row["source_image_id"] for row in rows(tmp_path / "run", "provenance")}) == 2
    assert kt("verify", tmp_path / "run").code == 0
    again = kt("verify", tmp_path / "run", "--recompute", "2")
    assert (again.code, "was made with a filter" in again.err) == (1, True)
    filters = options[2:6]
    assert kt("verify", tmp_path / "run", "--recompute", "2", *filters, "--json").json["recompute"]["different"] == []
    unused = kt("verify", tmp_path / "run", *filters)
    assert (unused.code, "go with --recompute" in unused.err) == (2, True)
    refused = kt(*words, "--only-tag", "none", of=of)
    assert (refused.code, "licences CC0" in refused.err) == (2, True)


def test_a_file_of_options_may_name_tags_but_a_condition_needs_trust(kt: Say, shelf: Path, tmp_path: Path) -> None:
    photos = draw_all(tmp_path / "photos", [11])
    options = tmp_path / "options.yaml"
    options.write_text(f"library: {shelf / 'a'}\nonly-license: CC0\nthreads: 1\n")
    assert kt("translate", photos, "--config", options, "--out", tmp_path / "run").code == 0
    options.write_text(f"library: {shelf / 'a'}\nwhere: width > 1\nthreads: 1\n")
    refused = kt("translate", photos, "--config", options, "--out", tmp_path / "other")
    assert (refused.code, "--trust-config" in refused.err) == (2, True)
