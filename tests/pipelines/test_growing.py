"""An index grows by the images that were added, and equals any other way to the same library."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest
import torch

from kt_batch.config import IndexConfig, RunOptions, SearchConfig
from kt_batch.errors import DamagedError
from kt_batch.index.index import leaf_statistics
from kt_batch.index.leaf_statistics import map_leaves
from kt_batch.index.search import find
from kt_batch.index.shards import open_shard
from kt_batch.index.tree import Tree
from kt_batch.pipelines.index.commit import GenerationTree, _append_nodes
from kt_batch.pipelines.index.finish import BuildSummary, build_index
from kt_batch.pipelines.index.status import index_status
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.resources import open_index
from kt_batch.report.explain import explain
from kt_batch.runners.local import LocalRunner
from kt_batch.store import layout
from kt_batch.store.images.files import image_id
from kt_batch.store.indexes import GROWING_FORMAT, INDEX_FORMAT, IndexSummary, find_index, read_index_summary
from kt_batch.store.locations import open_location
from kt_batch.store.opening import open_library
from kt_batch.store.schemas import patch_vectors
from tests.support.collection import PATCHES, Factory, Recorder, Stopping
from tests.support.tiny import (
    TREE,
    column,
    draw,
    draw_all,
    extracted,
    hashes,
    indexed,
    patches,
    translate_request,
    translated,
)

FIRST, MORE = range(1, 9), (21, 22)  # of ten images, two are a fifth of the patches
ALL_VALUES = IndexConfig(fan_out=4, max_leaf=64, merge=1.0, payload="float16")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight paintings and their index."""
    root = tmp_path_factory.mktemp("growing")
    extracted([draw_all(root / "paintings", FIRST)], root / "library")
    indexed(root / "library")
    return root / "library"


@pytest.fixture
def library(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "library"))


@pytest.fixture
def grown(library: Path, tmp_path: Path) -> tuple[Path, BuildSummary]:
    """A library to which two paintings were added, and its grown index."""
    add(library, tmp_path, *MORE)
    return library, indexed(library)


def add(library: Path, tmp_path: Path, *seeds: int) -> None:
    extracted([draw(tmp_path / f"more/{seed}.png", seed) for seed in seeds], library)


def fresh(library: Path, config: IndexConfig = TREE, runner: LocalRunner | None = None) -> BuildSummary:
    return build_index(str(library), config, RunOptions(threads=1), runner or LocalRunner(), no_progress, fresh=True)


def summary_of(library: Path, digest: str) -> IndexSummary:
    summary = read_index_summary(open_location(str(library)), digest)
    assert summary is not None
    return summary


def opened(library: Path, digest: str) -> Any:
    return open_index(open_location(str(library)), summary_of(library, digest))


def index_files(library: Path) -> dict[str, str]:
    return hashes(library, "index")


# ---- what a grown index holds ----


def test_a_grown_index_holds_every_patch_of_the_library(grown: tuple[Path, BuildSummary]) -> None:
    library, built = grown
    assert (built.patches, built.new_patches, built.generation is None) == (10 * PATCHES, 2 * PATCHES, False)
    kept = {row.tobytes() for shard in opened(library, built.index).shards for row in shard.patch_ids.numpy()}
    table = pq.read_table(library / f"index/{built.index}/members.parquet")
    members = table["patch_id"].to_pylist()
    assert members == sorted(members)
    assert set(table["kept_patch_id"].to_pylist()) <= kept
    assert len(kept) == built.kept
    assert kept.isdisjoint(members)
    assert kept | set(members) == set(column(library, "patches", "patch_id"))


