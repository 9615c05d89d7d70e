"""Runs whose indexes are shared among owners in this process are those of one process, to the last byte."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import kt_batch
from kt_batch.config import IndexConfig, RunOptions
from kt_batch.errors import UsageError
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.statistics.finish import build_statistics
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.placement import index_sizes
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.resources import IN_MEMORY_BYTES
from kt_batch.pipelines.translate.serving import plan_division
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.base import Runner
from kt_batch.runners.local import LocalRunner
from kt_batch.store.image_filters import ImageFilter
from kt_batch.store.images.files import image_id
from tests.support.serving import ServingRunner
from tests.support.tiny import draw_all, extracted, hashes, indexed, rows

SMALL = IndexConfig(fan_out=4, max_leaf=16, merge=1.0)


@dataclass(frozen=True)
class Shelves:
    """A library of paintings 1 to 5, one of 6 to 8, photographs, and the image ids of paintings."""

    many: Path
    few: Path
    photos: Path
    ids: dict[int, str]


@pytest.fixture(scope="module")
def shelves(tmp_path_factory: pytest.TempPathFactory) -> Shelves:
    root = tmp_path_factory.mktemp("shelves")
    extracted([draw_all(root / "many-paintings", range(1, 6))], root / "many")
    extracted([draw_all(root / "few-paintings", range(6, 9))], root / "few")
    for library in (root / "many", root / "few"):
        indexed(library, config=SMALL)
        build_statistics(str(library), RunOptions(threads=1), LocalRunner(), no_progress)
    ids = {number: image_of(root / "many-paintings" / f"{number}.png") for number in range(1, 6)}
    ids |= {number: image_of(root / "few-paintings" / f"{number}.png") for number in range(6, 9)}
    return Shelves(root / "many", root / "few", draw_all(root / "photos", [11, 12, 13]), ids)


def image_of(path: Path) -> str:
    return image_id(path.read_bytes())


def done(
    run: Path, photos: Path, runner: Runner, choice: Mapping[str, Any], most: int | None = None, replicas: int = 1
) -> TranslateRequest:
    """Translate photographs after a choice, of which `method` and `settings` are parts, and return the request."""
    rest = {name: value for name, value in choice.items() if name not in ("method", "settings")}
    settings = choice.get("settings", {"search": {"probes": 4}})
    config, sources = choose(
        choice.get("method", "knowledge"), settings, Choice(cache=str(run.parent / "cache"), **rest)
    )
    options = RunOptions(threads=1, unit_size=3)
    request = TranslateRequest([str(photos)], str(run), config, sources, options, (), None, most, replicas)
    translate(request, runner, no_progress)
    return request


def limit(request: TranslateRequest, owners: int, whole: int) -> int:
    """Return an --index-memory, in bytes, that takes so many owners and leaves so many libraries whole."""
    sizes = index_sizes(request.config, request.sources)
    for most in range(min(sizes) // 8, sum(sizes), 1000):
        with suppress(UsageError):  # a shard is larger
            division = plan_division(replace(request, index_memory=most), ServingRunner())
            if division and (len(division.sizes), len(sizes) - len(division.shared)) == (owners, whole):
                return most
    raise ValueError(f"No limit makes {owners} owners beside {whole} whole libraries, of {sizes} bytes.")


def assert_shared_as_one(
    root: Path, photos: Path, owners: int, *, every: int = 10**9, whole: int = 0, replicas: int = 1, **choice: Any
) -> ServingRunner:
    """Assert that a run of so many owners is that of one process; so many libraries are opened whole."""
    one = done(root / "one", photos, LocalRunner(), choice)
    runner = ServingRunner(every)
    done(root / "shared", photos, runner, choice, limit(one, owners, whole), replicas)
    for folder in ("plan", "images", "provenance"):
        assert hashes(root / "shared", folder) == hashes(root / "one", folder)
    assert (root / "shared/run.json").read_bytes() == (root / "one/run.json").read_bytes()
    assert len(runner.service.keepers) == 0
    return runner


@pytest.fixture(autouse=True)
def asked_of_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no worker fetch allowed patches because they are few."""
    monkeypatch.setattr("kt_batch.pipelines.translate.serving.IN_MEMORY_BYTES", -1)


def sources_of(root: Path) -> set[str]:
    return {row["source_image_id"].hex() for row in rows(root / "shared", "provenance")}


