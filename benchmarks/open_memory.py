"""Measure the private memory of a process that opens a large index and searches it.

    python benchmarks/open_memory.py --leaves 140000 280000 --out results/open_memory.json

An index of random leaves is written to a temporary folder, in format 5 and, with the same shards and tree, in format 4,
which has no file of its leaves. A process of its own opens it and searches. Private is what /proc/self/smaps_rollup
calls anonymous: neither mapped files nor the page cache count. It is read before the index is opened, after that, and
after a search, when freed memory has been given back. The peak is the largest of opening, as a thread sees it. The
first process to open an index hashes and checks it, so a second one is measured too.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kt_batch import tune_process
from kt_batch.config import IndexConfig, SearchConfig
from kt_batch.index.index import leaf_statistics
from kt_batch.index.leaf_statistics import write_leaves
from kt_batch.index.search import Search
from kt_batch.index.shards import VARIANCES, Shard, write_shard
from kt_batch.index.tree import Tree
from kt_batch.kernels.principal import LEVEL_WIDTH
from kt_batch.kernels.tiles import normalise
from kt_batch.pipelines.translate import resources
from kt_batch.store import layout
from kt_batch.store.cache import CachePlace
from kt_batch.store.indexes import (
    GROWING_FORMAT,
    LEAVES_FORMAT,
    IndexSummary,
    index_digest,
    put_file,
    read_index_summaries,
    write_index_summary,
)
from kt_batch.store.locations import LocalLocation

PER_SHARD = 819  # leaves; as many hold 131,072 patches
PATCHES = 160  # of a leaf of a real index; those written here hold one
QUERIES = 64


def draw_shard(count: int, channels: int, start: int, generator: torch.Generator) -> Shard:
    """Return a shard of `count` leaves of one patch, with codes of 4 bits."""
    values = 4 * channels
    coordinates = 0.9 * normalise(torch.randn(count, LEVEL_WIDTH - 1, generator=generator))
    level = torch.cat([coordinates, torch.full((count, 1), 0.4)], dim=1).half()
    ids = torch.zeros(count, 12, dtype=torch.uint8)
    for byte in range(4):
        ids[:, 11 - byte] = (torch.arange(start, start + count) >> 8 * byte) & 0xFF
    codes = torch.randint(256, (count, values // 2), dtype=torch.uint8, generator=generator)
    payload = {"codes": codes, "gains": torch.full((count,), 1e-3)}
    return Shard(payload, ids, torch.ones(count), level, level.float(), torch.zeros(count, VARIANCES))


def draw_tree(counts: list[int], channels: int, generator: torch.Generator) -> Tree:
    """Return a tree of three levels: a root, a node for each shard, and the leaves of each."""
    values, shards, leaves = 4 * channels, len(counts), sum(counts)
    each = torch.tensor(counts)
    inner = torch.cat([torch.tensor([1]), 1 + shards + each.cumsum(0) - each])
    centres = torch.empty(1 + shards + leaves, values).normal_(generator=generator).mul_(values**-0.5)
    centres[0] = 0
    number = torch.arange(leaves)
    return Tree(
        centres=centres,
        first_child=torch.cat([inner, torch.zeros_like(number)]),
        child_count=torch.cat([torch.tensor([shards]), each, torch.zeros_like(number)]),
        leaf=torch.cat([torch.full((1 + shards,), -1), number]),
        leaf_node=1 + shards + number,
        leaf_shard=torch.arange(shards).repeat_interleave(each),
        leaf_start=torch.cat([torch.arange(count) for count in counts]),
        leaf_count=torch.ones_like(number),
        mean=torch.zeros(4, channels),
        deviation=torch.ones(channels),
        directions=torch.linalg.qr(torch.randn(values, LEVEL_WIDTH - 1, generator=generator)).Q.contiguous(),
        spread=torch.full((values,), values**-0.5),
    )


def write_index(folder: Path, leaves: int, channels: int) -> list[IndexSummary]:
    """Write an index of random leaves in formats 4 and 5."""
    generator, location = torch.Generator().manual_seed(0), LocalLocation(folder)
    folder.mkdir()
    temporary = folder / "new"
    counts = [min(PER_SHARD, leaves - start) for start in range(0, leaves, PER_SHARD)]
    shards, refs = [], []
    for number, count in enumerate(counts):
        shards.append(draw_shard(count, channels, number * PER_SHARD, generator))
        write_shard(temporary, shards[-1])
        refs.append(put_file(location, layout.SHARDS, temporary))
        temporary.unlink()
    write_leaves(temporary, leaf_statistics(shards))
    leaves_sha256, leaves_bytes = put_file(location, layout.SHARDS, temporary)
    tree = draw_tree(counts, channels, generator).to_bytes()
    fields: dict[str, Any] = {
        "config": IndexConfig(), "snapshot": "0" * 16, "layer": "relu3_1", "channels": channels, "patches": leaves,
        "kept": leaves, "leaves": leaves, "members_sha256": "0" * 64, "numerics": {},
        "shards": [{"sha256": sha256, "bytes": size} for sha256, size in refs], "parts_sha256": "0" * 64,
    }  # fmt: skip
    found = []
    for form in (GROWING_FORMAT, LEAVES_FORMAT):
        digest = index_digest(IndexConfig(), form)
        location.put_if_absent(layout.tree_path(digest), tree)
        known = fields | {"format": form, "digest": digest, "tree_bytes": len(tree)}
        known["tree_sha256"] = hashlib.sha256(tree).hexdigest()
        if form == LEAVES_FORMAT:
            known |= {"leaves_sha256": leaves_sha256, "leaves_bytes": leaves_bytes}
            os.link(folder / layout.shard_path(leaves_sha256), folder / layout.leaves_path(digest))
        found.append(IndexSummary.model_validate(known))
        write_index_summary(location, found[-1])
    return found


def private_bytes() -> int:
    """Return the private memory of this process: its anonymous pages."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise KeyError("Anonymous")