@pytest.mark.parametrize("space", ["raw", "centred"])
def test_a_grown_index_finds_what_a_fresh_one_finds(library: Path, tmp_path: Path, space: str) -> None:
    """In match space `raw`, scores are equal. In `centred`, both compare with means of their own."""
    config = ALL_VALUES.model_copy(update={"match_space": space})
    fresh(library, config)
    add(library, tmp_path, *MORE)
    ways = indexed(library, config=config), fresh(library, config)
    assert [way.generation is None for way in ways] == [False, True]
    table = patches(library)
    channels = open_library(str(library)).channels
    queries = torch.from_numpy(patch_vectors(table, channels).copy()).float()
    found = []
    for way in ways:
        index = opened(library, way.index)
        best = find(index, queries, SearchConfig(searcher="exact"))
        found.append((index.patch_ids(best.rows[:, 0]), best.scores[:, 0]))
    (ids, scores), (fresh_ids, fresh_scores) = found
    torch.testing.assert_close(scores, fresh_scores, atol=2e-5, rtol=0)
    same = (ids == fresh_ids).all(1)
    wrong = [row for row in range(len(ids)) if not same[row] and bytes(ids[row]) != table["patch_id"][row].as_py()]
    assert wrong == []  # each patch finds itself, or a patch that is equal to it
    assert same.mean() > 0.99


@pytest.mark.parametrize(
    "config", [SearchConfig(certify=True), SearchConfig(searcher="scan")], ids=["certified", "scan"]
)
def test_searchers_find_in_a_grown_index_what_an_exact_search_finds(
    grown: tuple[Path, BuildSummary], config: SearchConfig
) -> None:
    library, built = grown
    index = opened(library, built.index)
    queries = index.values(torch.arange(0, index.count, 7))
    found, expected = (find(index, queries, each) for each in (config, SearchConfig(searcher="exact")))
    torch.testing.assert_close(found.scores, expected.scores, atol=2e-5, rtol=0)


@pytest.mark.parametrize("searcher", ["hkm", "bhkm"])
def test_a_descent_from_the_root_reaches_the_new_clusters(
    grown: tuple[Path, BuildSummary], searcher: Literal["hkm", "bhkm"]
) -> None:
    library, built = grown
    index = opened(library, built.index)
    rows = find(index, index.values(torch.arange(index.count)), SearchConfig(searcher=searcher, probes=1)).rows[:, 0]
    generation = summary_of(library, built.generation or "")
    assert (rows >= generation.kept).sum() > (index.count - generation.kept) / 2


def test_growing_writes_no_byte_of_the_generation_again(library: Path, tmp_path: Path) -> None:
    before = {path: path.stat() for path in (library / "index").rglob("*") if path.is_file()}
    generation = find_index(open_library(str(library)), None)
    add(library, tmp_path, *MORE)
    built = summary_of(library, indexed(library).index)
    assert built.shards[: len(generation.shards)] == generation.shards
    assert built.generation is not None
    assert (built.generation.digest, built.generation.shards) == (generation.digest, len(generation.shards))
    for path, status in before.items():
        now = path.stat()
        assert (now.st_ino, now.st_mtime_ns, now.st_size) == (status.st_ino, status.st_mtime_ns, status.st_size)


def test_only_the_new_parts_are_read(library: Path, tmp_path: Path) -> None:
    add(library, tmp_path, *MORE)
    recorder = Recorder()
    indexed(library, recorder)
    read = {part.name for unit in recorder.units if hasattr(unit, "parts") for part in unit.parts}
    assert len(read) == 1  # two images are one unit of work


# ---- the same bytes, whatever came before ----


def test_growing_in_two_steps_gives_the_bytes_of_one(library: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(library, tmp_path / "other"))
    add(library, tmp_path, MORE[0])
    step = indexed(library)
    add(library, tmp_path, MORE[1])
    in_two = indexed(library)
    add(other, tmp_path, MORE[0])
    add(other, tmp_path, MORE[1])
    in_one = indexed(other)
    assert (step.generation, in_two.index) == (in_one.generation, in_one.index)
    ours, theirs = index_files(library), index_files(other)
    assert theirs.items() <= ours.items()
    assert {name for name in ours.keys() - theirs.keys() if step.index not in name and "shards/" not in name} == set()


class Backwards(LocalRunner):
    """A runner that does the units of every stage in the opposite order."""

    def run(self, factory: Factory, units: Sequence[Any], quarantine: Any = None) -> Iterator[Any]:
        return super().run(factory, list(reversed(units)), quarantine)


