"""A dry run predicts the run and leaves no trace."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kt_batch.config import ExtractConfig, RunOptions, SearchConfig
from kt_batch.errors import MismatchError, UsageError
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines import estimate
from kt_batch.pipelines.estimate import (
    DryRunRequest,
    Estimate,
    Pilot,
    estimate_extract,
    estimate_translate,
    projected,
    spread,
)
from kt_batch.pipelines.extract.plan import ExtractRequest, disk_estimate
from kt_batch.pipelines.inputs import plan_items
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate import worker as translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.runners.local import LocalRunner
from kt_batch.store.inputs import list_inputs
from kt_batch.store.locations import LocalLocation
from kt_batch.store.plans import Item
from tests.support.collection import Collection, Recorder
from tests.support.tiny import draw, draw_all, encoder_config, extracted, hashes, translate_request, translated

ONE = RunOptions(threads=1, unit_size=2)


def dry_extract(
    images: Sequence[Path],
    library: Path,
    asked: DryRunRequest | None = None,
    options: RunOptions = ONE,
    runner: Any = None,
    **config: Any,
) -> Estimate:
    settings = ExtractConfig.model_validate({"encoder": encoder_config(), **config})
    request = ExtractRequest([str(image) for image in images], str(library), settings, EncoderSource(), options)
    return estimate_extract(request, asked or DryRunRequest(), runner or LocalRunner(), no_progress)


def dry_translate(
    images: Sequence[Path], job: TranslateRequest, asked: DryRunRequest | None = None, options: RunOptions = ONE
) -> Estimate:
    request = replace(job, images=[str(image) for image in images], options=options)
    return estimate_translate(request, asked or DryRunRequest(), LocalRunner(), no_progress)


def everything(place: Path) -> dict[str, tuple[int, str]]:
    """Map every name below a folder, hidden ones too, to modification time and content."""
    found = [place, *place.rglob("*")]
    return {str(path): (path.stat().st_mtime_ns, "" if path.is_dir() else path.read_bytes().hex()) for path in found}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parent of temporary directories."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


@pytest.fixture
def paintings(tmp_path: Path) -> Path:
    return draw_all(tmp_path / "paintings", [1, 2, 3])


# ---- no writes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pilot", [0, 2])
def test_a_dry_run_does_not_create_a_missing_place(
    collection: Collection, temporary: Path, tmp_path: Path, pilot: int
) -> None:
    job = translate_request(collection.library, tmp_path / "new/run", collection.index)
    dry_extract([collection.paintings], tmp_path / "new/library", DryRunRequest(pilot))
    dry_translate([collection.photos], job, DryRunRequest(pilot))
    assert list(tmp_path.iterdir()) == [temporary]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("pilot", [0, 2])
def test_a_dry_run_does_not_change_an_existing_place(collection: Collection, tmp_path: Path, pilot: int) -> None:
    library, run = tmp_path / "library", tmp_path / "run"
    job = translate_request(collection.library, run, collection.index)
    with pytest.raises(ZeroDivisionError):
        extracted([collection.paintings], library, Recorder(stop_at=1))
    translated([collection.photos / "11.png"], job)
    before = everything(tmp_path), everything(collection.library)
    assert dry_extract([collection.paintings], library, DryRunRequest(pilot)).units_pending == 1
    assert dry_translate([collection.photos], job, DryRunRequest(pilot)).units_to_plan == 1
    assert (everything(tmp_path), everything(collection.library)) == before


def test_a_failed_pilot_leaves_no_file(paintings: Path, temporary: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="a worker broke"):
        dry_extract([paintings], tmp_path / "library", DryRunRequest(3), runner=Recorder(stop_at=1))
    assert list(temporary.iterdir()) == []


# ---- pending work ----------------------------------------------------------------------------------------------------


def test_every_image_of_a_new_library_is_pending(paintings: Path, tmp_path: Path) -> None:
    found = dry_extract([paintings], tmp_path / "library")
    config = ExtractConfig(encoder=encoder_config())
    assert (found.found, found.done, found.to_do, found.images_to_do) == (3, 0, 3, 3)
    assert (found.units_to_plan, found.units_pending) == (2, 0)
    assert found.input_bytes == sum(path.stat().st_size for path in paintings.iterdir())
    assert found.output_bytes_at_most == found.estimated_output_bytes == disk_estimate(3, config, EncoderSource())
    assert (found.pilot, found.estimated_seconds, found.estimated_cost) == (None, None, None)
    assert found.free_bytes is not None


def test_finished_images_stay_finished_when_listed_again_with_others(paintings: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    extracted([paintings], library)
    files = sorted(paintings.iterdir())
    done = dry_extract([paintings], library)
    assert (done.found, done.done, done.to_do, done.units_to_plan, done.output_bytes_at_most) == (3, 3, 0, 0, 0)
    new = draw(paintings / "4.png", 4)
    more = dry_extract([paintings], library)
    assert (more.found, more.done, more.to_do, more.units_to_plan) == (4, 3, 1, 1)
    assert more.input_bytes == new.stat().st_size
    assert dry_extract([paintings, *reversed(files)], library).to_do == 1 + 3  # several arguments: other names


def test_work_planned_by_an_earlier_command_is_pending_even_if_not_listed(paintings: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    with pytest.raises(ZeroDivisionError):
        extracted([paintings], library, Recorder(stop_at=1))
    other = draw_all(tmp_path / "other", [7])
    found = dry_extract([other], library)
    assert (found.found, found.done, found.to_do) == (1, 0, 2)
    assert (found.units_to_plan, found.units_pending) == (1, 1)


def test_an_image_under_a_second_name_is_pending_but_not_extracted_again(paintings: Path, tmp_path: Path) -> None:
    extracted([paintings], tmp_path / "library")
    (paintings / "again.png").write_bytes((paintings / "1.png").read_bytes())
    found = dry_extract([paintings], tmp_path / "library", DryRunRequest(1))
    assert (found.to_do, found.images_to_do, found.pilot, found.output_bytes_at_most) == (1, 0, None, 0)


def test_unreadable_files_are_counted_and_rejected_once(paintings: Path, tmp_path: Path) -> None:
    (paintings / "gone.png").symlink_to(tmp_path / "nowhere")
    found = dry_extract([paintings], tmp_path / "library")
    assert (found.to_do, found.unreadable, found.rejected) == (4, 1, 0)
    extracted([paintings], tmp_path / "library")
    found = dry_extract([paintings], tmp_path / "library")
    assert (found.to_do, found.unreadable, found.finished, found.rejected) == (0, 0, 4, 1)


def test_too_little_space_is_reported_and_not_raised(
    paintings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dry_extract([paintings], tmp_path / "library").fits
    monkeypatch.setattr(LocalLocation, "free_bytes", lambda _: 1000)
    found = dry_extract([paintings], tmp_path / "library")
    assert (found.fits, found.free_bytes) == (False, 1000)


def test_the_size_of_a_run_is_unknown_without_a_pilot(collection: Collection, tmp_path: Path) -> None:
    found = dry_translate(
        [collection.photos], translate_request(collection.library, tmp_path / "run", collection.index)
    )
    assert (found.found, found.to_do, found.images_to_do, found.units_to_plan) == (3, 3, 3, 2)
    assert (found.output_bytes_at_most, found.estimated_output_bytes) == (None, None)
    assert found.fits


# ---- refusals of the run ---------------------------------------------------------------------------------------------


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises((MismatchError, UsageError)) as caught:
        call()
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize("asked", [DryRunRequest(), DryRunRequest(1)])
def test_other_options_are_refused_with_the_message_of_the_run(
    collection: Collection, tmp_path: Path, asked: DryRunRequest
) -> None:
    images, library = [collection.paintings], collection.library
    words = refusal(lambda: dry_extract(images, library, asked, stride=2))
    assert words == refusal(lambda: extracted(images, library, stride=2))
    assert "stride (1 there, 2 here)" in words
    job = translate_request(library, tmp_path / "run", collection.index)
    translated([collection.photos], job)
    other = translate_request(library, tmp_path / "run", collection.index, alpha=0.5)
    assert refusal(lambda: dry_translate([collection.photos], other, asked)) == refusal(
        lambda: translated([collection.photos], other)
    )


def test_a_changed_photograph_is_named_and_counted(collection: Collection, tmp_path: Path) -> None:
    job = translate_request(collection.library, tmp_path / "run", collection.index)
    translated([collection.photos], job)
    changed = draw(tmp_path / "11.png", 99)
    assert dry_translate([changed], job, DryRunRequest()).changed == ("11.png",)
    assert translated([changed], job).rejected == 1


@pytest.mark.usefixtures("threads")
def test_another_numerics_class_is_refused_as_by_the_run_except_for_a_cluster(paintings: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    extracted([paintings], library)
    draw(paintings / "4.png", 4)
    two = RunOptions(threads=2, unit_size=2)
    words = refusal(lambda: dry_extract([paintings], library, options=two))
    assert "threads 1 -> 2" in words
    for change in ({"mix_numerics": True}, {"runner": "ray"}):
        options = two.model_copy(update=change)
        assert dry_extract([paintings], library, DryRunRequest(1), options).to_do == 1
    assert words == refusal(lambda: extracted([paintings], library, options=two))  # last: it plans 4.png


def test_a_scan_on_another_gpu_is_refused_as_by_the_run(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = translate_request(
        collection.library, tmp_path / "run", collection.index, search=SearchConfig(searcher="scan")
    )
    translated([collection.photos / "11.png"], job)
    for module in (estimate, translate):
        monkeypatch.setattr(module, "search_device", lambda name: f"cpu and a GPU for {name}")
    job = translate_request(
        collection.library, tmp_path / "run", collection.index, search=SearchConfig(searcher="scan")
    )
    words = refusal(lambda: dry_translate([collection.photos], job))
    assert "device cpu -> cpu and a GPU for scan" in words
    assert words == refusal(lambda: translated([collection.photos], job))


# ---- the pilot -------------------------------------------------------------------------------------------------------


def test_a_pilot_takes_evenly_spaced_pending_images(collection: Collection, tmp_path: Path) -> None:
    runner = Recorder()
    found = dry_extract([collection.paintings], tmp_path / "library", DryRunRequest(2), runner=runner)
    warm_up, unit = runner.units
    ids = sorted(item.image_id for item in plan(collection.paintings))
    assert [item.image_id for item in unit.items] == [ids[1], ids[3]]  # the middles of two pairs
    assert [item.image_id for item in warm_up.items] == [ids[1]]
    assert found.pilot is not None
    assert (found.pilot.images, found.pilot.rejected) == (2, 0)
    assert found.pilot.startup_seconds > 0
    assert found.pilot.seconds_per_image_mean is not None


def plan(folder: Path) -> list[Item]:
    return plan_items(list_inputs([str(folder)]), no_progress)


def test_a_pilot_spreads_images_over_the_ids() -> None:
    images = [[Item(f"{number:016x}", "", "")] for number in range(10)]
    ids = [int(group[0].image_id, 16) for group in spread(images[::-1], 3)]
    assert ids == [1, 5, 8]
    assert spread(images, 99) == images
    assert spread(images, 0) == spread([], 5) == []
    assert len(spread([*images, *images], 99)) == 10


def test_a_pilot_of_everything_measures_the_bytes_that_the_run_writes(
    collection: Collection, paintings: Path, tmp_path: Path
) -> None:
    library, job = tmp_path / "library", translate_request(collection.library, tmp_path / "run", collection.index)
    guess = dry_extract([paintings], library, DryRunRequest(99)).estimated_output_bytes
    extracted([paintings], library)
    assert guess == pytest.approx(json.loads((library / "library.json").read_text())["bytes"], abs=2)
    guess = dry_translate([collection.photos], job, DryRunRequest(99)).estimated_output_bytes
    translated([collection.photos], job)
    folders = [Path(job.run) / "images", Path(job.run) / "provenance"]
    written = sum(path.stat().st_size for folder in folders for path in folder.iterdir())
    assert guess == pytest.approx(written, rel=0.01)  # the provenance contains the names of the outputs


def test_a_rejected_image_of_the_pilot_is_counted_with_its_reason(paintings: Path, tmp_path: Path) -> None:
    (paintings / "bad.png").write_bytes(b"no image")
    found = dry_extract([paintings], tmp_path / "library", DryRunRequest(4))
    assert found.pilot is not None
    assert (found.pilot.images, found.pilot.rejected) == (4, 1)
    assert [(reject.uri, reject.reason) for reject in found.pilot.rejects] == [
        (str(paintings / "bad.png"), "not_an_image")
    ]
    assert found.estimated_seconds is not None


def test_a_pilot_of_rejected_images_only_gives_no_estimate(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    found = dry_extract([tmp_path / "bad.png"], tmp_path / "library", DryRunRequest(1, price=2.0))
    assert found.pilot is not None
    assert (found.pilot.images, found.pilot.rejected, found.pilot.seconds_per_image_mean) == (1, 1, None)
    assert (found.estimated_seconds, found.estimated_cost) == (None, None)


def test_without_pending_images_there_is_no_pilot(paintings: Path, tmp_path: Path) -> None:
    extracted([paintings], tmp_path / "library")
    before = hashes(tmp_path / "library")
    found = dry_extract([paintings], tmp_path / "library", DryRunRequest(5, price=1.0))
    assert (found.to_do, found.pilot, found.estimated_seconds) == (0, None, None)
    assert hashes(tmp_path / "library") == before


@pytest.fixture
def measured() -> Pilot:
    """Return a pilot of half a minute to start, and 9 s and 1,000 bytes per image."""
    return Pilot(
        images=4,
        rejected=0,
        rejects=(),
        startup_seconds=30.0,
        seconds_per_image_median=8.0,
        seconds_per_image_mean=8.5,
        wall_seconds_per_image=9.0,
        output_bytes_per_image=1000,
    )


@pytest.mark.parametrize(
    ("workers", "units", "seconds"),
    [
        (1, 100, 30 + 800 * 9),
        (10, 100, 30 + 80 * 9),
        (3, 4, 30 + 2 * 200 * 9),  # two rounds: two workers are idle in the second
        (99, 4, 30 + 200 * 9),
    ],
)
def test_time_is_startup_plus_rounds_of_units_and_cost_is_worker_hours_times_price(
    paintings: Path, tmp_path: Path, measured: Pilot, workers: int, units: int, seconds: float
) -> None:
    plain = dry_extract([paintings], tmp_path / "library")
    work = replace(plain, images_to_do=800, units_to_plan=units - 1, units_pending=1, workers=workers)
    found = projected(work, measured, 2.5)
    assert found.estimated_seconds == pytest.approx(seconds)
    assert found.estimated_worker_hours == pytest.approx(workers * seconds / 3600)
    assert found.estimated_cost == pytest.approx(workers * seconds / 3600 * 2.5)
    assert found.estimated_output_bytes == 800_000
    assert projected(work, measured, None).estimated_cost is None