def held_bytes() -> int:
    """Return the private memory of this process without what it has freed."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return private_bytes()


class Watch(threading.Thread):
    """Notes the largest private memory while the main thread works."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        """Look a hundred times a second."""
        while True:
            self.most = max(self.most, private_bytes())
            time.sleep(0.01)


def measured(folder: Path, digest: str, channels: int, cache: Path) -> dict[str, int | float | str]:
    """Open an index and search it; return the private bytes of each step beyond those before it, and a hash."""
    torch.set_num_threads(1)
    resources.IN_MEMORY_BYTES = 0  # every index is mapped
    location = LocalLocation(folder)
    (summary,) = [each for each in read_index_summaries(location) if each.digest == digest]
    queries = torch.randn(QUERIES, 4, channels, generator=torch.Generator().manual_seed(1))
    _warm_up(queries)
    before = held_bytes()
    watch = Watch()
    watch.start()
    started = time.perf_counter()
    index = resources.open_index(location, summary, CachePlace(str(cache)))
    seconds, peak, opened = time.perf_counter() - started, watch.most - before, held_bytes() - before
    started = time.perf_counter()
    search = Search(index, SearchConfig(probes=64))
    rows = search.find(queries).rows
    first = time.perf_counter() - started
    started = time.perf_counter()
    search.find(queries)
    return {
        "opened": opened,
        "peak_of_opening": max(peak, opened),
        "searched": held_bytes() - before,
        "open_seconds": round(seconds, 2),
        "first_search_seconds": round(first, 2),
        "search_seconds": round(time.perf_counter() - started, 3),
        "rows": int(rows.sum()),
    }


def _warm_up(queries: Tensor) -> None:
    """Multiply a little, so that libraries have their own memory before the first reading."""
    (queries.flatten(1) @ queries.flatten(1).T).sum().item()


def run(folder: Path, summary: IndexSummary, channels: int, cache: Path) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--measured", str(folder), summary.digest, str(channels), str(cache)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(leaves: int, channels: int, folder: Path) -> list[dict[str, Any]]:
    """Return the figures of an index of so many leaves, of each format in two processes, one after the other."""
    table = []
    for summary in write_index(folder, leaves, channels):
        for process in ("first", "second"):
            found = run(folder, summary, channels, folder / "cache")
            table.append(
                {"leaves": leaves, "values": 4 * channels, "format": summary.format, "process": process} | found
            )
    return table


def add_growth(table: list[dict[str, Any]]) -> None:
    """Add to each row of a larger index what a leaf and a patch more take than in the smallest; a search takes some."""
    smallest = {(row["format"], row["process"]): row for row in table if row["leaves"] == table[0]["leaves"]}
    for row in table:
        less = smallest[row["format"], row["process"]]
        if row is not less:
            grown = (row["searched"] - less["searched"]) / (row["leaves"] - less["leaves"])
            row |= {"bytes_a_further_leaf": round(grown, 1), "bytes_a_further_patch": round(grown / PATCHES, 3)}


def main() -> None:
    """Write an index of each size and measure it; print all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leaves", type=int, nargs="+", default=[140_000, 280_000])
    parser.add_argument("--channels", type=int, default=152)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path, help="an empty folder for the indexes; they are kept")
    parser.add_argument("--measured", nargs=4, help=argparse.SUPPRESS)  # this is the process that is measured
    options = parser.parse_args()
    if options.measured:
        folder, digest, channels, cache = options.measured
        print(json.dumps(measured(Path(folder), digest, int(channels), Path(cache))))
        return
    table = []
    with tempfile.TemporaryDirectory() as temporary:
        for leaves in options.leaves:
            table += measure(leaves, options.channels, (options.keep or Path(temporary)) / str(leaves))
    add_growth(table)
    text = json.dumps(table, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    tune_process()
    main()
