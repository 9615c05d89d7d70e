"""What is said of rejected inputs, and of the sizes of pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.cli.rejects import rejects_csv
from kt_batch.store.attempts import Reject
from tests.support.collection import Collection
from tests.support.tiny import draw


def kt(*words: object) -> int:
    return run_app(app, [str(word) for word in words])


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Return a folder with a photograph and twelve files that are none."""
    draw(tmp_path / "in/good.png", 21)
    for number in range(12):
        (tmp_path / f"in/bad{number:02}.png").write_bytes(b"no image")
    return tmp_path / "in"


def test_the_first_ten_rejects_are_named_and_the_others_counted(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kt("extract", mixed, "--library", tmp_path / "lib", "--size", 64, "--threads", 1) == 3
    lines = capsys.readouterr().out.splitlines()
    named = [line for line in lines if "not_an_image, the file begins with" in line]
    assert [line.split(":")[0].strip() for line in named] == [f"bad{number:02}.png" for number in range(10)]
    assert "    and 2 more; --rejects-csv FILE writes all, rejects/ holds all" in lines


def test_rejects_stand_in_the_summary_the_report_and_a_file(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "rejects.csv"
    words = ("extract", mixed, "--library", tmp_path / "lib", "--size", 64, "--threads", 1, "--rejects-csv", table)
    assert kt(*words, "--json") == 3
    names = [f"bad{number:02}.png" for number in range(12)]
    assert [reject["name"] for reject in json.loads(capsys.readouterr().out)["rejects"]] == names
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == names
    assert {(row["stage"], row["reason"]) for row in rows} == {("decode", "not_an_image")}
    assert kt(*words) == 3  # its own earlier table is replaced
    capsys.readouterr()
    assert kt("report", tmp_path / "lib", "--json") == 0
    assert [reject["name"] for reject in json.loads(capsys.readouterr().out)["rejected"]] == names


def test_a_table_of_rejects_replaces_no_other_file(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letter.csv").write_text("dear")
    for target in (tmp_path / "letter.csv", mixed / "good.png"):
        before = target.read_bytes()
        words = ("extract", mixed, "--library", tmp_path / "lib", "--rejects-csv", target)
        assert kt(*words) == 2
        assert target.read_bytes() == before
        assert f"--rejects-csv '{target}'" in capsys.readouterr().err
    assert not (tmp_path / "lib").exists()


def test_the_log_and_the_table_of_rejects_are_two_files(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both, link = tmp_path / "both", tmp_path / "link"
    link.symlink_to("both")
    for name in (both, link):
        words = ("extract", mixed, "--library", tmp_path / "lib", "--rejects-csv", both, "--log-file", name)
        assert kt(*words) == 2
        assert f"--rejects-csv and --log-file both name '{name}'" in capsys.readouterr().err
        assert not both.exists()


def test_a_table_of_rejects_that_cannot_be_forced_names_no_force(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.csv").write_text("dear")
    assert kt("extract", mixed, "--library", tmp_path / "lib", "--rejects-csv", tmp_path / "mine.csv") == 2
    assert "--force" not in capsys.readouterr().err


def test_a_spreadsheet_computes_no_cell_of_a_table_of_rejects() -> None:
    data = rejects_csv([Reject("=1+1.png", "@x", "decode", "empty", "-1")]).decode()
    assert data.splitlines()[1] == "'=1+1.png,'@x,decode,empty,'-1"


def test_a_library_without_images_is_not_to_be_indexed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert kt("extract", tmp_path / "bad.png", "--library", tmp_path / "lib") == 3
    assert "kt-batch index" not in capsys.readouterr().out


def test_explaining_a_reject_says_why_there_is_no_picture(
    collection: Collection, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert kt("translate", mixed, "--library", collection.library, "--out", run, "--threads", 1) == 3
    capsys.readouterr()
    assert kt("explain", run, "bad03.png", "--at", "1,1") == 2
    said = capsys.readouterr().err
    assert f"There is no picture of 'bad03.png' in '{run.as_uri()}': it was rejected (not_an_image, at the" in said


@pytest.mark.parametrize("name", ["new\nline.png", "\x1b[31m.png", "back\\slash.png", "\udcff.png"])
def test_an_input_may_be_named_as_its_file_is_called(
    name: str, collection: Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in/bad").mkdir(parents=True)
    draw(tmp_path / "in" / name, 21)
    (tmp_path / "in/bad" / name).write_bytes(b"no image")
    run = tmp_path / "run"
    assert kt("translate", tmp_path / "in", "--library", collection.library, "--out", run, "--threads", 1) == 3
    assert kt("explain", run, name, "--at", "1,1") == 0
    capsys.readouterr()
    assert kt("explain", run, f"bad/{name}", "--at", "1,1") == 2
    assert "it was rejected (not_an_image" in capsys.readouterr().err


def test_pictures_smaller_than_their_photographs_are_pointed_out(
    collection: Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "in/large.png", 21, 300, 200)
    words = ("translate", tmp_path / "in", "--library", collection.library, "--out", tmp_path / "run", "--threads", 1)
    assert kt(*words) == 0
    out = capsys.readouterr().out
    assert "1 are smaller than their photographs, which have up to 300 x 200 pixels; --size sets the long side" in out
    assert kt(*words, "--json") == 0
    sizes = json.loads(capsys.readouterr().out)["sizes"]
    assert (sizes["input"], sizes["reduced"]) == ([300, 200], 1)
    assert max(sizes["largest"]) < 300


def test_a_picture_that_became_a_reject_has_no_size(
    collection: Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, run = draw(tmp_path / "in/a.png", 21, 300, 200), tmp_path / "run"
    words = ("translate", tmp_path / "in", "--library", collection.library, "--out", run, "--threads", 1, "--json")
    assert kt(*words) == 0
    for receipt in (run / "receipts").iterdir():  # as after a kill between output and receipt
        receipt.unlink()
    draw(photo, 22, 300, 200)
    capsys.readouterr()
    assert kt(*words) == 3
    summary = json.loads(capsys.readouterr().out)
    assert (summary["images"], summary["sizes"]) == (0, None)


def test_a_library_named_as_a_run_is_one_sentence(
    collection: Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "in/a.png", 21)
    assert kt("translate", tmp_path / "in", "--library", collection.library, "--out", collection.library) == 2
    assert "is a knowledge library; name a run, or a new folder for one." in capsys.readouterr().err
