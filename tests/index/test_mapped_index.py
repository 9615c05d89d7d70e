"""A large index is mapped: its tree, its leaves and its shards, with the results of an index in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.config import IndexConfig, SearchConfig
from kt_batch.errors import MissingError
from kt_batch.index import leaf_statistics as leaf_statistics_module
from kt_batch.index.index import WINDOW, Index, leaf_statistics
from kt_batch.index.leaf_statistics import LEAVES, check_leaves, map_leaves, write_leaves
from kt_batch.index.search import Search, search
from kt_batch.index.searchers import leaf_choice
from kt_batch.index.tree import Tree
from kt_batch.kernels.fixed_point import round_
from kt_batch.pipelines.translate import resources
from kt_batch.pipelines.translate.resources import open_index
from kt_batch.store import layout
from kt_batch.store.cache import CachePlace
from kt_batch.store.indexes import IndexSummary, ShardRef
from kt_batch.store.locations import LocalLocation
from tests.support.forged import (
    IN_PLACE,
    Change,
    add,
    alter,
    change_in_place,
    changed,
    cut,
    drop,
    fill,
    forge_leaves,
    put,
    refused,
    retype,
    write_index,
)
from tests.support.synthetic import clustered, sharded_index_of

QUERIES = clustered(40, seed=9)
SEARCHERS = [
    {"searcher": "tree", "probes": 3},
    {"searcher": "tree", "probes": 40, "top_k": 5},
    {"searcher": "tree", "probes": 3, "certify": True},
    {"searcher": "exact"},
    {"searcher": "hkm", "probes": 4},
    {"searcher": "bhkm", "probes": 4},
]
IN_GROUPS = pytest.mark.parametrize("in_groups", [False, True], ids=["few leaves", "leaves in groups"])


@pytest.fixture(scope="module")
def index() -> Index:
    config = IndexConfig(max_leaf=8, merge=1, payload="float16")
    return sharded_index_of(clustered(1500, clusters=30), config, shards=6)


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Return a function that lets an index of any size have its leaves in groups, or none."""

    def choose(in_groups: bool) -> None:
        for module in (leaf_statistics_module, leaf_choice):
            monkeypatch.setattr(module, "GROUPED", 1 if in_groups else 1 << 40)

    return choose


@pytest.fixture
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, IndexSummary], Index]:
    def open_it(folder: Path, summary: IndexSummary) -> Index:
        monkeypatch.setattr(resources, "IN_MEMORY_BYTES", 0)
        return open_index(LocalLocation(folder), summary, CachePlace(str(tmp_path / "cache")))

    return open_it


@IN_GROUPS
@pytest.mark.parametrize("settings", SEARCHERS, ids=str)
def test_a_mapped_index_finds_what_one_in_memory_finds_to_the_last_bit(
    index: Index, grouped: Any, mapped: Any, tmp_path: Path, settings: dict[str, Any], in_groups: bool
) -> None:
    grouped(in_groups)
    config = SearchConfig.model_validate(settings)
    expected = search(index, QUERIES, config)
    without = mapped(tmp_path / "without", write_index(tmp_path / "without", index))
    with_leaves = mapped(tmp_path / "with", write_index(tmp_path / "with", index, with_leaves=True))
    for other in (without, with_leaves):
        found = search(other, QUERIES, config)
        assert found.patch_ids.equal(expected.patch_ids)
        assert found.scores.equal(expected.scores)
        assert found.values.equal(expected.values)
        assert found.certified.equal(expected.certified)


@IN_GROUPS
def test_the_file_of_leaves_holds_what_the_shards_say(
    index: Index, grouped: Any, tmp_path: Path, in_groups: bool
) -> None:
    grouped(in_groups)
    expected = leaf_statistics(index.shards)
    write_leaves(tmp_path / "leaves", expected)
    check_leaves(tmp_path / "leaves")
    found = map_leaves(tmp_path / "leaves")
    for name in ("lengths", "rests", "variances", "directions"):
        assert getattr(found, name).equal(getattr(expected, name))
    assert (found.own_groups is not None, found.own_directions is None) == (in_groups, in_groups)
    for name in ("leaves", "size", "start", "widths", "centres", "directions"):
        assert getattr(found.groups, name).equal(getattr(expected.groups, name))
    for kept in (found.directions, found.groups.directions, found.groups.centres):
        assert kept.equal(round_(kept.clone()))  # so that a search uses the mapped file as it is


