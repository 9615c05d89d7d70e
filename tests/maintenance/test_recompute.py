"""Images of a library or a run, done once more and compared."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.pipelines.progress import no_progress
from kt_batch.store.locations import open_location
from kt_batch.store.units import Ledger
from tests.support.collection import Collection
from tests.support.tiny import draw_all, hashes, translate_request, translated


@pytest.fixture
def place(collection: Collection, tmp_path: Path) -> Path:
    """Return a folder with photographs and a run."""
    shutil.copytree(collection.photos, tmp_path / "photos")
    translated([tmp_path / "photos"], translate_request(collection.library, tmp_path / "run", collection.index))
    return tmp_path


def plant(run: Path, name: str, picture: bytes) -> None:
    """Put another picture in place of an output and mend its receipt, as somebody who may write there can."""
    before = hashlib.sha256((run / name).read_bytes()).hexdigest()
    (run / name).unlink()
    (run / name).write_bytes(picture)
    for path in (run / "receipts").iterdir():
        text = path.read_text()
        if before in text:
            receipt = json.loads(text)
            receipt["outputs"] = [
                [hashlib.sha256(picture).hexdigest(), len(picture)] if output and output[0] == before else output
                for output in receipt["outputs"]
            ]
            path.unlink()
            path.write_text(json.dumps(receipt))


def test_images_of_a_run_are_equal_when_done_once_more(place: Path) -> None:
    before = hashes(place / "run")
    summary = recompute(str(place / "run"), Recompute(2), no_progress)
    assert (len(summary.equal), summary.checked, summary.absent) == (2, 2, [])
    assert hashes(place / "run") == before


def test_a_planted_picture_with_a_receipt_that_fits_is_found(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(place / "run", "images/11.png.png", (place / "run/images/12.png.png").read_bytes())
    assert run_app(app, ["verify", str(place / "run")]) == 0  # everything agrees
    capsys.readouterr()
    assert run_app(app, ["verify", str(place / "run"), "--recompute", "3", "--json"]) == 1
    again = json.loads(capsys.readouterr().out)["recompute"]
    assert (again["different"], sorted(again["equal"])) == (["11.png"], ["12.png", "13.png"])
    assert run_app(app, ["verify", str(place / "run"), "--recompute", "3"]) == 1
    assert ": 2 equal, 1 different\n    different: 11.png" in capsys.readouterr().out


def test_an_input_that_is_gone_or_changed_is_counted_and_the_next_one_taken(place: Path) -> None:
    (place / "photos/11.png").unlink()
    shutil.copy(place / "photos/13.png", place / "photos/12.png")
    summary = recompute(str(place / "run"), Recompute(1), no_progress)
    assert (summary.equal, set(summary.absent) <= {"11.png", "12.png"}) == (["13.png"], True)
    assert recompute(str(place / "run"), Recompute(3), no_progress).checked == 1


def test_which_images_follows_from_the_seed(place: Path) -> None:
    first = {seed: recompute(str(place / "run"), Recompute(1, seed), no_progress).equal for seed in range(6)}
    assert recompute(str(place / "run"), Recompute(1, 3), no_progress).equal == first[3]
    assert len({tuple(names) for names in first.values()}) > 1


def test_patches_of_a_library_are_equal_when_extracted_once_more(collection: Collection) -> None:
    summary = recompute(str(collection.library), Recompute(3), no_progress)
    assert (summary.checked, len(summary.equal)) == (3, 3)


def test_a_run_of_style_images_is_done_once_more(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    styles = draw_all(place / "styles", [1, 2])
    words = [
        "translate",
        str(place / "photos"),
        "--method",
        "adain",
        "--style",
        str(styles),
        "--out",
        str(place / "adain"),
    ]
    assert run_app(app, [*words, "--size", "64", "--threads", "1"]) == 0
    summary = recompute(str(place / "adain"), Recompute(2), no_progress)
    assert (summary.checked, len(summary.equal)) == (2, 2)
    capsys.readouterr()


def test_nothing_is_written_into_the_place(place: Path) -> None:
    ledger = Ledger(open_location(str(place / "run")))
    before = ledger.snapshot()
    recompute(str(place / "run"), Recompute(1), no_progress)
    assert Ledger(open_location(str(place / "run"))).snapshot() == before
