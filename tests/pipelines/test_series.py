"""Photographs of a series share one edit, which never changes once it is made."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kt_batch.config import RunOptions
from kt_batch.errors import DamagedError
from kt_batch.maintenance.gc import gc
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.maintenance.verify import verify
from kt_batch.methods.retouch.series import SharedEdit, share_edit
from kt_batch.pipelines.estimate import DryRunRequest, estimate_translate
from kt_batch.pipelines.progress import Step, no_progress
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.local import LocalRunner
from kt_batch.store.opening import open_run
from tests.support.bursts import edited, shoot
from tests.support.pairs import draw_pairs, fitted, paired
from tests.support.tiny import hashes, rows


def dusk(values):  # type: ignore[no-untyped-def]
    """Brighten dark pictures, and leave bright ones: an edit that differs between photographs."""
    return (values ** (0.5 + values.mean())).clip(0, 1)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    paired(*draw_pairs(folder, range(1, 13), dusk), folder / "library")
    fitted(folder / "library")
    return folder / "library"


@pytest.fixture
def wedding(tmp_path: Path) -> Path:
    """Return a folder with a burst of three, the same scene an hour later, and an unlike picture within the burst."""
    folder = tmp_path / "wedding"
    for number, stops in enumerate((0.0, 0.12, -0.12)):
        shoot(folder / f"burst{number}.jpg", 21, f"2026:06:01 10:00:0{number}", stops=stops, crop=number)
    shoot(folder / "later.jpg", 21, "2026:06:01 11:00:00", stops=0.05)
    shoot(folder / "unlike.jpg", 21, "2026:06:01 10:00:01", grey=True, stops=-1.5)
    return folder


def by_name(run: Path) -> dict[str, dict[str, Any]]:
    """Return the edits of a run by the name of the photograph."""
    return {Path(row["output"]).name.partition(".")[0]: row for row in rows(run, "edits")}


def digest(run: Path) -> str | None:
    summary = verify(str(run), no_progress)
    assert summary.faults == ()
    return summary.digest


BURST = ("burst0", "burst1", "burst2")


def test_a_burst_shares_one_edit(wedding: Path, library: Path, tmp_path: Path) -> None:
    edited([wedding], library, tmp_path / "run")
    edits = by_name(tmp_path / "run")
    assert len({tuple(edits[name]["map"]) for name in BURST}) == 1
    assert len({edits[name]["series"] for name in BURST}) == 1
    edited([wedding], library, tmp_path / "apart", "none")
    apart = by_name(tmp_path / "apart")
    assert len({tuple(apart[name]["map"]) for name in BURST}) == 3
    assert "series" not in apart["burst0"]


def test_the_same_scene_an_hour_later_is_another_series(wedding: Path, library: Path, tmp_path: Path) -> None:
    edited([wedding], library, tmp_path / "run")
    edits = by_name(tmp_path / "run")
    assert edits["later"]["series"] not in (edits["burst0"]["series"], None)


def test_an_unlike_picture_within_the_seconds_of_a_burst_is_left_out(
    wedding: Path, library: Path, tmp_path: Path
) -> None:
    edited([wedding], library, tmp_path / "run")
    edits = by_name(tmp_path / "run")
    assert edits["unlike"]["series"] not in (edits["burst0"]["series"], None)


def test_all_photographs_of_a_folder_share_one_edit_and_other_folders_have_another(
    wedding: Path, library: Path, tmp_path: Path
) -> None:
    shoot(tmp_path / "wedding/evening/dark.jpg", 22, None, stops=-1)
    edited([wedding], library, tmp_path / "run", "folder")
    edits = by_name(tmp_path / "run")
    dark = edits.pop("dark")
    assert len({tuple(edit["map"]) for edit in edits.values()}) == 1
    assert len({edit["series"] for edit in edits.values()} | {dark["series"]}) == 2


def test_photographs_without_a_capture_time_have_the_edits_that_they_have_without_series(
    library: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    for number in range(2):
        shoot(photos / f"{number}.jpg", 21, None, stops=number / 10)
    edited([photos], library, tmp_path / "run")
    edited([photos], library, tmp_path / "apart", "none")
    assert [row["series"] for row in rows(tmp_path / "run", "edits")] == [None, None]
    assert hashes(tmp_path / "run", "images") == hashes(tmp_path / "apart", "images")


def test_a_command_says_how_many_of_its_photographs_share_new_edits_and_how_many_join_earlier_series(
    wedding: Path, library: Path, tmp_path: Path
) -> None:
    steps: list[Step] = []
    late = wedding / "burst2.jpg"
    hidden = late.rename(tmp_path / "hidden.jpg")
    edited([wedding], library, tmp_path / "run", progress=steps.append)
    hidden.rename(late)
    shoot(wedding / "next0.jpg", 21, "2026:06:02 10:00:00")
    shoot(wedding / "next1.jpg", 21, "2026:06:02 10:00:01", stops=0.1)
    edited([wedding], library, tmp_path / "run", progress=steps.append)
    assert [step.note for step in steps if step.note and step.note.startswith("Series")] == [
        "Series: 2 photographs share 1 new edits, 2 share none.",
        "Series: 2 photographs share 1 new edits, 1 have the edit of an earlier series, 0 share none.",
    ]


def test_times_with_an_offset_are_compared_by_the_clock_of_the_world(library: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shoot(photos / "here.jpg", 21, "2026:06:01 10:00:00.20+02:00")
    shoot(photos / "there.jpg", 21, "2026:06:01 09:00:01.50+01:00", stops=0.1)
    shoot(photos / "elsewhere.jpg", 21, "2026:06:01 10:00:00.20+01:00", stops=0.05)
    shoot(photos / "anywhere.jpg", 21, "2026:06:01 10:00:00.20", stops=0.02)
    edited([photos], library, tmp_path / "run")
    edits = by_name(tmp_path / "run")
    assert edits["here"]["series"] == edits["there"]["series"]
    assert len({edit["series"] for edit in edits.values()}) == 3


def test_a_late_photograph_adopts_the_frozen_edit_and_changes_no_byte(
    wedding: Path, library: Path, tmp_path: Path
) -> None:
    late = shoot(tmp_path / "late.jpg", 21, "2026:06:01 10:00:03.5", stops=0.2, crop=2)
    run = tmp_path / "run"
    edited([wedding], library, run)
    before, edit = hashes(run), by_name(run)["burst0"]
    shutil.copy(late, wedding / "late.jpg")
    edited([wedding], library, run)
    after = hashes(run)
    assert {name: after[name] for name in before if name != "run.json"} == {
        name: content for name, content in before.items() if name != "run.json"
    }
    assert by_name(run)["late"]["map"] == edit["map"]
    assert by_name(run)["late"]["series"] == edit["series"]
    assert digest(run) is not None


def test_a_late_photograph_of_a_folder_adopts_its_edit(wedding: Path, library: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    edited([wedding], library, run, "folder")
    shoot(wedding / "late.jpg", 23, None, stops=-1)
    edited([wedding], library, run, "folder")
    assert len({tuple(row["map"]) for row in rows(run, "edits")}) == 1


def test_units_order_and_times_of_files_change_nothing(wedding: Path, library: Path, tmp_path: Path) -> None:
    edited([wedding], library, tmp_path / "run", unit_size=8)
    photos = sorted(wedding.iterdir())
    random.Random(1).shuffle(photos)
    for photo in photos:
        photo.touch()
    edited(photos, library, tmp_path / "other", unit_size=1)
    assert hashes(tmp_path / "run", "images") == hashes(tmp_path / "other", "images")
    assert digest(tmp_path / "run") == digest(tmp_path / "other")
    names = [hashes(tmp_path / run, "series")["series/000000.parquet"] for run in ("run", "other")]
    assert names[0] == names[1]


def test_a_run_killed_between_series_and_pictures_goes_on_with_the_same_series(
    wedding: Path, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("kt_batch.pipelines.translate.worker.TranslateWorker.__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            edited([wedding], library, run)
    frozen = hashes(run, "series")
    assert "series/000000.parquet" in frozen
    edited([wedding], library, run)
    assert hashes(run, "series") == frozen
    edited([wedding], library, tmp_path / "whole")
    assert digest(run) == digest(tmp_path / "whole")


def test_photographs_that_come_before_a_killed_run_goes_on_do_not_change_its_series(
    wedding: Path, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = tmp_path / "late.jpg"
    shoot(late, 21, "2026:06:01 10:00:02.5", stops=0.3)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    edited([wedding], library, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("kt_batch.pipelines.translate.describe.DescribeWorker.__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            edited([wedding], library, tmp_path / "run")
    shutil.copy(late, wedding / "late.jpg")
    edited([wedding], library, tmp_path / "run")
    wanted, made = hashes(tmp_path / "whole", "images"), hashes(tmp_path / "run", "images")
    assert {name: made[name] for name in wanted} == wanted
    assert by_name(tmp_path / "run")["late"]["map"] == by_name(tmp_path / "whole")["burst0"]["map"]


def test_a_file_that_cannot_be_read_is_one_reject_and_the_same_as_without_series(
    wedding: Path, library: Path, tmp_path: Path
) -> None:
    (wedding / "broken.jpg").write_bytes((wedding / "burst0.jpg").read_bytes()[:700])
    (wedding / "text.jpg").write_text("no picture")
    summary = edited([wedding], library, tmp_path / "run")
    apart = edited([wedding], library, tmp_path / "apart", "none")
    assert (summary.images, summary.rejected) == (5, 2)
    assert summary.rejects == apart.rejects
    assert len(by_name(tmp_path / "run")) == 5


def test_a_rejected_photograph_that_is_tried_again_adopts_its_series(
    wedding: Path, library: Path, tmp_path: Path
) -> None:
    run, hidden, photo = tmp_path / "run", tmp_path / "hidden.jpg", wedding / "burst1.jpg"
    options = RunOptions(threads=1, unit_size=2, retry_rejected=True)

    def hide(step: Step) -> None:
        """Take the photograph away once it is planned."""
        if step.stage == "describe" and photo.exists():
            photo.rename(hidden)

    edited([wedding], library, run, progress=hide)
    assert "burst1" not in by_name(run)
    hidden.rename(photo)
    summary = edited([wedding], library, run, options=options)
    edits = by_name(run)
    assert summary.rejected == 0
    assert edits["burst1"]["map"] == edits["burst0"]["map"]


def test_copies_in_two_folders_may_have_two_edits(library: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shoot(photos / "a/one.jpg", 21, None)
    shoot(photos / "a/two.jpg", 22, None, stops=-1)
    (photos / "b").mkdir()
    shutil.copy(photos / "a/one.jpg", photos / "b/copy.jpg")
    edited([photos], library, tmp_path / "run", "folder")
    edits = by_name(tmp_path / "run")
    assert edits["one"]["map"] == edits["two"]["map"]
    assert edits["copy"]["map"] != edits["one"]["map"]


def test_pictures_in_shards_have_the_bytes_of_files(wedding: Path, library: Path, tmp_path: Path) -> None:
    edited([wedding], library, tmp_path / "files")
    edited([wedding], library, tmp_path / "shards", output="tar")
    files, shards = (
        {name: output.sha256 for name, output in open_run(str(tmp_path / run)).outputs.items()}
        for run in ("files", "shards")
    )
    assert files == shards
    assert digest(tmp_path / "shards") is not None


@pytest.mark.parametrize(("suffix", "form"), [("png", "PNG"), ("tif", "TIFF"), ("webp", "WEBP")])
def test_capture_times_of_other_formats_count(library: Path, tmp_path: Path, suffix: str, form: str) -> None:
    photos = tmp_path / "photos"
    for number in range(2):
        shoot(photos / f"{number}.{suffix}", 21, f"2026:06:01 10:00:0{number}", stops=number / 10, form=form)
    edited([photos], library, tmp_path / "run")
    assert len({row["series"] for row in rows(tmp_path / "run", "edits")} - {None}) == 1


def test_a_dry_run_with_a_pilot_makes_no_series(wedding: Path, library: Path, tmp_path: Path) -> None:
    config, sources = choose("retouch", {"series": "time"}, Choice(library=str(library)))
    run = tmp_path / "run"
    request = TranslateRequest([str(wedding)], str(run), config, sources, RunOptions(threads=1))
    estimate = estimate_translate(request, DryRunRequest(pilot=2), LocalRunner(), no_progress)
    assert estimate.to_do == 5
    assert not run.exists()


def test_a_series_file_that_is_gone_is_said(wedding: Path, library: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    edited([wedding], library, run)
    (run / "series/000000.parquet").unlink()
    shoot(wedding / "late.jpg", 21, "2026:06:01 10:00:03")
    with pytest.raises(DamagedError, match=r"series/000000\.parquet is gone"):
        edited([wedding], library, run)


def test_pictures_are_computed_again_and_are_equal(wedding: Path, library: Path, tmp_path: Path) -> None:
    edited([wedding], library, tmp_path / "run")
    summary = recompute(str(tmp_path / "run"), Recompute(5), no_progress)
    assert len(summary.equal) == 5


def test_a_planted_edit_of_a_series_is_found(
    wedding: Path, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(*arguments: Any) -> SharedEdit:
        edit = share_edit(*arguments)
        return replace(edit, coefficients=edit.coefficients * 0.9)

    with monkeypatch.context() as patch:
        patch.setattr("kt_batch.pipelines.translate.series.share_edit", planted)
        edited([wedding], library, tmp_path / "run")
    assert digest(tmp_path / "run") is not None
    assert len(recompute(str(tmp_path / "run"), Recompute(5), no_progress).different) == 5


def test_gc_keeps_the_files_of_series_and_removes_what_killed_workers_left(
    wedding: Path, library: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    edited([wedding], library, run)
    assert gc(str(run), no_progress).orphans == ()
    assert gc(str(run), no_progress).foreign == 0
    (part,) = sorted((run / "series/build/described").iterdir())[:1]
    left = part.with_name(f"{part.name[:21]}-0123456789abcdef.parquet")
    left.write_bytes(b"half")
    (run / "series/notes.txt").write_text("mine")
    found = gc(str(run), no_progress, delete=True)
    assert [orphan.name for orphan in found.orphans] == [f"series/build/described/{left.name}"]
    assert found.foreign == 1
    assert digest(run) is not None


def test_verify_finds_damage_in_the_files_of_series(wedding: Path, library: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    edited([wedding], library, run)
    (part,) = sorted((run / "series/build/described").iterdir())[:1]
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    frozen = run / "series/000000.parquet"
    frozen.write_bytes(frozen.read_bytes()[:-30])
    faults = verify(str(run), no_progress).faults
    assert len(faults) == 2
    frozen.unlink()
    assert any("series/000000.parquet" in fault for fault in verify(str(run), no_progress).faults)
