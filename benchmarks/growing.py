"""Time an index that grows beside one that is built afresh, and compare their matches.

    python benchmarks/growing.py LIBRARY PHOTOGRAPHS --out results/growing.json

LIBRARY was indexed, and images were added to it afterwards; it is changed. Queries are evenly spaced over the patches
of the photographs, which must be held out of the library. NCC is the mean over the matches of a number of probes, of
what the index itself holds.
"""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

import argparse
import json
import time
from pathlib import Path

import torch

from kt_batch.config import IndexConfig, RunOptions, SearchConfig
from kt_batch.evaluation.search import mean_ncc, query_patches
from kt_batch.index.search import find
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.index.finish import build_index
from kt_batch.pipelines.index.status import index_status
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.resources import open_index
from kt_batch.runners.local import LocalRunner
from kt_batch.store import layout
from kt_batch.store.generations import find_growth
from kt_batch.store.indexes import read_index_summary
from kt_batch.store.opening import open_library

PROBES = (8, 16, 32)
SAMPLE = 2048  # queries


def sizes(place: str) -> dict[str, int]:
    """Return the bytes of each file of the indexes of a library."""
    location = open_library(place).location
    return {name: location.size(name) for name in location.list(layout.INDEX)}


def timed_build(place: str, config: IndexConfig, threads: int, *, fresh: bool) -> dict[str, object]:
    """Index a library; return its digest, seconds (of a clock, and of the processor), and what was written."""
    before, clock, processor = sizes(place), time.perf_counter(), time.process_time()
    options = RunOptions(threads=threads)
    built = build_index(place, config, options, LocalRunner(), no_progress, fresh=fresh)
    seconds, work, after = time.perf_counter() - clock, time.process_time() - processor, sizes(place)
    if not built.built:
        raise SystemExit(f"{place} has the index {built.index} already; remove it first.")
    return {
        "index": built.index,
        "generation": built.generation,
        "patches": built.patches,
        "new_patches": built.new_patches,
        "leaves": built.leaves,
        "shards": built.shards,
        "seconds": round(seconds, 2),
        "processor_seconds": round(work, 2),
        "bytes": built.bytes,
        "written_bytes": sum(size for name, size in after.items() if name not in before),
    }


def ncc(place: str, digest: str, queries: torch.Tensor) -> dict[str, float]:
    """Return the mean NCC of the matches of queries at each number of probes, and of the exact ones."""
    location = open_library(place).location
    summary = read_index_summary(location, digest)
    if summary is None:
        raise SystemExit(f"{place} has no index {digest}.")
    index = open_index(location, summary)
    searches = {str(probes): SearchConfig(probes=probes) for probes in PROBES}
    searches["exact"] = SearchConfig(searcher="exact")
    return {
        name: round(mean_ncc(index, queries, find(index, queries, config).rows[:, 0]), 6)
        for name, config in searches.items()
    }


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("photographs", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    library = open_library(options.library)
    painted = library.config.painted == library.config.base
    config = IndexConfig(match_space="centred" if painted else "raw")
    if find_growth(library, config, library.config.base, 1.0) is None:
        raise SystemExit(f"{options.library} has no earlier index that could grow.")
    grown = timed_build(options.library, config, options.threads, fresh=False)
    status = next(s for s in index_status(options.library).indexes if s.index == grown["index"])
    fresh = timed_build(options.library, config, options.threads, fresh=True)
    queries = query_patches(options.library, options.photographs, EncoderSource())
    chosen = queries[torch.arange(SAMPLE) * len(queries) // SAMPLE]
    table = {
        "threads": options.threads,
        "queries": SAMPLE,
        "share": status.share,
        "drift": status.drift,
        "grown": grown | {"ncc": ncc(options.library, str(grown["index"]), chosen)},
        "fresh": fresh | {"ncc": ncc(options.library, str(fresh["index"]), chosen)},
    }
    options.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
