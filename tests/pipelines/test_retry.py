"""A retried reject is as if it had never failed, or remains a reject."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from kt_batch.config import RunOptions
from kt_batch.errors import Reason
from kt_batch.maintenance.gc import gc
from kt_batch.maintenance.verify import verify
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.estimate import DryRunRequest, Estimate, estimate_extract, estimate_translate
from kt_batch.pipelines.extract.plan import ExtractRequest
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import TranslateSummary, translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.report.inspect import inspect
from kt_batch.report.run_report import ImageCounts, run_report
from kt_batch.report.sources import source_images
from kt_batch.report.views import connect, sql
from kt_batch.runners.local import LocalRunner
from kt_batch.store.images.files import image_id
from kt_batch.store.locations import LocalLocation
from kt_batch.store.opening import open_library
from kt_batch.store.units import Ledger
from tests.support.collection import PATCHES, Collection, Meddler
from tests.support.tiny import draw, draw_all, extracted, hashes, indexed, patches, rows, translate_request

AGAIN = RunOptions(threads=1, unit_size=2, retry_rejected=True)


class Cautious(LocalRunner):
    """A runner that quarantines some images before any worker reads them."""

    def __init__(self, *deadly: Path) -> None:
        super().__init__()
        self.deadly = [image_id(path.read_bytes()) for path in deadly]

    def run(self, factory: Any, units: Sequence[Any], quarantine: Any = None) -> Iterator[Any]:
        marked = []
        for unit in units:
            for image in self.deadly:
                unit = quarantine(unit, image, "it looked deadly")  # noqa: PLW2901
            marked.append(unit)
        return super().run(factory, marked, quarantine)


class Absent(LocalRunner):
    """A runner that moves some files away during the work and back afterwards."""

    def __init__(self, *files: Path) -> None:
        super().__init__()
        self.files = files

    def run(self, factory: Any, units: Sequence[Any], quarantine: Any = None) -> Iterator[Any]:
        for file in self.files:
            file.rename(file.with_name(f".{file.name}"))
        yield from super().run(factory, units, quarantine)
        for file in self.files:
            file.with_name(f".{file.name}").rename(file)


def digest(place: Path) -> str | None:
    found = verify(str(place), no_progress)
    assert (found.faults, found.orphans, found.foreign, found.pending) == ((), 0, 0, 0)
    return found.digest


def translated(
    images: Path, job: TranslateRequest, runner: Any = None, options: RunOptions | None = None
) -> TranslateSummary:
    options = options or RunOptions(threads=1, unit_size=2)
    return translate(replace(job, images=[str(images)], options=options), runner or LocalRunner(), no_progress)


def reasons(place: Path) -> dict[str, int]:
    """Return the reject counts of `inspect`, the report and the view, which must agree."""
    told: dict[str, int] = inspect(str(place))["rejects"]
    report = run_report(str(place))
    with connect(str(place)) as connection:
        view = dict(connection.execute("SELECT reason, count(*) FROM rejects GROUP BY reason").fetchall())
    assert told == view == {entry.reason: entry.count for entry in report.rejects}
    assert report.images.rejected == sum(told.values())
    return told


@pytest.fixture
def paintings(tmp_path: Path) -> Path:
    return draw_all(tmp_path / "in", range(1, 5))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw_all(tmp_path / "photos", range(11, 14))


@pytest.fixture
def job(collection: Collection, tmp_path: Path) -> TranslateRequest:
    return translate_request(collection.library, tmp_path / "run", collection.index)


# ---- libraries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [Cautious, Absent])
def test_a_library_with_cured_rejects_equals_one_without_failures(
    paintings: Path, tmp_path: Path, failing: Callable[..., LocalRunner]
) -> None:
    library = tmp_path / "library"
    first = extracted([paintings], library, failing(paintings / "1.png", paintings / "3.png"))
    assert (first.images, first.rejected) == (2, 2)
    assert sum(reasons(library).values()) == 2
    again = extracted([paintings], library, options=AGAIN)
    assert (again.images, again.new_images, again.rejected, again.new_rejected) == (4, 2, 0, 0)
    assert reasons(library) == {}
    extracted([paintings], tmp_path / "undisturbed")
    assert digest(library) == digest(tmp_path / "undisturbed")
    assert patches(library) == patches(tmp_path / "undisturbed")


def test_without_the_option_a_reject_is_not_retried(paintings: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    extracted([paintings], library, Cautious(paintings / "1.png"))
    before = hashes(library)
    summary = extracted([paintings], library)
    assert (summary.new_images, summary.new_rejected, summary.rejected) == (0, 0, 1)
    assert hashes(library) == before


def test_the_option_without_rejects_changes_nothing(paintings: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    extracted([paintings], library)
    before = hashes(library)
    extracted([paintings], library, options=AGAIN)
    assert hashes(library) == before


def test_a_repeated_failure_is_one_reject_with_the_newest_reason(paintings: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    extracted([paintings], library, Cautious(paintings / "1.png"))
    assert reasons(library) == {Reason.FATAL: 1}
    for _ in range(2):
        again = extracted([paintings], library, Absent(paintings / "1.png"), options=AGAIN)
        assert (again.rejected, again.new_rejected, again.new_images) == (1, 1, 0)
        assert reasons(library) == {Reason.UNREADABLE: 1}
        assert open_library(str(library)).committed.rejects.count == 1
    extracted([paintings], tmp_path / "once", Absent(paintings / "1.png"))
    assert digest(library) == digest(tmp_path / "once")
    (paintings / "1.png").unlink()
    assert digest(library) != _undisturbed(paintings, tmp_path)  # a reject that counts is in it


def test_a_failed_retry_does_not_change_the_index(paintings: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    extracted([paintings], library, Cautious(paintings / "1.png"))
    before = indexed(library).index
    extracted([paintings], library, Cautious(paintings / "1.png"), options=AGAIN)
    assert (indexed(library).index, indexed(library).built) == (before, False)
    extracted([paintings], library, options=AGAIN)
    assert indexed(library).index != before


def test_only_listed_rejects_are_retried(paintings: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    extracted([paintings], library, Cautious(paintings / "1.png", paintings / "2.png"))
    (paintings / "1.png").rename(tmp_path / "1.png")
    again = extracted([paintings], library, options=AGAIN)
    assert (again.images, again.rejected) == (3, 1)
    (tmp_path / "1.png").rename(paintings / "1.png")
    assert extracted([paintings], library, options=AGAIN).rejected == 0


def test_one_image_cures_a_reject_under_both_its_names(paintings: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    shutil.copy(paintings / "1.png", paintings / "copy.png")
    assert extracted([paintings], library, Cautious(paintings / "1.png")).rejected == 2
    assert extracted([paintings], library, options=AGAIN).rejected == 0
    assert digest(library) == _undisturbed(paintings, tmp_path)
    assert patches(library).num_rows == 4 * PATCHES


def _undisturbed(images: Path, tmp_path: Path) -> str | None:
    extracted([images], tmp_path / "undisturbed")
    return digest(tmp_path / "undisturbed")


def test_a_cured_image_extracted_by_another_unit_is_not_extracted_again(paintings: Path, tmp_path: Path) -> None:
    library, other = tmp_path / "library", tmp_path / "other"
    extracted([paintings], library, Cautious(paintings / "1.png"))
    other.mkdir()
    shutil.copy(paintings / "1.png", other / "copy.png")
    assert extracted([other], library).new_images == 1
    again = extracted([paintings], library, options=AGAIN)
    assert (again.new_images, again.rejected) == (0, 0)
    found = patches(library)["patch_id"].to_pylist()
    assert len(found) == len(set(found)) == 4 * PATCHES
    assert run_report(str(library)).images == ImageCounts(planned=5, done=4, pending=0, rejected=0, elsewhere=1)


def test_a_repaired_file_supersedes_its_reject(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"half an image")
    assert extracted([tmp_path / "in"], tmp_path / "library").rejected == 1
    draw(tmp_path / "in/a.png", 1)
    summary = extracted([tmp_path / "in"], tmp_path / "library")
    assert (summary.images, summary.rejected) == (1, 0)
    assert digest(tmp_path / "library") == _undisturbed(tmp_path / "in", tmp_path)


def test_the_sources_of_a_cured_library_refer_to_its_images(paintings: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    extracted([paintings], library, Cautious(paintings / "1.png"))
    extracted([paintings], library, options=AGAIN)
    identity = image_id((paintings / "1.png").read_bytes())
    found = source_images(open_library(str(library)), [identity], previews=True)
    assert found[identity].uris == (str(paintings / "1.png"),)
    assert found[identity].preview


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [Cautious, Absent])
def test_a_run_with_cured_rejects_equals_one_without_failures(
    photos: Path, job: TranslateRequest, collection: Collection, tmp_path: Path, failing: Callable[..., LocalRunner]
) -> None:
    run = Path(job.run)
    first = translated(photos, job, failing(photos / "11.png"))
    assert (first.images, first.rejected) == (2, 1)
    assert translated(photos, job).new_images == 0
    again = translated(photos, job, options=AGAIN)
    assert (again.images, again.new_images, again.rejected) == (3, 1, 0)
    assert reasons(run) == {}
    other = translate_request(collection.library, tmp_path / "undisturbed", collection.index)
    assert translated(photos, other).ncc_mean == again.ncc_mean
    assert digest(run) == digest(tmp_path / "undisturbed")
    assert _outputs(run) == _outputs(tmp_path / "undisturbed")
    assert run_report(str(run)).images == ImageCounts(planned=3, done=3, pending=0, rejected=0, elsewhere=0)


def _outputs(run: Path) -> list[tuple[Any, ...]]:
    with connect(str(run)) as connection:
        return connection.execute("SELECT * FROM outputs").fetchall()


def test_an_output_of_a_temporarily_unreadable_input_is_not_made_twice(
    photos: Path, job: TranslateRequest, tmp_path: Path
) -> None:
    run = Path(job.run)
    translated(photos, job)
    before, results = digest(run), hashes(run, "images") | hashes(run, "provenance")
    (photos / "11.png").rename(tmp_path / "11.png")
    (photos / "11.png").symlink_to(tmp_path / "nowhere")
    assert translated(photos, job).rejected == 1
    assert reasons(run) == {Reason.UNREADABLE: 1}
    (photos / "11.png").unlink()
    (tmp_path / "11.png").rename(photos / "11.png")
    assert translated(photos, job).rejected == 1
    again = translated(photos, job, options=AGAIN)
    assert (again.images, again.new_images, again.rejected) == (3, 0, 0)
    assert hashes(run, "images") | hashes(run, "provenance") == results
    assert digest(run) == before
    assert [output for output, *_ in _outputs(run)] == [f"images/{number}.png.png" for number in (11, 12, 13)]


def test_an_output_of_a_repaired_file_names_its_actual_input_bytes(job: TranslateRequest, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"half an image")
    translated(tmp_path / "in", job)
    mended = draw(tmp_path / "in/a.png", 11)
    assert translated(tmp_path / "in", job).rejected == 0
    ((_, _, _, identity, *_),) = _outputs(Path(job.run))
    assert identity.hex() == image_id(mended.read_bytes())


# ---- interruptions ---------------------------------------------------------------------------------------------------


class StoppedError(Exception):
    """Stands for a driver killed after planning."""


def _stop() -> None:
    raise StoppedError


@pytest.mark.parametrize("options", [RunOptions(threads=1, unit_size=2), AGAIN])
def test_an_interrupted_retry_is_finished_with_or_without_the_option(
    paintings: Path, tmp_path: Path, options: RunOptions
) -> None:
    library = tmp_path / "library"
    extracted([paintings], library, Cautious(paintings / "1.png"))
    with pytest.raises(StoppedError):
        extracted([paintings], library, Meddler(_stop), options=AGAIN)
    assert run_report(str(library)).images == ImageCounts(planned=4, done=3, pending=1, rejected=1, elsewhere=0)
    assert gc(str(library), no_progress).pending == 1
    assert extracted([paintings], library, options=options).rejected == 0
    assert [unit.retry for unit in Ledger(LocalLocation(library)).units()] == [0, 0, 1]
    assert digest(library) == _undisturbed(paintings, tmp_path)


# ---- dry runs --------------------------------------------------------------------------------------------------------


def _numbers(found: Estimate) -> dict[str, int]:
    names = ("found", "done", "to_do", "images_to_do", "finished", "rejected", "again", "units_to_plan")
    return {name: value for name, value in asdict(found).items() if name in names}


def test_a_dry_run_of_a_library_counts_the_retries(paintings: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    extracted([paintings], library, Cautious(paintings / "1.png"))
    config, before = open_library(str(library)).config, hashes(library)

    def dry(options: RunOptions) -> Estimate:
        request = ExtractRequest([str(paintings)], str(library), config, EncoderSource(), options)
        return estimate_extract(request, DryRunRequest(pilot=1), LocalRunner(), no_progress)

    found = dry(AGAIN)
    assert _numbers(found) == {
        "found": 4, "done": 3, "to_do": 1, "images_to_do": 1, "finished": 3, "rejected": 0, "again": 1,
        "units_to_plan": 1,
    }  # fmt: skip
    assert found.pilot is not None
    assert (found.pilot.images, found.pilot.rejected) == (1, 0)
    assert _numbers(dry(RunOptions(threads=1))) == {
        "found": 4, "done": 4, "to_do": 0, "images_to_do": 0, "finished": 4, "rejected": 1, "again": 0,
        "units_to_plan": 0,
    }  # fmt: skip
    assert hashes(library) == before


def test_a_dry_run_of_a_run_counts_the_retries(photos: Path, job: TranslateRequest) -> None:
    translated(photos, job, Cautious(photos / "11.png"))
    request = replace(job, images=[str(photos)], options=AGAIN)
    found = estimate_translate(request, DryRunRequest(), LocalRunner(), no_progress)
    assert _numbers(found) == {
        "found": 3, "done": 2, "to_do": 1, "images_to_do": 1, "finished": 2, "rejected": 0, "again": 1,
        "units_to_plan": 1,
    }  # fmt: skip


# ---- reports ---------------------------------------------------------------------------------------------------------


def test_a_part_with_some_cured_rejects_shows_the_others(paintings: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    options = RunOptions(threads=1, unit_size=8)
    extracted([paintings], library, Cautious(paintings / "1.png", paintings / "2.png"), options)
    (paintings / "2.png").rename(tmp_path / "2.png")
    extracted([paintings], library, options=AGAIN)
    with connect(str(library)) as connection:
        assert connection.execute("SELECT uri FROM rejects").fetchall() == [(str(paintings / "2.png"),)]
    assert reasons(library) == {Reason.FATAL: 1}
    assert len(rows(library, "rejects")) == 2  # the record of the first attempt remains


def test_the_printed_sql_selects_the_uncured_rejects(paintings: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    extracted([paintings], library, Cautious(paintings / "1.png"))
    extracted([paintings], library, Absent(paintings / "1.png"), options=AGAIN)
    with duckdb.connect() as connection:
        connection.execute(sql(str(library)))
        assert connection.execute("SELECT reason FROM rejects").fetchall() == [("unreadable",)]


@pytest.mark.parametrize("kind", ["library", "run"])
def test_the_summary_on_disk_counts_the_uncured_rejects(
    paintings: Path, job: TranslateRequest, tmp_path: Path, kind: str
) -> None:
    def rejected(runner: LocalRunner, options: RunOptions | None = None) -> tuple[int, int]:
        if kind == "library":
            told = extracted([paintings], tmp_path / "library", runner, options).rejected
        else:
            told = translated(paintings, job, runner, options).rejected
        return told, int(json.loads((tmp_path / kind / f"{kind}.json").read_text())["rejects"])

    assert rejected(Cautious(paintings / "1.png")) == (1, 1)
    assert rejected(Absent(paintings / "1.png"), AGAIN) == (1, 1)
    assert rejected(LocalRunner(), AGAIN) == (0, 0)
