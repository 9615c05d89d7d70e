"""The output and refusals of `--dry-run`, `--pilot` and `--price`, which write nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from jobs import build_library, translate
from kt_batch.store.locations import LocalLocation
from tests.cli.conftest import QUICK, Said, Say
from tests.support.tiny import draw, draw_all, hashes


def listing(place: Path) -> list[str]:
    return sorted(str(path) for path in place.rglob("*"))


@pytest.fixture
def paintings(tmp_path: Path) -> Path:
    return draw_all(tmp_path / "paintings", [1, 2, 3])


def test_a_dry_run_reports_the_work_and_writes_nothing(kt: Say, library: Path, tmp_path: Path) -> None:
    photo, new = draw(tmp_path / "a.png", 11), tmp_path / "new"
    said = kt("extract", photo, "--library", new, *QUICK, "--dry-run")
    assert (said.code, new.exists()) == (0, False)
    first, found, units, sizes = said.out.splitlines()
    assert first == f"{new}: a dry run, nothing was written there"
    assert found == "  1 images found, 0 done already, 1 to do"
    assert units == "  1 units to plan, 0 planned earlier and pending"
    assert "; output at most 0." in sizes
    assert sizes.endswith(" are free")
    said = kt("translate", photo, "--library", library, "--out", new, "--threads", 1, "--dry-run")
    assert (said.code, new.exists()) == (0, False)
    assert "output unknown without a pilot" in said.out


def test_a_dry_run_changes_no_file_and_reports_when_nothing_is_left(kt: Say, library: Path, tmp_path: Path) -> None:
    photo, run = draw(tmp_path / "a.png", 11), tmp_path / "run"
    words = ["translate", photo, "--library", library, "--out", run, "--threads", 1]
    assert kt(*words).code == 0
    before = hashes(run), listing(run), hashes(library), listing(library)
    again = kt(*words, "--dry-run", "--pilot", 2)
    assert (again.code, "nothing to do: everything is done already" in again.out) == (0, True)
    more = kt(*words, draw(tmp_path / "b.png", 12), "--dry-run", "--pilot", 2, "--json")
    assert (more.code, more.json["pilot"]["images"]) == (0, more.json["to_do"])
    assert (hashes(run), listing(run), hashes(library), listing(library)) == before


def test_a_pilot_estimates_time_bytes_and_cost(kt: Say, paintings: Path, tmp_path: Path) -> None:
    words = ["extract", paintings, "--library", tmp_path / "new", *QUICK, "--dry-run", "--pilot", 2, "--price", 3.6]
    words += ["--workers", 2, "--unit-size", 1]
    found = kt(*words, "--json").json
    assert (found["found"], found["to_do"], found["units_to_plan"], found["workers"]) == (3, 3, 3, 2)
    pilot = found["pilot"]
    assert (pilot["images"], pilot["rejected"]) == (2, 0)
    assert found["estimated_output_bytes"] == 3 * pilot["output_bytes_per_image"] < found["output_bytes_at_most"]
    assert found["estimated_seconds"] >= pilot["startup_seconds"] - 0.1
    assert 0 < found["estimated_cost"] == pytest.approx(found["estimated_worker_hours"] * 3.6)
    said = kt(*words)
    assert "  pilot: 2 images, 0 rejected, start-up " in said.out
    assert "  estimate of all that is to do: " in said.out
    assert "--runner local has one worker; 2 need --runner ray" in said.out
    assert "worker-hours at 3.6, one worker per node)" in said.out
    assert "pilot 2/2" in said.err
    assert not (tmp_path / "new").exists()


def test_a_rejected_image_of_a_pilot_is_reported_and_ends_with_3(kt: Say, photos: Path, tmp_path: Path) -> None:
    said = kt("extract", photos, "--library", tmp_path / "new", *QUICK, "--dry-run", "--pilot", 2)
    assert said.code == 3
    assert "pilot: 2 images, 1 rejected" in said.out
    assert f"{photos / 'bad.jpg'}: not_an_image" in said.out
    assert kt("extract", photos, "--library", tmp_path / "new", *QUICK, "--dry-run").code == 0
    said = kt("extract", photos / "bad.jpg", "--library", tmp_path / "new", *QUICK, "--dry-run", "--pilot", 1)
    assert (said.code, "nothing can be estimated" in said.out) == (3, True)


def test_a_dry_run_fails_for_lack_of_space_as_the_run_would(
    kt: Say, paintings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalLocation, "free_bytes", lambda _: 1000)
    said = kt("extract", paintings, "--library", tmp_path / "new", *QUICK, "--dry-run")
    assert (said.code, "1.0 kB are free, too few: the run would be refused" in said.out) == (1, True)


def test_a_dry_run_refuses_other_options_with_the_message_of_the_run(kt: Say, library: Path, photos: Path) -> None:
    words = ["extract", photos / "a.png", "--library", library, *QUICK, "--stride", "2"]

    def last(said: Said) -> tuple[int, str]:
        return said.code, said.err.splitlines()[-1]

    assert last(kt(*words, "--dry-run", "--pilot", 1)) == last(kt(*words))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--pilot", 3], "--pilot 3 is for a dry run"),
        (["--price", 3], "--price 3 is for a pilot"),
        (["--dry-run", "--price", 3], "--price 3 is for a pilot"),
        (["--dry-run", "--pilot", 0], "--pilot is a number of images, 1 or more, not 0."),
        (["--dry-run", "--pilot", 1, "--price", -1], "0 or more, not -1."),
        (["--dry-run", "--pilot", 1, "--price", "nan"], "0 or more, not nan."),
        (["--dry-run", "--pilot", "few"], "--pilot"),
    ],
)
def test_an_invalid_pilot_or_price_is_wrong_usage(
    kt: Say, paintings: Path, tmp_path: Path, words: list[object], sentence: str
) -> None:
    said = kt("extract", paintings, "--library", tmp_path / "new", *QUICK, *words)
    assert (said.code, said.out, sentence in said.err, said.err.count("\n")) == (2, "", True, 1)
    assert not (tmp_path / "new").exists()


def test_the_options_of_a_dry_run_are_not_saved(kt: Say, paintings: Path, tmp_path: Path) -> None:
    place = tmp_path / "new"
    assert kt("extract", paintings, "--library", place, *QUICK).code == 0
    assert kt("extract", paintings, "--library", place, *QUICK, "--dry-run", "--pilot", 1, "--price", 2).code == 0
    (saved,) = (place / "options").iterdir()
    assert not {"dry_run", "pilot", "price"} & yaml.safe_load(saved.read_text()).keys()


def test_the_jobs_support_dry_runs_with_their_own_exit_codes(
    kt: Say, library: Path, photos: Path, tmp_path: Path
) -> None:
    new, dry = tmp_path / "new", ["--dry-run", "--pilot", 2]  # the runner is ray, the pilot is done here
    build = [photos, "--library", new, *QUICK, *dry]
    said = kt(*build, "--json", of=build_library.load_app())
    assert (said.code, said.json["extract"]["pilot"]["rejected"]) == (0, 1)
    assert "the index that is built afterwards is not estimated" in kt(*build, of=build_library.load_app()).out
    for bounds, code in ((["--strict"], 3), (["--max-rejects", "0"], 1), (["--max-rejects", "50%"], 0)):
        assert kt(*build, *bounds, of=build_library.load_app()).code == code
        run = [photos, "--library", library, "--out", new, "--threads", 1, *dry]
        assert kt(*run, *bounds, of=translate.load_app()).code == code
    assert not new.exists()