# ---- filters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("owners", "every", "replicas"), [(1, 10**9, 1), (3, 5, 1), (3, 2, 2)])
def test_what_a_filter_leaves_out_is_in_no_owner_and_no_picture(
    shelves: Shelves, tmp_path: Path, owners: int, every: int, replicas: int
) -> None:
    allowed = (shelves.ids[1], shelves.ids[3], shelves.ids[4])
    only = ImageFilter(images=allowed)
    runner = assert_shared_as_one(
        tmp_path, shelves.photos, owners, every=every, replicas=replicas, library=shelves.many, only=only
    )
    assert sources_of(tmp_path) == set(allowed)
    assert runner.service.asked["Queries"]
    told, lost = owners * replicas, runner.service.lost
    assert told <= runner.service.asked["Allow"] <= told + lost  # not with each message
    assert replicas == 1 or (lost > 3 and runner.service.asked["Allow"] == told)
    if owners == 1:
        assert runner.service.counts[0]["visits"] == 4 * runner.service.counts[0]["queries"] > 0


def test_few_allowed_patches_are_fetched_and_nothing_more_is_asked(
    shelves: Shelves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kt_batch.pipelines.translate.serving.IN_MEMORY_BYTES", IN_MEMORY_BYTES)
    only = ImageFilter(images=(shelves.ids[4],))
    runner = assert_shared_as_one(tmp_path, shelves.photos, 3, every=5, library=shelves.many, only=only)
    assert sources_of(tmp_path) == {shelves.ids[4]}
    assert runner.service.asked["Finalists"]
    assert not runner.service.asked["Queries"]


def test_a_filter_that_leaves_few_leaves_has_proved_matches(shelves: Shelves, tmp_path: Path) -> None:
    one_image, settings = ImageFilter(images=(shelves.ids[2],)), {"search": {"probes": 60}}
    assert_shared_as_one(tmp_path, shelves.photos, 3, library=shelves.many, only=one_image, settings=settings)
    assert sources_of(tmp_path) == {shelves.ids[2]}
    assert all(row["certified"] for row in rows(tmp_path / "shared", "provenance"))


# ---- several libraries -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("owners", "whole"), [(1, 1), (5, 0)])
def test_libraries_are_searched_together_whether_each_is_shared_or_whole(
    shelves: Shelves, tmp_path: Path, owners: int, whole: int
) -> None:
    libraries = [f"{shelves.many}=0.9", str(shelves.few)]
    assert_shared_as_one(tmp_path, shelves.photos, owners, whole=whole, library=libraries)
    assert {row["library"] for row in rows(tmp_path / "shared", "provenance")} == {str(shelves.many), str(shelves.few)}


def test_a_filter_may_leave_nothing_of_a_library(shelves: Shelves, tmp_path: Path) -> None:
    libraries, only = [str(shelves.few), str(shelves.many)], ImageFilter(images=(shelves.ids[5], shelves.ids[1]))
    assert_shared_as_one(tmp_path, shelves.photos, 5, library=libraries, only=only)
    assert {row["library"] for row in rows(tmp_path / "shared", "provenance")} == {str(shelves.many)}


# ---- one source, and proofs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", ["round-robin", "nearest"])
def test_a_source_is_fetched_from_owners(shelves: Shelves, tmp_path: Path, draw: str) -> None:
    libraries, only = (
        [str(shelves.few), str(shelves.many)],
        ImageFilter(images=tuple(shelves.ids[n] for n in (1, 2, 7))),
    )
    seed = None if draw == "nearest" else 5
    runner = assert_shared_as_one(
        tmp_path, shelves.photos, 5, every=4, library=libraries, only=only, draw=draw, seed=seed
    )
    assert sources_of(tmp_path) <= {shelves.ids[n] for n in (1, 2, 7)}
    assert not runner.service.asked["Queries"]


def test_every_owner_proves_its_own_part(shelves: Shelves, tmp_path: Path) -> None:
    settings = {"search": {"certify": True, "top_k": 2}}
    assert_shared_as_one(tmp_path, shelves.photos, 3, every=3, library=shelves.many, settings=settings)
    assert all(row["certified"] for row in rows(tmp_path / "shared", "provenance") if row["rank"] == 0)


# ---- Python ----------------------------------------------------------------------------------------------------------


def test_a_program_may_ask_for_replicas_as_the_command_does(shelves: Shelves, tmp_path: Path) -> None:
    one = done(tmp_path / "one", shelves.photos, LocalRunner(), {"library": str(shelves.many)})
    runner = ServingRunner(every=3)
    memory = kt_batch.IndexMemory(limit(one, 3, 0) / 1e9 + 1e-9, replicas=2)
    choice = Choice(library=str(shelves.many), cache=str(tmp_path / "cache"))
    options, search = RunOptions(threads=1, unit_size=3), {"probes": 4}
    run = kt_batch.translate(
        shelves.photos, tmp_path / "shared", choice, options=options, runner=runner, index_memory=memory, search=search
    )
    assert len(run.owners) == 3
    assert runner.service.replicas == 2
    assert hashes(tmp_path / "shared", "images") == hashes(tmp_path / "one", "images")
    with pytest.raises(UsageError, match=r"^The replicas of IndexMemory are 17; allowed are 1 to 16"):
        kt_batch.translate([], tmp_path, choice, index_memory=kt_batch.IndexMemory(1, replicas=17))
