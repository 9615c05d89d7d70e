"""Index builds are reused, resumed, and refused for unsuitable libraries."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from kt_batch.config import IndexConfig, RunOptions
from kt_batch.errors import MismatchError, MissingError, UsageError
from kt_batch.kernels.kmeans import spherical_kmeans
from kt_batch.pipelines.index import finish, top, worker
from kt_batch.pipelines.index import plan as build_plan
from kt_batch.pipelines.index.finish import build_index
from kt_batch.pipelines.index.plan import SAMPLE_PER_SHARD, SHARD_PATCHES, adjacent, sample_size, top_clusters
from kt_batch.pipelines.numerics import fix_numerics
from kt_batch.pipelines.progress import Step
from kt_batch.pipelines.translate import resources as translate
from kt_batch.pipelines.translate.resources import open_index
from kt_batch.runners.local import LocalRunner
from kt_batch.store import layout, tables
from kt_batch.store.cache import CachePlace
from kt_batch.store.indexes import READ_FORMATS, find_index, read_index_summary
from kt_batch.store.locations import LocalLocation, open_location
from kt_batch.store.opening import open_library
from kt_batch.store.tables import read_table
from tests.support.collection import PATCHES, Collection, Factory, Recorder, Stopping
from tests.support.tiny import TREE, draw, extracted, hashes, indexed, parts


@pytest.fixture
def library(collection: Collection, tmp_path: Path) -> Path:
    """A library of the paintings without an index."""
    return Path(shutil.copytree(collection.library, tmp_path / "library", ignore=shutil.ignore_patterns("index")))


def opened(library: Path, digest: str, cache: Path | None = None) -> Any:
    summary = read_index_summary(open_location(str(library)), digest)
    assert summary is not None
    return open_index(open_location(str(library)), summary, CachePlace(str(cache) if cache else None))


class Listening(LocalRunner):
    """A runner that counts the heartbeats of each unit."""

    def __init__(self) -> None:
        super().__init__()
        self.beats: dict[str, list[int]] = {}

    def run(self, factory: Factory, units: Sequence[Any], quarantine: Any = None) -> Iterator[Any]:
        worker = factory()
        given: list[str] = []

        def beat(part: str) -> bool:
            given.append(part)
            return False

        for unit in units:
            before = len(given)
            yield worker(unit, beat)
            self.beats.setdefault(type(worker).__name__, []).append(len(given) - before)


def test_a_small_index_is_opened_at_once_and_a_large_one_shard_by_shard(
    collection: Collection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert len(opened(collection.library, collection.index).shards) == 1
    monkeypatch.setattr(translate, "IN_MEMORY_BYTES", 0)
    summary = read_index_summary(open_location(str(collection.library)), collection.index)
    assert summary is not None
    assert len(opened(collection.library, collection.index, tmp_path / "cache").shards) == len(summary.shards) > 1


def test_every_patch_is_kept_or_merged_into_a_kept_one(collection: Collection) -> None:
    index = opened(collection.library, collection.index)
    kept = {bytes(row) for shard in index.shards for row in shard.patch_ids.numpy()}
    members = _members(collection.library, collection.index)
    assert set(members.values()) <= kept
    assert kept.isdisjoint(members)
    assert kept | members.keys() == {bytes(value) for value in _ids(collection.library)}


def test_the_units_of_a_build_send_heartbeats_between_parts_of_their_work(library: Path) -> None:
    """The deadline of a worker applies to one part of the work."""
    runner = Listening()
    found = indexed(library, runner)
    beats = runner.beats
    assert min(beats["SampleWorker"]) == 3
    assert min(beats["RouteWorker"]) >= 4
    reads = len(parts(library, "patches"))
    rest = [count - reads for count in beats["PackWorker"] if count > reads]  # one for each cluster that is not empty
    assert sum(rest) >= 4 * len(rest) + 2 * found.leaves


def _members(library: Path, digest: str) -> dict[bytes, bytes]:
    table = pq.read_table(library / f"index/{digest}/members.parquet")
    return dict(zip(table["patch_id"].to_pylist(), table["kept_patch_id"].to_pylist(), strict=True))


def _ids(library: Path) -> list[bytes]:
    location = open_location(str(library))
    return [
        i
        for part in parts(library, "patches")
        for i in read_table(location, part, ["patch_id"])["patch_id"].to_pylist()
    ]


def test_an_index_has_the_same_bytes_for_any_unit_size_of_the_library(collection: Collection, tmp_path: Path) -> None:
    """The digest and the list of parts differ, since they name the parts; tree, members and shards are equal."""

    def content(library: Path, digest: str) -> list[str]:
        found = hashes(library, "index")
        named = {f"index/{digest}/{name}" for name in ("index.json", "parts.parquet")}
        return sorted(value for name, value in found.items() if name not in named)

    expected = content(collection.library, collection.index)
    for unit_size in (1, 8):
        place = tmp_path / str(unit_size)
        extracted([collection.paintings], place, options=RunOptions(threads=1, unit_size=unit_size))
        assert content(place, indexed(place).index) == expected


def test_a_second_index_command_does_nothing(library: Path) -> None:
    first = indexed(library)
    before, recorder = hashes(library), Recorder()
    again = indexed(library, recorder)
    assert (first.built, again.built, recorder.units) == (True, False, [])
    assert (again.index, again.patches, again.kept) == (first.index, first.patches, first.kept)
    assert hashes(library) == before


def test_a_finished_build_leaves_no_intermediate_file(library: Path) -> None:
    digest = indexed(library).index
    assert not [name for name in hashes(library) if "/build/" in name]
    assert {
        f"index/{digest}/{name}" for name in ("index.json", "tree.safetensors", "leaves.safetensors", "members.parquet")
    } < set(hashes(library))


def test_a_file_of_leaves_that_a_killed_build_left_is_replaced(library: Path) -> None:
    digest = indexed(library).index
    expected = hashes(library, "index")
    path = library / layout.leaves_path(digest)
    (library / layout.index_summary_path(digest)).unlink()
    path.unlink()
    path.write_bytes(b"half of another one")
    assert indexed(library).built
    assert hashes(library, "index") == expected


@pytest.mark.parametrize("after", [1, 3, 5, 8])
def test_an_interrupted_build_continues_and_gives_the_same_index(
    collection: Collection, library: Path, after: int
) -> None:
    with pytest.raises(ZeroDivisionError):
        indexed(library, Stopping(after))
    with pytest.raises(MissingError, match="has no index"):
        find_index(open_library(str(library)), None)
    recorder = Recorder()
    assert indexed(library, recorder).index == collection.index
    # Two parts are sampled and routed, then each cluster is packed; finished units are not repeated.
    clusters = top_clusters(4 * PATCHES, TREE)
    assert len(recorder.units) == 2 + 2 + clusters - after
    assert hashes(library, "index") == hashes(collection.library, "index")


def test_a_build_is_not_continued_on_another_numerics_class_by_default(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ZeroDivisionError):
        indexed(library, Stopping(3))
    here = fix_numerics(1)
    monkeypatch.setattr(build_plan, "fix_numerics", lambda *_: {**here, "isa": "SSE"})
    with pytest.raises(MismatchError, match=f"isa {here['isa']} -> SSE"):
        indexed(library)
    assert indexed(library, options=RunOptions(threads=1, mix_numerics=True)).built


def test_another_configuration_makes_a_second_index(library: Path) -> None:
    first = indexed(library)
    second = indexed(library, config=IndexConfig(fan_out=4, max_leaf=64, merge=1.0))
    assert second.kept >= first.kept
    with pytest.raises(MismatchError, match=f"has 2 indexes of its present state.*{min(first.index, second.index)}"):
        find_index(open_library(str(library)), None)
    assert find_index(open_library(str(library)), second.index[:6]).digest == second.index
    with pytest.raises(MissingError, match="has 0 indexes 'ffff'"):
        find_index(open_library(str(library)), "ffff")


@pytest.mark.parametrize(("payload", "bits"), [("4bit", 4), ("5bit", 5), ("float16", None)])
def test_an_index_stores_patches_as_configured(library: Path, payload: str, bits: int | None) -> None:
    built = indexed(library, config=IndexConfig.model_validate(TREE.model_dump() | {"payload": payload}))
    assert {shard.bits for shard in opened(library, built.index).shards} == {bits}


def test_fixed_clusters_per_level_are_those_of_the_paper(library: Path) -> None:
    summary = indexed(library, config=IndexConfig(clusters=(3, 2)))
    assert 3 <= summary.leaves <= 6


def test_a_grown_library_must_be_indexed_again(library: Path, tmp_path: Path) -> None:
    first = indexed(library)
    extracted([draw(tmp_path / "new.png", 9)], library)
    with pytest.raises(MismatchError, match="has changed since it was indexed; run: kt-batch index"):
        find_index(open_library(str(library)), None)
    second = indexed(library)
    assert second.index != first.index
    assert find_index(open_library(str(library)), None).digest == second.index
    assert second.patches == first.patches + PATCHES


def test_an_index_of_an_earlier_snapshot_is_opened_when_named(library: Path, tmp_path: Path) -> None:
    first = indexed(library)
    extracted([draw(tmp_path / "new.png", 9)], library)
    assert find_index(open_library(str(library)), first.index).digest == first.index
    indexed(library)
    assert find_index(open_library(str(library)), first.index[:8]).digest == first.index


def test_an_index_of_another_format_is_refused_by_name_and_can_be_replaced(library: Path) -> None:
    earlier = "0" * 16
    folder = Path(shutil.copytree(library / "index" / indexed(library).index, library / "index" / earlier))
    shutil.rmtree(library / "index" / indexed(library).index)
    summary = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(summary | {"format": "kt-batch-index/1", "digest": earlier}))
    for wanted in (None, earlier):
        with pytest.raises(
            MismatchError,
            match=rf"^The index {earlier} of .* is of format kt-batch-index/1, this version reads {READ_FORMATS}; ",
        ):
            find_index(open_library(str(library)), wanted)
    new = indexed(library)
    assert new.built
    assert find_index(open_library(str(library)), None).digest == new.index


def test_missing_unfinished_and_empty_libraries_are_refused(collection: Collection, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="not a knowledge library"):
        indexed(tmp_path / "nothing")
    with pytest.raises(ZeroDivisionError):
        extracted([collection.paintings], tmp_path / "unfinished", Recorder(stop_at=1))
    with pytest.raises(UsageError, match="not fully extracted; finish it first with kt-batch extract"):
        indexed(tmp_path / "unfinished")
    (tmp_path / "bad.png").write_bytes(b"no image")
    extracted([tmp_path / "bad.png"], tmp_path / "empty")
    with pytest.raises(UsageError, match="holds no patches"):
        indexed(tmp_path / "empty")
    assert not (tmp_path / "nothing").exists()


def test_a_library_with_one_patch_can_be_indexed(tmp_path: Path) -> None:
    extracted([draw(tmp_path / "dot.png", 1, width=1, height=1)], tmp_path / "library")
    summary = indexed(tmp_path / "library")
    assert (summary.patches, summary.kept, summary.leaves) == (1, 1, 1)


def test_progress_counts_every_stage_to_its_end(library: Path) -> None:
    steps: list[Step] = []
    build_index(str(library), TREE, RunOptions(threads=1), LocalRunner(), steps.append)
    assert list(dict.fromkeys(step.stage for step in steps)) == ["sample", "route", "pack"]
    last = {step.stage: (step.done, step.total) for step in steps}
    clusters = top_clusters(4 * PATCHES, TREE)
    assert last == {"sample": (2, 2), "route": (2, 2), "pack": (clusters, clusters)}


def test_a_shard_fits_into_the_memory_of_one_worker() -> None:
    assert top_clusters(100, IndexConfig()) == 1
    assert top_clusters(64 * SHARD_PATCHES, IndexConfig()) == 64


def test_builds_with_different_options_do_not_interfere(library: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        indexed(library, Stopping(3))
    other = IndexConfig(fan_out=4, max_leaf=64, seed=1)
    assert indexed(library, config=other).built
    assert indexed(library).built


def test_units_of_a_large_library_take_neighbours_until_there_are_few_enough() -> None:
    assert adjacent([5, 0, 7]) == [(0, 0), (1, 2)]
    assert adjacent([0, 0]) == [(0, 1)]
    assert adjacent([]) == []
    for sizes in ([1] * 6250, [1] * 5000 + [10_000], [3, 0, 1] * 2000):
        groups = adjacent(sizes)
        assert len(groups) <= build_plan.MOST_UNITS + 1
        assert [n for first, last in groups for n in range(first, last + 1)] == list(range(len(sizes)))


def test_an_index_does_not_depend_on_how_parts_and_clusters_are_grouped_and_sliced(
    collection: Collection, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_plan, "MOST_UNITS", 2)
    monkeypatch.setattr(tables.patch_slices, "__defaults__", (37,))
    recorder = Recorder()
    assert indexed(library, recorder).index == collection.index
    assert len(recorder.units) < 4 + top_clusters(4 * PATCHES, TREE)
    assert hashes(library, "index") == hashes(collection.library, "index")


def test_a_cluster_that_is_too_large_is_split_and_every_patch_is_still_indexed(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = indexed(library, config=IndexConfig(clusters=(2,)))
    monkeypatch.setattr(top, "SHARD_PATCHES", PATCHES // 2)
    split = indexed(library, config=IndexConfig(clusters=(2,), seed=1))
    assert whole.shards == 2 < split.shards
    assert split.patches == whole.patches
    members = _members(library, split.index)
    kept = {bytes(row) for shard in opened(library, split.index).shards for row in shard.patch_ids.numpy()}
    assert kept | members.keys() == {bytes(value) for value in _ids(library)}


def test_a_large_library_is_sampled_more_and_a_small_one_as_configured() -> None:
    config = IndexConfig()
    assert sample_size(1000, config) == 1000
    assert sample_size(8_000_000, config) == config.sample
    assert sample_size(800_000_000, config) == SAMPLE_PER_SHARD * (800_000_000 // SHARD_PATCHES) > 10 * config.sample


def test_points_beyond_the_configured_sample_are_fitted_too(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean and the basis follow from the configured sample alone; the centres from all of it."""
    config = IndexConfig(sample=64, fan_out=4, max_leaf=64)
    seen: list[tuple[int, torch.dtype]] = []

    def watched(points: Any, *arguments: Any) -> torch.Tensor:
        seen.append((points.count, points.vectors.dtype))
        return spherical_kmeans(points, *arguments)

    monkeypatch.setattr(top, "spherical_kmeans", watched)
    indexed(library, config=config)
    for module in (top, worker, finish):
        monkeypatch.setattr(module, "sample_size", lambda *_: 500)
    indexed(library, config=config.model_copy(update={"seed": 1}))
    assert seen == [(64, torch.float32), (500, torch.float16)]


def test_the_receipts_of_a_finished_build_are_removed_after_all_other_files(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that still builds would otherwise repeat finished work."""
    steps: list[tuple[str, str]] = []
    delete = LocalLocation.delete

    def watched(self: LocalLocation, name: str) -> None:
        steps.append(("begin", name))
        delete(self, name)
        steps.append(("end", name))

    monkeypatch.setattr(LocalLocation, "delete", watched)
    indexed(library)
    receipt = [name.startswith("receipts/") for _, name in steps]
    assert 0 < sum(receipt) < len(steps)
    assert receipt == sorted(receipt)
