"""Retries of rejects under kills, concurrent drivers and a deadly image."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kt_batch.config import RunOptions
from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import translate
from kt_batch.runners.local import LocalRunner
from kt_batch.runners.ray.runner import RayRunner
from kt_batch.store.locations import LocalLocation
from kt_batch.store.opening import open_library
from kt_batch.store.units import Ledger
from tests.e2e.conftest import COMMAND, Small, kt
from tests.e2e.test_poison import PoisonRunner
from tests.e2e.test_resume import sweep
from tests.support.ray_local import ray_here  # noqa: F401  # the fixture
from tests.support.s3_server import S3Server, ceph_server  # noqa: F401  # the fixture
from tests.support.tiny import draw_all, extracted, patches, translate_request, translated

AGAIN = RunOptions(threads=1, unit_size=2, retry_rejected=True)


class Cautious(LocalRunner):
    """A runner that quarantines every image before any worker reads it."""

    def run(self, factory: Any, units: Sequence[Any], quarantine: Any = None) -> Iterator[Any]:
        marked = []
        for unit in units:
            for item in unit.items:
                unit = quarantine(unit, item.image_id, "it looked deadly")  # noqa: PLW2901
            marked.append(unit)
        return super().run(factory, marked, quarantine)


def digest(place: Path | str) -> str | None:
    found = verify(str(place), no_progress)
    assert (found.faults, found.pending) == ((), 0)
    return found.digest


def retries(place: Path) -> list[int]:
    return [unit.retry for unit in Ledger(LocalLocation(place)).units()]


@pytest.mark.slow
def test_a_retry_survives_a_death_at_any_write(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = draw_all(tmp_path / "photos", [11, 12])
    translated([photos], translate_request(small.library, tmp_path / "expected", small.index))
    attempt = [0]

    def library() -> Path:
        return tmp_path / f"library-{attempt[0]}"

    def run() -> Path:
        return tmp_path / f"run-{attempt[0]}"

    extracted([small.paintings], library(), Cautious())
    translated([photos], translate_request(small.library, run(), small.index), Cautious())

    def begin() -> None:
        attempt[0] += 1
        shutil.copytree(tmp_path / "library-0", library())
        shutil.copytree(tmp_path / "run-0", run())

    def extract_again() -> None:
        assert extracted([small.paintings], library(), options=AGAIN).rejected == 0
        assert digest(library()) == digest(small.library)
        assert retries(library()) == [0, 0, 1, 1]

    def translate_again() -> None:
        request = replace(translate_request(small.library, run(), small.index), images=[str(photos)], options=AGAIN)
        assert translate(request, LocalRunner(), no_progress).rejected == 0
        assert digest(run()) == digest(tmp_path / "expected")
        assert retries(run()) == [0, 1]

    # A plan, two units of two tables and a receipt, a summary; a plan, two images, a table, a receipt, a summary.
    assert sweep(monkeypatch, extract_again, begin) == 1 + 2 * 3 + 1
    assert sweep(monkeypatch, translate_again, begin) == 1 + 2 + 1 + 1 + 1


@pytest.mark.slow
def test_two_concurrent_drivers_retry_once(small: Small, tmp_path: Path) -> None:
    paintings = draw_all(tmp_path / "paintings", range(1, 13))
    library = tmp_path / "library"
    extracted([paintings], library, Cautious(), RunOptions(threads=1, unit_size=1))
    words = ["extract", str(paintings), "--library", str(library), "--threads", "1", "--size", "64", "--unit-size", "1"]
    drivers = [
        subprocess.Popen(
            [COMMAND, *words, "--retry-rejected"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [driver.communicate(timeout=300)[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    assert retries(library) == [0] * 12 + [1] * 12
    extracted([paintings], tmp_path / "undisturbed")
    assert digest(library) == digest(tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.s3
def test_a_retry_on_a_bucket_gives_the_result_of_an_undisturbed_run(
    small: Small,
    ceph_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = ceph_server.new_location(monkeypatch)
    library = f"{place.uri}/library"
    assert extracted([small.paintings], library, Cautious()).rejected == 3
    words = ["extract", small.paintings, "--library", library, "--threads", 1, "--size", 64, "--unit-size", 2]
    assert kt(*words, "--json").json["rejected"] == 3  # no retry without the option
    assert kt(*words, "--json", "--retry-rejected").json["rejected"] == 0
    assert digest(library) == digest(small.library)
    assert [unit.retry for unit in open_library(library).committed.ledger.units()] == [0, 0, 1, 1]


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.usefixtures("ray_here")
def test_an_image_that_killed_its_workers_is_extracted_when_it_no_longer_does(small: Small, tmp_path: Path) -> None:
    poison = min(small.paintings.iterdir())
    deadly = PoisonRunner(poison, "dies")
    assert extracted([small.paintings], tmp_path / "library", deadly).rejected == 1
    deadly.close()
    healthy = RayRunner(None, None, 1)
    again = extracted([small.paintings], tmp_path / "library", healthy, AGAIN)
    healthy.close()
    assert (again.new_images, again.rejected) == (1, 0)
    assert patches(tmp_path / "library") == patches(small.library)
    assert digest(tmp_path / "library") == digest(small.library)