def test_neither_the_order_of_units_nor_their_size_changes_a_byte(
    grown: tuple[Path, BuildSummary], first: Path, tmp_path: Path
) -> None:
    library, built = grown
    other = Path(shutil.copytree(first, tmp_path / "other"))
    add(other, tmp_path, *MORE)
    assert indexed(other, Backwards()).index == built.index
    assert index_files(other) == index_files(library)
    small = Path(shutil.copytree(first, tmp_path / "small"))
    more = [tmp_path / f"more/{seed}.png" for seed in MORE]
    extracted(more, small, options=RunOptions(threads=1, unit_size=1))
    one = summary_of(small, indexed(small).index)
    whole = summary_of(library, built.index)
    assert (one.tree_sha256, one.members_sha256, one.shards) == (whole.tree_sha256, whole.members_sha256, whole.shards)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_an_interrupted_growth_continues_and_gives_the_same_index(
    grown: tuple[Path, BuildSummary], first: Path, tmp_path: Path, after: int
) -> None:
    expected = index_files(grown[0])
    library = Path(shutil.copytree(first, tmp_path / "killed"))
    add(library, tmp_path, *MORE)
    with pytest.raises(ZeroDivisionError):
        indexed(library, Stopping(after))
    recorder = Recorder()
    assert indexed(library, recorder).index == grown[1].index
    assert (
        len(recorder.units) == grown[1].shards - len(summary_of(library, grown[1].generation or "").shards) + 2 - after
    )
    assert index_files(library) == expected


def test_an_error_of_the_work_is_not_said_of_the_copied_tree_of_the_generation(library: Path, tmp_path: Path) -> None:
    class Unreachable(LocalRunner):
        def run(self, *_: Any) -> Any:
            raise ConnectionRefusedError("no worker")

    add(library, tmp_path, *MORE)
    with pytest.raises(ConnectionRefusedError, match="no worker"):
        indexed(library, runner=Unreachable())
    assert open_location(str(library)).list_temporary() == {}


def _resident(path: Path) -> int:
    """Return the bytes of a mapped file that are in the memory of this process."""
    mappings = Path("/proc/self/smaps").read_text().split(f"{path}\n")[1:]
    assert mappings
    return sum(int(mapping.partition("Rss:")[2].split()[0]) << 10 for mapping in mappings)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_centres_of_a_generation_do_not_stay_in_memory_when_they_are_copied(tmp_path: Path) -> None:
    leaves, path, copy = 50_000, tmp_path / "tree", tmp_path / "centres"
    none, numbers = torch.zeros(leaves, dtype=torch.int64), torch.arange(leaves)
    tree = Tree(
        centres=torch.ones(leaves + 1, 64),
        first_child=torch.cat([torch.tensor([1]), none]),
        child_count=torch.cat([torch.tensor([leaves]), none]),
        leaf=torch.cat([torch.tensor([-1]), numbers]),
        leaf_node=numbers + 1,
        leaf_shard=none,
        leaf_start=numbers,
        leaf_count=none + 1,
        mean=torch.zeros(4, 16),
        deviation=torch.ones(16),
        directions=torch.eye(64)[:, :8].contiguous(),
        spread=torch.zeros(64),
    )
    path.write_bytes(tree.to_bytes())
    generation = GenerationTree(Tree.map(path), path)
    before = _resident(path)
    with copy.open("wb") as file:
        _append_nodes(file, generation.path, 0, leaves + 1)
    assert copy.stat().st_size == 4 * tree.centres.numel()
    assert _resident(path) - before < copy.stat().st_size / 4
    assert generation.nodes.leaves == leaves


def test_a_second_command_does_nothing(grown: tuple[Path, BuildSummary]) -> None:
    library, built = grown
    before, recorder = hashes(library), Recorder()
    again = indexed(library, recorder)
    assert (again.index, again.built, recorder.units) == (built.index, False, [])
    assert hashes(library) == before


def test_images_without_patches_leave_the_shards_as_they_are(library: Path, tmp_path: Path) -> None:
    generation = find_index(open_library(str(library)), None)
    (tmp_path / "bad.png").write_bytes(b"no image")
    extracted([tmp_path / "bad.png"], library)
    built = indexed(library)
    found = summary_of(library, built.index)
    assert (built.generation, built.new_patches) == (generation.digest, 0)
    assert (found.tree_sha256, found.shards) == (generation.tree_sha256, generation.shards)
    assert find_index(open_library(str(library)), None).digest == built.index
    (status,) = [status for status in index_status(str(library)).indexes if status.state == "current"]
    assert (status.share, status.drift, status.pays) == (0, None, False)
    assert status.advice == "A fresh index does not pay yet."