def test_groups_of_a_file_are_not_made_again(
    index: Index, grouped: Any, mapped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped(True)
    summary = write_index(tmp_path / "library", index, with_leaves=True)

    def never(_: Tensor) -> None:
        raise AssertionError

    monkeypatch.setattr(leaf_statistics_module, "group_leaves", never)
    search(mapped(tmp_path / "library", summary), QUERIES, SearchConfig(probes=3))


def test_the_default_search_reads_leaf_statistics_from_their_file_and_not_from_the_shards(
    index: Index, grouped: Any, mapped: Any, tmp_path: Path
) -> None:
    """Other lengths of rests change what a query reaches in the second round, so the file must be what is read."""
    grouped(False)
    folder = tmp_path / "library"
    summary = write_index(folder, index, with_leaves=True)
    data = (folder / layout.leaves_path(summary.digest)).read_bytes()
    opened = mapped(folder, forge_leaves(folder, summary, changed(data, fill("rests", 0.125))))
    assert opened.statistics.rests.equal(torch.full((index.tree.leaves,), 0.125))


class Remote(LocalLocation):
    """A library without files of its own, as in object storage, that keeps the names that are read."""

    reads: list[str] = []  # noqa: RUF012 - LocalLocation is frozen

    def local_path(self, _: str) -> None:
        return None

    def open(self, name: str) -> BinaryIO:
        self.reads.append(name)
        return super().open(name)


def test_tree_and_leaves_are_staged_once_from_object_storage(
    index: Index, grouped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped(True)
    monkeypatch.setattr(resources, "IN_MEMORY_BYTES", 0)
    summary = write_index(tmp_path / "library", index, with_leaves=True)
    library, cache = Remote(tmp_path / "library"), CachePlace(str(tmp_path / "cache"))
    library.reads.clear()
    expected = search(index, QUERIES, SearchConfig(probes=3))
    for _ in range(2):
        found = search(open_index(library, summary, cache), QUERIES, SearchConfig(probes=3))
        assert found.patch_ids.equal(expected.patch_ids)
        assert found.scores.equal(expected.scores)
        files = (file_of(summary, "tree"), file_of(summary, "leaves"), *summary.shards)
        assert sorted(library.reads) == sorted(file.path for file in files)


@pytest.mark.parametrize("kind", ["tree", "leaves"])
def test_a_damaged_file_in_object_storage_is_one_sentence_and_is_not_kept(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(resources, "IN_MEMORY_BYTES", 0)
    summary = write_index(tmp_path / "library", index, with_leaves=True)
    path = tmp_path / "library" / file_of(summary, kind).path
    data = path.read_bytes()
    put(path, data[:-1] + bytes([data[-1] ^ 1]))
    library, cache = Remote(tmp_path / "library"), CachePlace(str(tmp_path / "cache"))
    assert path.name in refused(lambda: open_index(library, summary, cache))
    put(path, data)
    assert open_index(library, summary, cache).count == index.count


def limited(folder: Path, digest: str, soft: int, hard: int) -> subprocess.CompletedProcess[str]:
    """Open an index in a process of its own that may open few files."""
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "from pathlib import Path\n"
        "from kt_batch.pipelines.translate import resources\n"
        "from kt_batch.store.cache import CachePlace\n"
        "from kt_batch.store.indexes import read_index_summary\n"
        "from kt_batch.store.locations import LocalLocation\n"
        f"resources.IN_MEMORY_BYTES = 0; library = LocalLocation(Path({str(folder)!r}))\n"
        f"summary = read_index_summary(library, {digest!r})\n"
        f"index = resources.open_index(library, summary, CachePlace({str(folder)!r} + '-cache'))\n"
        "print(len(index.shards))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_an_index_of_more_shards_than_a_process_may_open_files_raises_its_limit(tmp_path: Path) -> None:
    config = IndexConfig(max_leaf=8, merge=1, payload="float16")
    index = sharded_index_of(clustered(1500, clusters=60), config, shards=60)
    summary = write_index(tmp_path / "library", index, with_leaves=True)
    assert len(summary.shards) > 45
    found = limited(tmp_path / "library", summary.digest, 40, 4096)
    assert (found.stdout, found.returncode) == (f"{len(summary.shards)}\n", 0), found.stderr
    found = limited(tmp_path / "library", summary.digest, 40, 45)
    assert "StorageError: This process may open 45 files (ulimit -Hn), and this index needs" in found.stderr


# ---- the places of leaves ----


def test_windows_of_leaves_are_those_that_their_definition_says(index: Index) -> None:
    leaves = torch.randperm(index.tree.leaves, generator=torch.Generator().manual_seed(0))
    found = zip(index.window_widths(leaves), index.first_rows(leaves), strict=True)
    for leaf, (width, first) in zip(leaves.tolist(), found, strict=True):
        row = index.window_rows(torch.tensor([leaf]), int(width))
        shard, start, count, first_row = index.leaf_rows(leaf)
        expected = min(-(-count // WINDOW) * WINDOW, shard.count)
        assert (int(width), int(first)) == (expected, first_row)
        assert int(row) == first_row - start + min(start, shard.count - expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 1300))
def test_as_many_leaves_as_hold_k_patches_hold_them_whichever_they_are(sizes: list[int], k: int) -> None:
    held = Index.__new__(Index)
    tree: Any = type("Leaves", (), {"leaf_count": torch.tensor(sizes), "leaves": len(sizes)})
    held.tree = tree
    needed = held.leaves_holding(k)
    assert sum(sorted(sizes)[:needed]) >= min(k, sum(sizes))
    assert needed == 1 or sum(sorted(sizes)[: needed - 1]) < k


# ---- what is damaged ----

LEAF_FILES: dict[str, Change] = {
    "lengths with NaN": fill("lengths", torch.nan, 3),
    "rests with infinity": fill("rests", torch.inf),
    "negative variances": fill("variances", -1.0),
    "no variances": alter("variances", lambda x: x[:, :0]),
    "one variance too few": cut("variances", 1),
    "one length too few": cut("lengths"),
    "lengths as float64": retype("lengths", torch.float64),
    "a missing tensor": drop("rests"),
    "a superfluous tensor": add("self", torch.zeros(1)),
    "no leaves": lambda t: {n: x[:0] for n, x in t.items()},
}
OF_ALL: dict[str, Change] = {
    "directions of no unit vectors": fill("directions", 1e20),
    "directions of other leaves": cut("directions"),
    "one coordinate too few": cut("directions", 1),
    "one leaf too few": lambda t: {n: x[:-1] for n, x in t.items()},
}
OF_GROUPS: dict[str, Change] = {
    "directions with NaN": fill("group_directions", torch.nan, 5),
    "centres with NaN": fill("group_centres", torch.nan),
    "one group too few": lambda t: (
        t | {"group_sizes": t["group_sizes"][:-1], "group_centres": t["group_centres"][:, :-1]}
    ),
    "a group without leaves": lambda t: t["group_sizes"].__setitem__(0, 0),
    "a negative group": lambda t: t["group_sizes"].__setitem__(0, -1),
    "groups whose sum overflows": fill("group_sizes", 2**62),
    "a leaf in two groups": lambda t: t["group_leaves"].__setitem__(0, int(t["group_leaves"][1])),
    "a leaf beyond the leaves": fill("group_leaves", 10**9, 0),
    "a negative leaf": fill("group_leaves", -1, 0),
    "fewer centres than groups": cut("group_centres", 1),
    "one direction too few": cut("group_directions"),
    "sizes without centres": drop("group_centres"),
    "centres without sizes": drop("group_sizes"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "in_groups"),
    [*((change, groups) for change in LEAF_FILES.values() for groups in (False, True)),
     *((change, False) for change in OF_ALL.values()), *((change, True) for change in OF_GROUPS.values())],
    ids=[*(f"{name}, {groups}" for name in LEAF_FILES for groups in (False, True)), *OF_ALL, *OF_GROUPS],
)  # fmt: skip
def test_leaves_that_no_search_can_use_are_refused(
    index: Index, grouped: Any, mapped: Any, tmp_path: Path, change: Change, in_groups: bool
) -> None:
    grouped(in_groups)
    folder = tmp_path / "library"
    summary = write_index(folder, index, with_leaves=True)
    data = (folder / layout.leaves_path(summary.digest)).read_bytes()
    forged = forge_leaves(folder, summary, changed(data, change))
    for _ in range(2):  # what was refused is not recorded as verified
        assert "file of the leaves of" in refused(partial(mapped, folder, forged))


def file_of(summary: IndexSummary, kind: str) -> ShardRef:
    found = summary.tree if kind == "tree" else summary.leaf_statistics
    assert found is not None
    return found


BOTH = pytest.mark.parametrize("kind", ["tree", "leaves"])


@BOTH
@pytest.mark.parametrize("damage", ["another byte", "a byte more", "a byte less", "text", "nothing"])
def test_a_file_that_is_not_what_the_summary_says_is_one_sentence(
    index: Index, mapped: Any, tmp_path: Path, kind: str, damage: str
) -> None:
    folder = tmp_path / "library"
    summary = write_index(folder, index, with_leaves=True)
    mapped(folder, summary)  # it is recorded as verified now
    path = folder / file_of(summary, kind).path
    data = path.read_bytes()
    made = {
        "another byte": data[:-1] + bytes([data[-1] ^ 1]),
        "a byte more": data + b"\0",
        "a byte less": data[:-1],
        "text": b"no tensors",
        "nothing": b"",
    }
    put(path, made[damage])
    assert path.name in refused(partial(mapped, folder, summary))


@BOTH
def test_a_file_that_is_gone_is_one_sentence(index: Index, mapped: Any, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "library"
    summary = write_index(folder, index, with_leaves=True)
    (folder / file_of(summary, kind).path).unlink()
    with pytest.raises(MissingError, match=r"^[^\n]+$"):
        mapped(folder, summary)


@BOTH
@pytest.mark.parametrize("how", IN_PLACE)
def test_a_file_that_changes_while_it_is_mapped_is_one_sentence(
    index: Index, grouped: Any, mapped: Any, tmp_path: Path, kind: str, how: str
) -> None:
    grouped(True)
    folder = tmp_path / "library"
    summary = write_index(folder, index, with_leaves=True)
    opened = Search(mapped(folder, summary), SearchConfig(probes=3))
    opened.find(QUERIES)
    path = folder / file_of(summary, kind).path
    change_in_place(path, how)
    for call in (opened.find, opened.search):
        assert "while it was in use" in refused(partial(call, QUERIES))


@BOTH
@pytest.mark.parametrize("searcher", ["tree", "hkm"])
def test_a_file_that_is_cut_in_the_middle_of_a_search_is_one_sentence_and_no_signal(
    index: Index, grouped: Any, mapped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, searcher: str
) -> None:
    grouped(True)
    folder = tmp_path / "library"
    summary = write_index(folder, index, with_leaves=True)
    opened = Search(mapped(folder, summary), SearchConfig.model_validate({"searcher": searcher, "probes": 3}))
    wanted = Index.leaves_to_probe

    def cut_first(index: Index, probes: int, k: int) -> int:
        os.truncate(folder / file_of(summary, kind).path, 0)
        return wanted(index, probes, k)

    monkeypatch.setattr(Index, "leaves_to_probe", cut_first)
    assert "was cut or extended while it was in use" in refused(lambda: opened.find(QUERIES))


def test_the_statistics_of_another_index_are_refused(index: Index, mapped: Any, tmp_path: Path) -> None:
    other = sharded_index_of(clustered(300), IndexConfig(max_leaf=8, merge=1, payload="float16"), shards=3)
    folder = tmp_path / "library"
    summary = write_index(folder, index, with_leaves=True)
    write_leaves(tmp_path / "other", leaf_statistics(other.shards))
    forged = forge_leaves(folder, summary, (tmp_path / "other").read_bytes())
    assert f"has {other.tree.leaves} leaves" in refused(partial(mapped, folder, forged))


def test_a_file_without_leaves_is_named_in_its_error(tmp_path: Path) -> None:
    (tmp_path / "leaves").write_bytes(b"no tensors")
    assert refused(lambda: map_leaves(tmp_path / "leaves")).startswith(LEAVES)


def test_a_mapped_tree_is_the_tree(index: Index, tmp_path: Path) -> None:
    (tmp_path / "tree").write_bytes(index.tree.to_bytes())
    found = Tree.map(tmp_path / "tree")
    found.check_structure()
    assert found.to_bytes() == index.tree.to_bytes()
    assert found.leaf_centres().equal(index.tree.leaf_centres())
