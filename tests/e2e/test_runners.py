"""The local loop and Ray give the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kt_batch.config import RunOptions, ScaleKey
from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.index.finish import build_index
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.statistics.finish import build_statistics
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.local import LocalRunner
from kt_batch.runners.ray.runner import RayRunner
from kt_batch.store.locations import open_location
from kt_batch.store.statistics import read_statistics_summaries
from tests.e2e.conftest import Small
from tests.support.hostile_archives import zipped
from tests.support.ray_local import ray_here, ray_runner  # noqa: F401  # the fixtures
from tests.support.tiny import SIZE, TREE, draw_all, extracted, hashes, indexed, translate_request, translated


def test_ray_gives_the_same_bytes_of_library_index_and_run(
    small: Small,
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    extracted([small.paintings], tmp_path / "library", ray_runner)
    assert indexed(tmp_path / "library", ray_runner).index == small.index
    for folder in ("plan", "images", "patches", "index"):
        assert hashes(tmp_path / "library", folder) == hashes(small.library, folder)
    assert (tmp_path / "library/library.json").read_bytes() == (small.library / "library.json").read_bytes()
    for runner, place in ((None, "local"), (ray_runner, "ray")):
        translated([small.photos], translate_request(small.library, tmp_path / place, small.index), runner, unit_size=1)
    for folder in ("plan", "images", "provenance"):
        assert hashes(tmp_path / "ray", folder) == hashes(tmp_path / "local", folder)
    assert (tmp_path / "ray/run.json").read_bytes() == (tmp_path / "local/run.json").read_bytes()


def test_ray_gives_the_same_bytes_of_a_grown_index(
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    extracted([draw_all(tmp_path / "paintings", range(1, 9))], tmp_path / "local")
    generation = indexed(tmp_path / "local").index
    extracted([draw_all(tmp_path / "more", [21, 22])], tmp_path / "local")
    shutil.copytree(tmp_path / "local", tmp_path / "ray")
    grown = [indexed(tmp_path / place, runner) for place, runner in (("local", None), ("ray", ray_runner))]
    assert [each.generation for each in grown] == [generation, generation]
    assert hashes(tmp_path / "ray", "index") == hashes(tmp_path / "local", "index")


def test_ray_gives_the_same_bytes_of_further_keys_pictures_and_statistics(
    small: Small,
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    key, options = ScaleKey("relu4_1", 32), RunOptions(threads=1)
    for runner, place in ((LocalRunner(), tmp_path / "local"), (ray_runner, tmp_path / "ray")):
        extracted([small.paintings], place, runner, also=(str(key),), keep_images=True)
        build_index(str(place), TREE, options, runner, no_progress, key)
        build_statistics(str(place), options, runner, no_progress, key)
    for folder in ("plan", "images", "patches", "working", "index", "statistics/moments"):
        assert hashes(tmp_path / "ray", folder) == hashes(tmp_path / "local", folder)
    summaries = [read_statistics_summaries(open_location(str(tmp_path / place))) for place in ("local", "ray")]
    assert summaries[0] == summaries[1]
    assert [summary.count for summary in summaries[0]] == [summaries[0][0].images * 4 * 4]


def test_ray_gives_the_same_bytes_for_a_method_with_style_images(
    small: Small,
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    config, sources = choose("adain", {"alpha": 0.8}, Choice(styles=[str(small.paintings)], size=SIZE))
    options = RunOptions(threads=1, unit_size=1)
    for runner, place in ((LocalRunner(), "local"), (ray_runner, "ray")):
        request = TranslateRequest([str(small.photos)], str(tmp_path / place), config, sources, options)
        assert translate(request, runner, no_progress).rejected == 0
    for folder in ("plan", "images", "provenance"):
        assert hashes(tmp_path / "ray", folder) == hashes(tmp_path / "local", folder)
    assert verify(str(tmp_path / "ray"), no_progress).digest == verify(str(tmp_path / "local"), no_progress).digest


def test_workers_of_ray_read_members_of_archives_by_their_uris(
    small: Small,
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    photos = {path.name: path.read_bytes() for path in small.photos.iterdir()}
    (tmp_path / "photos.zip").write_bytes(zipped(photos))
    for runner, place in ((None, "local"), (ray_runner, "ray")):
        request = translate_request(small.library, tmp_path / place, small.index)
        assert translated([tmp_path / "photos.zip"], request, runner, unit_size=1).images == 3
    for folder in ("plan", "images", "provenance"):
        assert hashes(tmp_path / "ray", folder) == hashes(tmp_path / "local", folder)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_number_of_workers_changes_no_byte(
    workers: int,
    small: Small,
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811  # joins the cluster that the next one shares
) -> None:
    runner = RayRunner(None, workers, threads=1)
    assert runner.workers == workers
    translated([small.photos], translate_request(small.library, tmp_path / "local", small.index), unit_size=1)
    translated([small.photos], translate_request(small.library, tmp_path / "ray", small.index), runner, unit_size=1)
    for folder in ("plan", "images", "provenance"):
        assert hashes(tmp_path / "ray", folder) == hashes(tmp_path / "local", folder)


@pytest.mark.slow
def test_the_digest_does_not_depend_on_workers_or_unit_size(
    small: Small,
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    photos = draw_all(tmp_path / "photos", range(9))
    digests: dict[tuple[int, int], str | None] = {}
    for workers in (1, 2, 5):
        for unit_size, units in ((1, 9), (7, 2), (64, 1)):
            run = tmp_path / f"run-{workers}-{unit_size}"
            job = translate_request(small.library, run, small.index, cache=tmp_path / "cache")
            translated([photos], job, RayRunner(None, workers, threads=1), unit_size=unit_size)
            assert len(list((run / "provenance").iterdir())) == units
            digests[workers, unit_size] = verify(str(run), no_progress).digest
    assert None not in digests.values()
    assert len(set(digests.values())) == 1, digests
