"""A dry run of pairs predicts the extraction and leaves no trace; so does one of the edits."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from kt_batch.pipelines.pairs.plan import BYTES_OF_PAIR
from tests.e2e.conftest import kt
from tests.support.pairs import draw_pairs, fitted, paired
from tests.support.tiny import draw, draw_all, hashes

QUICK = ("--size", 96, "--threads", 1)


def test_a_dry_run_counts_pairs_and_bytes_and_writes_nothing(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2, 3])
    draw(before / "alone.png", 9)
    ended = kt("extract", "--before", before, "--after", after, "--library", tmp_path / "library", "--dry-run", *QUICK)
    assert ended.code == 0, ended.err
    assert "3 pairs found, 0 done already, 3 to do" in ended.out
    assert "1 files without a partner of their name are left out" in ended.out
    words = ("extract", "--before", before, "--after", after, "--library", tmp_path / "library", "--dry-run", "--json")
    told = kt(*words, *QUICK).json
    files = [file for side in (before, after) for file in side.iterdir() if file.stem != "alone"]
    assert told["input_bytes"] == sum(file.stat().st_size for file in files)
    assert told["output_bytes_at_most"] == 3 * BYTES_OF_PAIR
    assert told["unmatched"] == ["alone.png"]
    assert not (tmp_path / "library").exists()


def test_a_pilot_of_a_list_measures_time_and_bytes_of_a_pair(tmp_path: Path) -> None:
    draw_pairs(tmp_path, [1, 2, 3, 4])
    lines = "".join(f"before/{seed}.png,after/{seed}.png\n" for seed in range(1, 5))
    (tmp_path / "pairs.csv").write_text(f"before,after\n{lines}")
    words = ("extract", "--pairs", tmp_path / "pairs.csv", "--library", tmp_path / "library", "--dry-run", "--pilot", 2)
    ended = kt(*words, *QUICK)
    assert "pilot: 2 pairs, 0 rejected" in ended.out, ended.err
    assert "per pair" in ended.out
    told = kt(*words, *QUICK, "--json").json
    assert 0 < told["estimated_output_bytes"] <= 4 * BYTES_OF_PAIR
    assert told["estimated_output_bytes"] == 4 * told["pilot"]["output_bytes_per_image"]
    assert told["estimated_seconds"] > 0
    assert not (tmp_path / "library").exists()


def test_a_pilot_names_what_is_no_pair(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1])
    Image.open(after / "1.png").crop((0, 0, 48, 72)).save(after / "1.png")
    words = ("--before", before, "--after", after, "--library", tmp_path / "library", "--dry-run", "--pilot", 1)
    ended = kt("extract", *words, *QUICK)
    assert ended.code == 3
    assert "1.png: not_a_pair" in ended.out


def test_finished_photographs_are_three_pairs_each(tmp_path: Path) -> None:
    words = ("--after", draw_all(tmp_path / "finished", [1, 2]), "--synthetic-befores", "--library", tmp_path / "mild")
    ended = kt("extract", *words, "--dry-run", "--pilot", 1, *QUICK)
    assert "6 pairs found, 0 done already, 6 to do" in ended.out, ended.err
    assert "pilot: 1 pairs, 0 rejected" in ended.out


def test_a_dry_run_of_edits_measures_them_and_changes_no_file(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2, 3])
    paired(before, after, tmp_path / "library")
    fitted(tmp_path / "library")
    kept = hashes(tmp_path / "library")
    words = ("extract", "--before", before, "--after", after, "--library", tmp_path / "library", "--dry-run")
    assert "nothing to do: everything is done already" in kt(*words, *QUICK).out
    photos = draw_all(tmp_path / "photos", [21, 22])
    edits = ("--method", "retouch", "--library", tmp_path / "library", "--out", tmp_path / "run", "--threads", 1)
    ended = kt("translate", photos, *edits, "--dry-run", "--pilot", 1)
    assert ended.code == 0, ended.err
    assert "2 images found, 0 done already, 2 to do" in ended.out
    assert "pilot: 1 images, 0 rejected" in ended.out
    assert not (tmp_path / "run").exists()
    assert hashes(tmp_path / "library") == kept
