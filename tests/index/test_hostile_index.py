"""Indexes that a stranger has written, with hashes that fit: each is one sentence, and none a hang, a crash or a match.

Every case is opened twice, read into memory and mapped.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from kt_batch import events
from kt_batch.config import IndexConfig, SearchConfig
from kt_batch.errors import DamagedError, MissingError
from kt_batch.index.index import Index
from kt_batch.index.search import Search, find
from kt_batch.index.shards import FORMAT, PLANE_FORMAT
from kt_batch.index.tree import DEEPEST, Subtree
from kt_batch.pipelines.index.top import Top
from kt_batch.pipelines.translate import resources
from kt_batch.pipelines.translate.resources import open_index
from kt_batch.store import cache, layout, verified
from kt_batch.store.cache import CachePlace
from kt_batch.store.indexes import IndexSummary, put_blob, read_blob, read_index_summaries, read_index_summary
from kt_batch.store.locations import LocalLocation
from tests.support.forged import (
    IN_PLACE,
    Change,
    Tensors,
    add,
    alter,
    change_in_place,
    changed,
    cut,
    drop,
    fill,
    forge_shard,
    forge_tree,
    put,
    refused,
    retype,
    with_header,
    write_index,
)
from tests.support.synthetic import clustered, sharded_index_of

QUERIES = clustered(20, seed=9)
BOTH_WAYS = pytest.mark.parametrize("in_memory", [True, False], ids=["in memory", "mapped"])


@pytest.fixture(scope="module")
def index() -> Index:
    """Six shards or so of float16 bands; leaves of at most 16 patches; two levels below most shards."""
    return sharded_index_of(clustered(600), IndexConfig(max_leaf=16, merge=1, payload="float16"), shards=6)


@pytest.fixture
def written(index: Index, tmp_path: Path) -> tuple[Path, IndexSummary]:
    return tmp_path / "library", write_index(tmp_path / "library", index)


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Index]:
    def open_it(folder: Path, summary: IndexSummary, in_memory: bool) -> Index:
        monkeypatch.setattr(resources, "IN_MEMORY_BYTES", (64 << 20) if in_memory else 0)
        return open_index(LocalLocation(folder), summary, CachePlace(str(tmp_path / "cache")))

    return open_it


@BOTH_WAYS
def test_an_honest_index_opens_and_is_searched(
    index: Index, written: tuple[Path, IndexSummary], opened: Any, in_memory: bool
) -> None:
    back = opened(*written, in_memory)
    for searcher in ("tree", "exact", "hkm", "bhkm"):
        config = SearchConfig.model_validate({"searcher": searcher, "probes": 3})
        assert find(back, QUERIES, config).rows.equal(find(index, QUERIES, config).rows)


# ---- trees ----


def cycle(tensors: Tensors) -> None:
    """Let the last inner node lead back to the children of the root."""
    inner = int((tensors["child_count"] > 0).nonzero()[-1])
    tensors["first_child"][inner] = 1
    tensors["child_count"][inner] = 2


def chain(tensors: Tensors) -> Tensors:
    """Hang DEEPEST + 10 nodes, each with one child, between the root and its first child that is a leaf."""
    nodes, extra = len(tensors["leaf"]), DEEPEST + 10
    leaf = int((tensors["leaf"] >= 0).nonzero()[-1])
    numbers = torch.arange(nodes, nodes + extra)
    grown = {
        "centres": torch.cat([tensors["centres"], tensors["centres"][:1].expand(extra, -1)]),
        "first_child": torch.cat([tensors["first_child"], numbers + 1]),
        "child_count": torch.cat([tensors["child_count"], torch.ones(extra, dtype=torch.int64)]),
        "leaf": torch.cat([tensors["leaf"], torch.full((extra,), -1)]),
    }
    grown["first_child"][leaf], grown["child_count"][leaf] = nodes, 1
    grown["child_count"][-1] = 0
    grown["leaf"][-1], grown["leaf"][leaf] = tensors["leaf"][leaf], -1
    moved = tensors["leaf_node"].clone()
    moved[tensors["leaf"][leaf]] = nodes + extra - 1
    return tensors | grown | {"leaf_node": moved}


def swap_rows(name: str) -> Change:
    def change(tensors: Tensors) -> None:
        tensors[name][[0, 1]] = tensors[name][[1, 0]]

    return change


def move_patches(tensors: Tensors) -> None:
    """Make the first leaf one patch smaller and the second one larger, without moving its start."""
    tensors["leaf_count"][0] -= 1
    tensors["leaf_count"][1] += 1


def overlap(tensors: Tensors) -> None:
    tensors["leaf_start"][1] -= 1


TREES: dict[str, Change] = {
    "a cycle": cycle,
    "a root that is its own child": fill("first_child", 0, 0),
    "a node that is its own child": alter("first_child", lambda x: torch.arange(len(x))),
    "children before their parent": alter("first_child", lambda x: torch.cat([x[:1], x[1:].clamp(max=1)])),
    "a first child beyond the nodes": fill("first_child", 10**9, 0),
    "a first child at the end of int64": fill("first_child", 2**63 - 1, 0),
    "a negative first child": fill("first_child", -1, 0),
    "more children than nodes": fill("child_count", 10**9, 0),
    "children at the end of int64": fill("child_count", 2**63 - 1, 0),
    "a negative number of children": fill("child_count", -1, 0),
    "a root without children": fill("child_count", 0, 0),
    "a child that nobody has": alter("child_count", lambda x: torch.cat([x[:1] - 1, x[1:]])),
    "a child of two nodes": alter("child_count", lambda x: torch.cat([x[:1] + 1, x[1:]])),
    "a chain of a thousand nodes": chain,
    "a leaf that has children": fill("leaf", 0, 0),
    "a leaf twice": alter("leaf", lambda x: x.masked_fill(x == 1, 0)),
    "a leaf beyond the leaves": alter("leaf", lambda x: x.masked_fill(x == 1, 10**12)),
    "no leaf": fill("leaf", -1),
    "leaf nodes that belong to other leaves": swap_rows("leaf_node"),
    "leaf nodes beyond the nodes": fill("leaf_node", 10**9),
    "negative leaf nodes": fill("leaf_node", -1),
    "leaves in a shard that is not there": fill("leaf_shard", 99),
    "leaves in shard -1": fill("leaf_shard", -1),
    "all leaves in the first shard": fill("leaf_shard", 0),
    "leaves that begin beyond their shard": fill("leaf_start", 10**9),
    "leaves that begin before their shard": fill("leaf_start", -5),
    "leaves that overlap": overlap,
    "leaves in another order": swap_rows("leaf_start"),
    "a leaf without patches": fill("leaf_count", 0, 0),
    "a leaf of negative size": fill("leaf_count", -7, 0),
    "a leaf of a billion patches": fill("leaf_count", 10**9, 0),
    "leaves of sizes whose sum overflows": fill("leaf_count", 2**62),
    "a leaf that takes a patch of the next": move_patches,
    "a mean with NaN": fill("mean", torch.nan),
    "deviations with infinity": fill("deviation", torch.inf),
    "directions with NaN": fill("directions", torch.nan),
    "directions that overflow": fill("directions", 1e30),
    "a mean that overflows": fill("mean", 1e38),
    "a negative spread": fill("spread", -1.0),
    "a spread with NaN": fill("spread", torch.nan),
    "nodes as int32": retype("first_child", torch.int32),
    "leaf numbers as floats": retype("leaf", torch.float32),
    "centres as float16": retype("centres", torch.float16),
    "fewer centres than nodes": cut("centres"),
    "centres of another width": cut("centres", 1),
    "a mean of another width": cut("mean", 1),
    "a mean of three bands": cut("mean"),
    "a spread of another length": cut("spread"),
    "fewer leaf counts than leaves": cut("leaf_count"),
    "no directions": alter("directions", lambda x: x[:, :0]),
    "one direction too few": cut("directions", 1),
    "no nodes": lambda t: t | {n: t[n][:0] for n in ("centres", "first_child", "child_count", "leaf")},
    "a missing tensor": drop("spread"),
    "a superfluous tensor": add("self", torch.zeros(1)),
    "a tensor with a name of escapes": add("\x1b[2J\u202e", torch.zeros(1)),
    "centres in one dimension": alter("centres", torch.flatten),
}  # fmt: skip


@BOTH_WAYS
@pytest.mark.parametrize("change", TREES.values(), ids=TREES)
def test_a_tree_that_no_search_can_descend_is_refused(
    index: Index, written: tuple[Path, IndexSummary], opened: Any, change: Change, in_memory: bool
) -> None:
    folder, summary = written
    forged = forge_tree(folder, summary, changed(index.tree.to_bytes(), change))
    assert "tree" in refused(lambda: opened(folder, forged, in_memory)).lower()


CENTRES: dict[str, Change] = {
    "NaN": fill("centres", torch.nan, 3),
    "infinity": fill("centres", torch.inf),
    "values that overflow": fill("centres", 1e30),
}


@pytest.mark.parametrize("change", CENTRES.values(), ids=CENTRES)
def test_absurd_centres_are_refused_where_they_are_read_and_are_not_read_by_the_default_search(
    index: Index, written: tuple[Path, IndexSummary], opened: Any, change: Change
) -> None:
    folder, summary = written
    forged = forge_tree(folder, summary, changed(index.tree.to_bytes(), change))
    assert "has centres with" in refused(lambda: opened(folder, forged, True))
    mapped = opened(folder, forged, False)
    for searcher in ("tree", "exact", "scan"):
        config = SearchConfig.model_validate({"searcher": searcher, "probes": 3})
        assert find(mapped, QUERIES, config).rows.equal(find(index, QUERIES, config).rows)
    for searcher in ("hkm", "bhkm"):
        config = SearchConfig.model_validate({"searcher": searcher, "probes": 3})
        assert "has centres with" in refused(partial(find, mapped, QUERIES, config))


# ---- shards ----

SHARDS: dict[str, Change] = {
    "norms with NaN": fill("norms", torch.nan, 0),
    "norms with infinity": fill("norms", torch.inf),
    "first levels with NaN": fill("level", torch.nan, 5),
    "first levels with infinity": fill("level", -torch.inf),
    "bands with NaN": fill("hh", torch.nan, 2),
    "leaf means with NaN": fill("leaf_means", torch.nan),
    "leaf variances with infinity": fill("leaf_variances", torch.inf),
    "norms that overflow": fill("norms", 1e30),
    "negative norms": fill("norms", -1.0, 3),
    "norms below those of any patch": fill("norms", 1e-30, 3),
    "first levels of no unit vectors": fill("level", 60000.0, 3),
    "leaf means of no unit vectors": fill("leaf_means", 1e20),
    "negative variances": fill("leaf_variances", -1.0),
    "one patch id too few": cut("patch_ids"),
    "patch ids of eleven bytes": cut("patch_ids", 1),
    "one norm too few": cut("norms"),
    "one first level too few": cut("level"),
    "first levels of another width": cut("level", 1),
    "bands of different widths": cut("lh", 1),
    "bands of another width": lambda t: t | {n: t[n][:, :-1] for n in ("ll", "lh", "hl", "hh")},
    "one leaf too few": lambda t: t | {n: t[n][:-1] for n in ("leaf_means", "leaf_variances")},
    "leaf variances of other leaves": cut("leaf_variances"),
    "leaf variances of another width": cut("leaf_variances", 1),
    "no leaves": lambda t: t | {n: t[n][:0] for n in ("leaf_means", "leaf_variances")},
    "no patches": lambda t: {n: x[:0] for n, x in t.items()},
    "twice the patches": lambda t: t | {n: torch.cat([x, x]) for n, x in t.items() if not n.startswith("leaf")},
    "norms as float64": retype("norms", torch.float64),
    "first levels as float32": retype("level", torch.float32),
    "patch ids as int8": retype("patch_ids", torch.int8),
    "norms in two dimensions": alter("norms", lambda x: x[:, None]),
    "a missing band": drop("hl"),
    "a superfluous tensor": add("more", torch.zeros(4)),
    "codes beside bands": add("codes", torch.zeros(3, 4, dtype=torch.uint8)),
    "nothing": lambda _: {},
}  # fmt: skip


def shard_bytes(index: Index, change: Change, written_format: str = FORMAT) -> bytes:
    return changed(save(index.shards[0].tensors()), change, {"format": written_format})


@BOTH_WAYS
@pytest.mark.parametrize("change", SHARDS.values(), ids=SHARDS)
def test_a_shard_that_is_none_or_does_not_fit_its_tree_is_refused(
    index: Index, written: tuple[Path, IndexSummary], opened: Any, change: Change, in_memory: bool
) -> None:
    folder, summary = written
    forged = forge_shard(folder, summary, shard_bytes(index, change))
    refused(lambda: opened(folder, forged, in_memory))
    refused(lambda: opened(folder, forged, in_memory))  # nothing recorded it as verified


def same(_: Tensors) -> None:
    """Change nothing."""


def declare(name: str, **values: Any) -> Callable[[bytes], bytes]:
    """Return the change of a header that declares other values of a tensor than its bytes have."""
    return lambda data: with_header(data, lambda header: header[name].update(values))


RAW: dict[str, Callable[[bytes], bytes]] = {
    "a billion patches in the header alone": declare("norms", shape=[10**9]),
    "more bytes than int64 in the header": declare("norms", shape=[2**40, 2**40]),
    "offsets beyond the file": declare("norms", data_offsets=[0, 10**15]),
    "negative offsets": declare("norms", data_offsets=[-1, 3]),
    "offsets that overlap": declare("norms", data_offsets=[0, 4]),
    "an unknown type": declare("norms", dtype="F128"),
    "a type of four bits": declare("norms", dtype="F4"),
    "a shape of strings": declare("norms", shape=["1"]),
    "a header of a petabyte": lambda data: (10**15).to_bytes(8, "little") + data[8:],
    "a header that is longer than the file": lambda data: len(data).to_bytes(8, "little") + data[8:],
    "deep JSON": lambda data: (100_000).to_bytes(8, "little") + b"[" * 100_000,
    "a list in the metadata": lambda data: with_header(data, lambda h: h.update(__metadata__={"format": [[]]})),
    "metadata that is a list": lambda data: with_header(data, lambda h: h.update(__metadata__=[])),
    "a header that is not UTF-8": lambda data: (4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc",
    "no metadata": lambda data: with_header(data, lambda header: header.pop("__metadata__")),
    "another format": lambda data: with_header(data, lambda h: h.update(__metadata__={"format": "kt-batch-shard/9"})),
    "the format with a plane": lambda data: with_header(
        data, lambda h: h.update(__metadata__={"format": PLANE_FORMAT})
    ),
    "zeros": lambda data: bytes(len(data)),
    "text": lambda _: b"not a shard",
    "a pickle": lambda _: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "eight bytes": lambda data: data[:8],
    "half of it": lambda data: data[: len(data) // 2],
    "a byte more": lambda data: data + b"\0",
    "nothing": lambda _: b"",
}


@BOTH_WAYS
@pytest.mark.parametrize("change", RAW.values(), ids=RAW)
def test_bytes_that_are_no_shard_are_refused_without_memory_for_what_they_claim(
    index: Index, written: tuple[Path, IndexSummary], opened: Any, change: Callable[[bytes], bytes], in_memory: bool
) -> None:
    folder, summary = written
    forged = forge_shard(folder, summary, change(shard_bytes(index, same)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(lambda: opened(folder, forged, in_memory))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10  # KiB


@pytest.mark.parametrize("change", RAW.values(), ids=RAW)
def test_bytes_that_are_no_tree_are_refused(
    index: Index, written: tuple[Path, IndexSummary], opened: Any, change: Callable[[bytes], bytes]
) -> None:
    folder, summary = written
    forged = forge_tree(folder, summary, change(shard_bytes(index, same)))
    refused(lambda: opened(folder, forged, True))


@BOTH_WAYS
def test_gigabytes_that_are_a_hole_are_refused_before_they_are_read(
    written: tuple[Path, IndexSummary], opened: Any, in_memory: bool
) -> None:
    folder, summary = written
    size = 15 << 29  # 7.5 GiB
    for path in (layout.shard_path(summary.shards[0].sha256), layout.tree_path(summary.digest)):
        before = (folder / path).read_bytes()
        os.truncate(folder / path, size)
        claimed = summary.shards[0].model_copy(update={"bytes": size})
        update = {"shards": (claimed, *summary.shards[1:])} if "shards" in path else {"tree_bytes": size}
        message = refused(partial(opened, folder, summary.model_copy(update=update), in_memory))
        assert f"claims {size} bytes, and nearly all of them are a hole" in message
        put(folder / path, before)


@BOTH_WAYS
@pytest.mark.parametrize("kind", ["pipe", "folder", "endless device", "missing", "a link to nothing"])
def test_what_is_no_file_is_refused_and_never_waited_for(
    written: tuple[Path, IndexSummary], opened: Any, kind: str, in_memory: bool
) -> None:
    folder, summary = written
    for name in (layout.shard_path(summary.shards[0].sha256), layout.tree_path(summary.digest)):
        path = folder / name
        before = path.read_bytes()
        path.unlink()
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case "endless device":
                path.symlink_to("/dev/zero")
            case "a link to nothing":
                path.symlink_to("nowhere")
        with pytest.raises((DamagedError, MissingError), match=r"^[^\n]+$"):
            opened(folder, summary, in_memory)
        path.rmdir() if kind == "folder" else path.unlink(missing_ok=True)
        put(path, before)


@pytest.mark.parametrize("searcher", ["hkm", "bhkm"])
def test_patches_that_have_no_score_are_one_sentence(searcher: str) -> None:
    index = sharded_index_of(clustered(600, 128), IndexConfig(max_leaf=16, merge=1), shards=3)
    huge = Index(replace(index.tree, mean=torch.full((4, 128), 1e6)), index.shards)  # too large for float16
    config = SearchConfig.model_validate({"searcher": searcher})
    assert "too large or too small" in refused(lambda: find(huge, clustered(20, 128, seed=9), config))


# ---- the pieces of an unfinished build ----


@pytest.mark.parametrize("change", RAW.values(), ids=RAW)
def test_a_top_level_or_subtree_that_is_none_is_refused(
    index: Index, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    data = change(shard_bytes(index, same))
    build = LocalLocation(tmp_path)
    sha256, _ = put_blob(build, layout.TOP, data)
    refused(lambda: Top.get(build, sha256, torch.device("cpu")))
    refused(lambda: Subtree.from_bytes(data))


def test_a_blob_of_a_build_that_is_a_pipe_or_a_hole_is_refused(tmp_path: Path) -> None:
    build = LocalLocation(tmp_path)
    path = tmp_path / layout.blob_path(layout.TOP, "0" * 64)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    os.truncate(path, 10**12)
    assert "nearly all of them are a hole" in refused(lambda: read_blob(build, layout.TOP, "0" * 64))
    path.unlink()
    os.mkfifo(path)
    assert "is a pipe; allowed is a regular file" in refused(lambda: read_blob(build, layout.TOP, "0" * 64))


# ---- libraries opened in place ----


@BOTH_WAYS
def test_a_shard_of_equal_size_in_place_of_another_is_refused(
    written: tuple[Path, IndexSummary], opened: Any, in_memory: bool
) -> None:
    folder, summary = written
    path = folder / layout.shard_path(summary.shards[0].sha256)
    opened(folder, summary, in_memory)  # it is recorded as verified now
    status, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    message = refused(lambda: opened(folder, summary, in_memory))
    assert message.endswith("does not have the content its name says.")


def test_without_a_folder_for_the_record_a_mapped_library_is_hashed_at_every_opening(
    written: tuple[Path, IndexSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, summary = written
    monkeypatch.setattr(resources, "IN_MEMORY_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    assert open_index(LocalLocation(folder), summary).count == 600
    path = folder / layout.shard_path(summary.shards[0].sha256)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "does not have the content" in refused(lambda: open_index(LocalLocation(folder), summary))


def test_a_folder_that_takes_no_bytes_does_not_stop_a_library_in_place(
    written: tuple[Path, IndexSummary], opened: Any
) -> None:
    folder, summary = written
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with events.keep_events() as kept:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # as a full disk: every write fails
        try:
            count = opened(folder, summary, False).count
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert count == 600
    assert {event["event"] for event in kept.take()} == {"unrecorded"}


def test_a_small_library_is_opened_in_place_without_any_folder(
    written: tuple[Path, IndexSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, summary = written
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert open_index(LocalLocation(folder), summary).count == 600
    assert not (tmp_path / "home").exists()


def test_shards_and_the_tree_in_place_are_hashed_once_and_again_after_a_change(
    written: tuple[Path, IndexSummary], opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, summary = written
    hashed: list[object] = []

    def counted(file: BinaryIO) -> str | None:
        hashed.append(file)
        return verified.hash_of(file)

    monkeypatch.setattr(cache, "hash_of", counted)
    opened(folder, summary, False)
    assert len(hashed) == len(summary.shards) + 1
    opened(folder, summary, False)
    assert len(hashed) == len(summary.shards) + 1
    os.utime(folder / layout.shard_path(summary.shards[0].sha256))
    opened(folder, summary, False)
    assert len(hashed) == len(summary.shards) + 2


@pytest.mark.parametrize("how", IN_PLACE)
def test_a_shard_that_changes_while_it_is_mapped_is_one_sentence(
    written: tuple[Path, IndexSummary], opened: Any, how: str
) -> None:
    folder, summary = written
    search = Search(opened(folder, summary, False), SearchConfig(searcher="exact"))
    search.find(QUERIES)
    path = folder / layout.shard_path(summary.shards[0].sha256)
    change_in_place(path, how)
    for call in (search.find, search.search):
        assert "while it was in use" in refused(partial(call, QUERIES))


def test_a_shard_that_is_cut_in_the_middle_of_a_search_is_one_sentence_and_no_signal(
    written: tuple[Path, IndexSummary], opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, summary = written
    search = Search(opened(folder, summary, False), SearchConfig(searcher="exact"))
    keys = Index.keys

    def cut_first(index: Index, rows: Tensor) -> Tensor:
        for shard in summary.shards:
            os.truncate(folder / layout.shard_path(shard.sha256), 0)
        return keys(index, rows)

    monkeypatch.setattr(Index, "keys", cut_first)
    assert "was cut or extended while it was in use" in refused(lambda: search.find(QUERIES))


# ---- index.json ----

SUMMARIES: dict[str, bytes | dict[str, Any]] = {
    "nothing": b"",
    "text": b"hello",
    "null": b"null",
    "a list": b"[]",
    "half of it": b'{"format": "kt-batch-index/3", "digest": "00',
    "bytes that are not UTF-8": b'{"format": "\xff\xfe"}',
    "a lone surrogate": b'{"format": "\\ud800"}',
    "a hundred thousand brackets": b"[" * 100_000,
    "a hundred thousand objects": b'{"config":' * 100_000,
    "a number of five thousand digits": b'{"patches": ' + b"9" * 5000 + b"}",
    "an infinite number": b'{"patches": 1e999999}',
    "more bytes than allowed": b" " * (17 << 20),
    "a size that is text": {"tree_bytes": "many"},
    "a negative size": {"tree_bytes": -1},
    "a size beyond int64": {"tree_bytes": 2**63},
    "a shard of negative size": {"shards": [{"sha256": "0" * 64, "bytes": -1}]},
    "a shard of a size beyond int64": {"shards": [{"sha256": "0" * 64, "bytes": 10**30}]},
    "a shard whose name leaves the folder": {"shards": [{"sha256": "../../../etc/passwd", "bytes": 1}]},
    "a shard with a number as its name": {"shards": [{"sha256": 5, "bytes": 1}]},
    "shards that are no list": {"shards": "all"},
    "no shards": {"shards": []},
    "a digest that leaves the folder": {"digest": "../../secret"},
    "the digest of another index": {"digest": "f" * 16},
    "a hash of other letters": {"tree_sha256": "Z" * 64},
    "a layer that is a list": {"layer": []},
    "counts as floats": {"kept": 1.5},
    "counts that are not numbers": {"leaves": None},
    "a configuration that is not allowed": {"config": {"fan_out": 1}},
    "an unknown key": {"surprise": 1},
}  # fmt: skip


@pytest.mark.parametrize("content", SUMMARIES.values(), ids=SUMMARIES)
def test_an_index_json_that_is_none_is_one_sentence(
    written: tuple[Path, IndexSummary], content: bytes | dict[str, Any]
) -> None:
    folder, summary = written
    path = folder / layout.index_summary_path(summary.digest)
    if isinstance(content, dict):
        content = json.dumps(json.loads(path.read_bytes()) | content).encode()
    path.write_bytes(content)
    for read in (lambda at: read_index_summary(at, summary.digest), read_index_summaries):
        assert "index.json" in refused(partial(read, LocalLocation(folder)))