# ---- when an index is built afresh ----


def test_a_library_with_many_new_images_is_indexed_afresh(library: Path, tmp_path: Path) -> None:
    add(library, tmp_path, 21, 22, 23)
    assert indexed(library).generation is None


def test_fresh_builds_a_new_generation_which_is_then_searched_and_grown(
    grown: tuple[Path, BuildSummary], tmp_path: Path
) -> None:
    library, built = grown
    again = fresh(library)
    assert (again.generation, again.built, again.patches) == (None, True, built.patches)
    assert find_index(open_library(str(library)), None).digest == again.index
    assert find_index(open_library(str(library)), built.index).digest == built.index
    add(library, tmp_path, 23)
    assert indexed(library).generation == again.index  # it covers more than the first one


def test_an_index_that_lists_no_parts_is_built_again(library: Path, tmp_path: Path) -> None:
    digest = find_index(open_library(str(library)), None).digest
    path = library / f"index/{digest}/index.json"
    content = json.loads(path.read_text())
    for name in ("parts_sha256", "leaves_sha256", "leaves_bytes"):
        del content[name]
    path.unlink()
    path.write_text(json.dumps(content | {"format": INDEX_FORMAT}))
    assert find_index(open_library(str(library)), None).digest == digest
    add(library, tmp_path, *MORE)
    assert indexed(library).generation is None


def test_a_grown_index_has_the_leaves_of_all_its_shards_in_a_file(grown: tuple[Path, BuildSummary]) -> None:
    library, built = grown
    summary = summary_of(library, built.index)
    shards = [open_shard(library / shard.path) for shard in summary.shards]
    path = library / layout.leaves_path(built.index)
    found, expected = map_leaves(path), leaf_statistics(shards)
    assert len(found.lengths) == built.leaves > summary_of(library, built.generation or "").leaves
    for name in ("lengths", "rests", "variances", "directions"):
        assert getattr(found, name).equal(getattr(expected, name))


def test_a_generation_of_format_4_grows_and_the_grown_index_has_a_file_of_its_leaves(
    library: Path, tmp_path: Path
) -> None:
    digest = find_index(open_library(str(library)), None).digest
    (library / layout.leaves_path(digest)).unlink()
    path = library / layout.index_summary_path(digest)
    content = json.loads(path.read_text())
    del content["leaves_sha256"], content["leaves_bytes"]
    path.unlink()
    path.write_text(json.dumps(content | {"format": GROWING_FORMAT}))
    add(library, tmp_path, *MORE)
    built = indexed(library)
    assert built.generation == digest
    assert (library / layout.leaves_path(built.index)).exists()


@pytest.mark.parametrize("change", [{"format": GROWING_FORMAT}, {"leaves_bytes": None}, {"leaves_sha256": None}])
def test_a_summary_with_half_of_what_it_says_of_leaves_is_refused(library: Path, change: dict[str, Any]) -> None:
    digest = find_index(open_library(str(library)), None).digest
    path = library / layout.index_summary_path(digest)
    content = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(content | change))
    with pytest.raises(DamagedError, match=r"index.json' at .* is not of format"):
        find_index(open_library(str(library)), None)


def test_another_configuration_does_not_grow(library: Path, tmp_path: Path) -> None:
    add(library, tmp_path, *MORE)
    assert indexed(library, config=ALL_VALUES).generation is None


def test_an_index_whose_shard_is_gone_does_not_grow(library: Path, tmp_path: Path) -> None:
    next((library / "index/shards").iterdir()).unlink()
    add(library, tmp_path, *MORE)
    assert indexed(library).generation is None


def test_an_index_of_parts_that_the_library_does_not_hold_does_not_grow(first: Path, tmp_path: Path) -> None:
    """The same paintings in other units are other parts."""
    other = tmp_path / "other"
    extracted([first.parent / "paintings"], other, options=RunOptions(threads=1, unit_size=3))
    shutil.copytree(first / "index", other / "index")
    assert indexed(other).generation is None


# ---- damage ----


