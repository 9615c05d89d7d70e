"""Measure a search whose index several owners hold, against a search of the whole index in one process.

    python benchmarks/served_search.py LIBRARY PHOTOGRAPH... --owners 4 --out results/served_search.json

Three measurements, each of alternating rounds, whose median speed counts; the matches must be equal to the last byte.
`in_turn`: owners in this process, one after another on one thread, so that processor time is compared with processor
time; the bytes of messages a query by part. `on_ray`: owners in actors of one thread each and a translator, against one
process with as many threads as the machine has cores: seconds of a photograph, and the processor time of these
processes. There, too, what a worker has of its own (anonymous memory in /proc/self/smaps_rollup), and what it has
mapped in memory beside that, before and after it has opened the router and after one photograph; the same with the
whole index mapped.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from kt_batch import tune_process
from kt_batch.config import SearchConfig
from kt_batch.index.search import Matches, OwnersSearch, Search
from kt_batch.index.served.index import ServedIndex
from kt_batch.index.served.local import LocalOwners
from kt_batch.index.served.placement import divide_shards
from kt_batch.index.served.router import Router
from kt_batch.kernels.patches import positions, unfold
from kt_batch.methods.features import encode, to_tensor
from kt_batch.pipelines.encoders import library_encoder
from kt_batch.pipelines.numerics import fix_numerics
from kt_batch.pipelines.translate.mapped_index import map_index
from kt_batch.pipelines.translate.owners import IndexOwner, IndexPlace, Opened, Owned, open_router
from kt_batch.runners.base import Heartbeat
from kt_batch.runners.ray.runner import RayRunner
from kt_batch.store.cache import CachePlace
from kt_batch.store.images.files import decode, pad_to
from kt_batch.store.indexes import IndexSummary, find_index
from kt_batch.store.locations import absolute_place
from kt_batch.store.opening import open_library

ROUNDS = 3
PROBES = (8, 32, 96)


def queries_of(library: str, photograph: str) -> Tensor:
    """Return all query patches of a photograph `(n, 4, C)` float32, at the size of the library."""
    opened = open_library(library)
    encoder = library_encoder(opened, None)[1].network
    config = opened.config.at(find_index(opened, None).key(opened))
    working = decode(Path(photograph).read_bytes(), config.size)
    image = to_tensor(pad_to(working.pixels, encoder.geometry(config.layer).stride))
    with torch.no_grad():
        features = encode(encoder, image, config.layer)
    return unfold(features, *positions(*features.shape[1:], 1, cover=True))


def divided(summary: IndexSummary, owners: int) -> list[list[int]]:
    """Return the shards of so many owners, by the smallest limit that takes as many."""
    sizes = [shard.bytes for shard in summary.shards]
    step = max(1, sum(sizes) // 10_000)
    every = range(max(sizes), sum(sizes) + step, step)
    return next(parts for most in every if len(parts := divide_shards(sizes, most)) == owners)


def timed(work: Callable[[], Matches], clock: Callable[[], float]) -> tuple[float, Matches]:
    """Return the seconds that some work took, and its result."""
    began = clock()
    result = work()
    return clock() - began, result


def speed(seconds: dict[str, list[float]]) -> float:
    """Return the median speed of the served search beside the local one of the same round."""
    return round(median(one / other for one, other in zip(seconds["local"], seconds["served"], strict=True)), 3)


def assert_equal(one: Matches, other: Matches) -> None:
    """Raise ValueError unless two searches found the same."""
    pairs = ((one.patch_ids, other.patch_ids), (one.scores, other.scores), (one.values, other.values))
    if not all(torch.equal(*pair) for pair in pairs):
        raise ValueError("The search of the owners did not find what the search of the whole index found.")


def in_turn(library: str, summary: IndexSummary, queries: Tensor, owners: int) -> list[dict[str, Any]]:
    """Measure owners in this process, one after another on one thread."""
    torch.set_num_threads(1)
    index = map_index(open_library(library).location, summary, CachePlace())
    rows = []
    for probes in PROBES:
        config = SearchConfig(probes=probes)
        local, remote = Search(index, config), LocalOwners(index, divided(summary, owners))
        served = OwnersSearch(ServedIndex(Router.of(index), remote), config)
        seconds: dict[str, list[float]] = {"local": [], "served": []}
        assert_equal(local.search(queries), served.search(queries))  # and warms up
        remote.traffic.clear()
        for _ in range(ROUNDS):
            seconds["local"].append(timed(partial(local.search, queries), time.process_time)[0])
            seconds["served"].append(timed(partial(served.search, queries), time.process_time)[0])
        parts = {name: count / ROUNDS / len(queries) for name, count in remote.traffic.most_common() if count}
        each = {name: [round(1e6 * one / len(queries), 1) for one in some] for name, some in seconds.items()}
        rows.append(
            {
                "probes": probes,
                "us_a_query": each,
                "speed_of_served": speed(seconds),
                "bytes_a_query": round(sum(parts.values())),
                "bytes_a_query_by_part": {name: round(count, 1) for name, count in parts.items() if count >= 1},
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def on_ray(library: str, summary: IndexSummary, photograph: str, owners: int) -> dict[str, Any]:
    """Measure owners in actors against one process with all cores, and the memory of workers."""
    queries = queries_of(library, photograph)
    cores = os.cpu_count() or 1
    place, config = IndexPlace(library, summary.digest, CachePlace()), SearchConfig()
    shards = divided(summary, owners)
    runner = RayRunner(None, 1, 1)
    try:
        service = runner.serve([partial(IndexOwner, place, own, 8, False) for own in shards], [1 << 29] * owners)
        service.ask({number: [Opened()] for number in range(owners)})
        owned = Owned(place, service, tuple(map(tuple, shards)))
        served = OwnersSearch(open_router(owned, fix_numerics(1)), config)
        local = Search(map_index(open_library(library).location, summary, CachePlace()), config)
        assert_equal(local.search(queries), served.search(queries))
        seconds: dict[str, list[float]] = {"local": [], "served": []}
        processor = {"local": list[float](), "served": list[float]()}
        everybody = partial(processor_seconds, [os.getpid(), *service.pids()])
        for _ in range(ROUNDS):
            for name, search, threads in (("local", local, cores), ("served", served, 1)):
                torch.set_num_threads(threads)
                began = everybody()
                seconds[name].append(round(timed(partial(search.search, queries), time.perf_counter)[0], 3))
                processor[name].append(round(everybody() - began, 3))
        return {
            "cores": cores,
            "queries": len(queries),
            "seconds": seconds,
            "processor_seconds": processor,
            "speed_of_served_by_processor_time": speed(processor),
            "load_of_the_machine": os.getloadavg()[0],
            "noted": service.noted(),
            "bytes_of_owners": [own_bytes(pid) for pid in service.pids()],
            "bytes_of_a_worker_with_the_router": next(
                runner.run(partial(MeasuredWorker, library, owned), [photograph])
            ),
            "bytes_of_a_worker_with_the_index": next(runner.run(partial(MeasuredWorker, library, None), [photograph])),
        }
    finally:
        runner.close()


def processor_seconds(pids: list[int]) -> float:
    """Return the processor time that processes have taken so far, added up."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def own_bytes(process: int | str = "self") -> dict[str, int]:
    """Return the private (anonymous) memory of a process, and what it has mapped in memory beside that."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    found = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.endswith("kB")}
    return {"private": found["Anonymous"], "mapped": found["Rss"] - found["Anonymous"]}


class MeasuredWorker:
    """Searches for photographs, and measures its own process: with the router, or with the whole index mapped."""

    def __init__(self, library: str, owned: Owned | None) -> None:
        self.library, self.owned = library, owned

    def __call__(self, photograph: str, beat: Heartbeat) -> dict[str, Any]:  # noqa: ARG002
        """Return the memory before the index is opened, after that, and after a search."""
        numerics = fix_numerics(1)
        queries = queries_of(self.library, photograph)
        before = own_bytes()
        if self.owned:
            search: Search | OwnersSearch = OwnersSearch(open_router(self.owned, numerics), SearchConfig())
        else:
            opened = open_library(self.library)
            search = Search(map_index(opened.location, find_index(opened, None), CachePlace()), SearchConfig())
        found = {"before": before, "opened": own_bytes()}
        search.search(queries)
        return {**found, "searched": own_bytes()}


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("photograph")
    parser.add_argument("--owners", type=int, default=4)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    tune_process()
    library = absolute_place(given.library)
    summary = find_index(open_library(library), None)
    queries = queries_of(library, given.photograph)
    found = {
        "patches": summary.kept,
        "leaves": summary.leaves,
        "queries": len(queries),
        "owners": given.owners,
        "in_turn": in_turn(library, summary, queries, given.owners),
        "on_ray": on_ray(library, summary, given.photograph, given.owners),
        "numerics": fix_numerics(1),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
