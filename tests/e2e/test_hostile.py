"""Files as they arrive in practice and in attacks, through the real commands: each ends as an image or as a reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.conftest import Ended, Small, kt
from tests.hostile import Case, make_corpus
from tests.tiny import column, draw, hashes, rows


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case]]:
    folder = tmp_path_factory.mktemp("hostile") / "in"
    folder.mkdir()
    return folder, make_corpus(folder)


def expected(folder: Path, cases: list[Case]) -> tuple[set[str], dict[str, str]]:
    """URIs of the good files, and URI -> reason of the bad ones."""
    good = {str(folder / case.name) for case in cases if case.verdict == "good"}
    return good, {str(folder / case.name): str(case.verdict) for case in cases if case.verdict != "good"}


def no_traceback(ended: Ended) -> None:
    assert "Traceback" not in ended.err
    assert "internal error" not in ended.err
    assert "Warning" not in ended.err


def test_every_file_becomes_part_of_the_library_or_a_reject_with_its_reason(
    corpus: tuple[Path, list[Case]], tmp_path: Path
) -> None:
    folder, cases = corpus
    files = [folder / case.name for case in cases]
    ended = kt("extract", *files, "--library", tmp_path / "library", "--size", 64, "--threads", 1, "--json")
    no_traceback(ended)
    good, bad = expected(folder, cases)
    assert {row["uri"]: row["reason"] for row in rows(tmp_path / "library", "rejects")} == bad
    found = [uri for uris in column(tmp_path / "library", "images", "uris") for uri in uris]
    assert sorted(found) == sorted(good)
    assert (ended.code, ended.json["images"], ended.json["rejected"]) == (3, len(good), len(bad))
    assert all(row["message"] for row in rows(tmp_path / "library", "rejects"))


def test_every_file_becomes_an_output_or_a_reject_with_its_reason(
    corpus: tuple[Path, list[Case]], small: Small, tmp_path: Path
) -> None:
    folder, cases = corpus
    run = tmp_path / "run"
    files = [folder / case.name for case in cases]
    ended = kt("translate", *files, "--library", small.library, "--out", run, "--threads", 1, "--json")
    no_traceback(ended)
    good, bad = expected(folder, cases)
    assert {row["uri"]: row["reason"] for row in rows(run, "rejects")} == bad
    outputs = {entry["uri"]: name for name, entry in json.loads((run / "run.json").read_text())["outputs"].items()}
    assert outputs.keys() == good
    assert set(outputs.values()) == set(hashes(run, "images"))
    assert (ended.code, ended.json["images"], ended.json["rejected"]) == (3, len(good), len(bad))
    for name in outputs.values():
        with Image.open(run / name) as image:
            image.load()
            assert max(image.size) <= 64


def test_nothing_is_written_outside_the_run(corpus: tuple[Path, list[Case]], small: Small, tmp_path: Path) -> None:
    folder, cases = corpus
    names = [case.name for case in cases if case.note in ("what shells run", "a leading dash", "a line break")]
    assert len(names) == 3
    files = [folder / name for name in names]
    before = set(folder.iterdir())
    ended = kt("translate", *files, "--library", small.library, "--out", tmp_path / "run", "--threads", 1)
    assert ended.code == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]
    assert set(folder.iterdir()) == before


def test_a_directory_takes_what_is_an_image_by_its_name_wherever_it_lies(small: Small, tmp_path: Path) -> None:
    draw(tmp_path / "in/été 夏/a b.png", 21)
    draw(tmp_path / "in/other/a b.png", 22)
    draw(tmp_path / "in/.hidden/c.png", 23)
    shutil.copy(tmp_path / "in/other/a b.png", tmp_path / "in/notes.txt")
    ended = kt("translate", tmp_path / "in", "--library", small.library, "--out", tmp_path / "out ü", "--threads", 1)
    assert ended.code == 0
    assert sorted(hashes(tmp_path / "out ü", "images")) == ["images/other/a b.png.png", "images/été 夏/a b.png.png"]