def test_a_damaged_list_of_parts_is_one_sentence_that_helps(library: Path, tmp_path: Path) -> None:
    (path,) = library.glob("index/*/parts.parquet")
    path.unlink()
    path.write_bytes(b"PAR1")
    add(library, tmp_path, *MORE)
    with pytest.raises(
        DamagedError, match=r"parts.parquet.* does not have the content that index.json says. Index .*--fr"
    ):
        indexed(library)
    assert fresh(library).built


def test_a_tree_that_is_not_of_the_generations_shards_does_not_grow(library: Path, tmp_path: Path) -> None:
    generation = find_index(open_library(str(library)), None)
    path = library / f"index/{generation.digest}/index.json"
    content = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(content | {"leaves": generation.leaves + 1}))
    add(library, tmp_path, *MORE)
    with pytest.raises(
        DamagedError, match=r"does not fit its summary, so it cannot grow; index the library with --fresh"
    ):
        indexed(library)


@pytest.mark.parametrize(
    "change",
    [
        {"generation": {"digest": "0" * 16, "patches": 10**9, "kept": 1, "shards": 1}},
        {"generation": {"digest": "0" * 16, "patches": 1, "kept": 10**9, "shards": 1}},
        {"generation": {"digest": "0" * 16, "patches": 1, "kept": 1, "shards": 10**6}},
        {"generation": {"digest": "../../../etc/xyz", "patches": 1, "kept": 1, "shards": 1}},
        {"format": INDEX_FORMAT},
    ],
)
def test_a_summary_whose_generation_cannot_be_is_refused(
    grown: tuple[Path, BuildSummary], change: dict[str, Any]
) -> None:
    library, built = grown
    path = library / f"index/{built.index}/index.json"
    content = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(content | change))
    with pytest.raises(
        DamagedError, match=r"index.json' at .* is not of format kt-batch-index/3, kt-batch-index/4 or "
    ):
        find_index(open_library(str(library)), None)


def test_a_grown_index_without_its_generation_is_searched_and_reported_in_one_sentence(
    grown: tuple[Path, BuildSummary], tmp_path: Path
) -> None:
    library, built = grown
    shutil.rmtree(library / f"index/{built.generation}")
    assert opened(library, find_index(open_library(str(library)), None).digest).count == built.kept
    (status,) = index_status(str(library)).indexes
    assert (status.generation, status.generation_there) == (built.generation, False)
    assert status.advice.startswith(
        f"Its generation {built.generation} is missing, so it can be searched and cannot grow"
    )
    add(library, tmp_path, 23)
    assert indexed(library).generation is None


# ---- use ----


def test_a_grown_index_is_translated_with_and_explained(grown: tuple[Path, BuildSummary], tmp_path: Path) -> None:
    """A photograph that was added is found in the patches that were added."""
    library, built = grown
    request = translate_request(library, tmp_path / "run", built.index)
    assert translated([tmp_path / "more/21.png"], request).rejected == 0
    found = explain(str(tmp_path / "run"), "21.png", 30, 30)
    assert {match.image_id for match in found.contributions} == {image_id((tmp_path / "more/21.png").read_bytes())}


# ---- status ----


def test_the_status_names_generations_shares_and_drift(grown: tuple[Path, BuildSummary]) -> None:
    library, built = grown
    by_digest = {status.index: status for status in index_status(str(library)).indexes}
    assert by_digest.keys() == {built.index, built.generation}
    of_generation, of_grown = by_digest[built.generation or ""], by_digest[built.index]
    assert (of_generation.state, of_generation.can_grow, of_generation.advice) == ("stale", True, "")
    assert (of_grown.state, of_grown.can_grow, of_grown.new_patches) == ("current", False, 2 * PATCHES)
    assert of_grown.share == pytest.approx(0.2)
    assert of_grown.pays
    assert "A fresh index pays" in of_grown.advice
    assert of_grown.advice.endswith("--fresh")


def test_drift_is_the_ratio_of_the_rests_of_new_and_old_patches(grown: tuple[Path, BuildSummary]) -> None:
    library, built = grown
    index, generation = opened(library, built.index), summary_of(library, built.generation or "")
    rest = torch.cat([shard.level[:, -1].double() for shard in index.shards])
    expected = rest[generation.kept :].mean() / rest[: generation.kept].mean()
    (status,) = [status for status in index_status(str(library)).indexes if status.index == built.index]
    assert status.drift == pytest.approx(float(expected), rel=1e-3)
