"""Measure the bytes that a search reads from the disk when nothing of a mapped index is in memory.

    python benchmarks/mapped_reading.py LIBRARY --queries IMAGES --out results/mapped_reading.json

Before every photograph, the pages of all shards are dropped, as on a machine that is short of memory; /proc/self/io
says what is read. Once with advice (store.advice), once as the kernel reads by default. Linux only; close what else
has the index open, for its pages stay.
"""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

import argparse
import ctypes
import json
import mmap
import os
import time
from pathlib import Path

import torch

from kt_batch.config import SearchConfig
from kt_batch.evaluation.search import query_patches
from kt_batch.index.index import Index
from kt_batch.index.search import Search
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.translate.resources import open_index
from kt_batch.store import layout
from kt_batch.store.indexes import read_index_summary
from kt_batch.store.locations import open_location

NORMAL, DONT_NEED = 0, 4  # <sys/mman.h>


def bytes_read() -> int:
    """Return the bytes that this process has read from disks."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


def advise(index: Index, advice: int) -> None:
    """Give the kernel an advice about all tensors of the shards of an index."""
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for shard in index.shards:
        for tensor in shard.tensors().values():
            first = tensor.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
            libc.madvise(first, tensor.data_ptr() + tensor.nbytes - first, advice)


def drop(index: Index, files: list[Path]) -> None:
    """Drop all pages of the shards of an index from the process and from the cache of files."""
    advise(index, DONT_NEED)
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def main() -> None:
    """Measure both, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--queries", nargs="+", required=True)
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    location = open_location(options.library)
    (digest,) = [path.parent.name for path in Path(options.library, "index").glob("*/index.json")]
    summary = read_index_summary(location, digest)
    if summary is None:
        raise SystemExit(f"'{options.library}' has no index; make one with kt-batch index.")
    files = [Path(options.library, layout.shard_path(shard.sha256)) for shard in summary.shards]
    photographs = [query_patches(options.library, [image], EncoderSource()) for image in options.queries]
    table: dict[str, object] = {
        "index_bytes": sum(shard.bytes for shard in summary.shards),
        "queries": [len(queries) for queries in photographs],
    }
    advised = open_index(location, summary)
    results = {"advice": measured(advised, files, photographs, options.probes)}
    plain = Index(advised.tree, advised.shards)
    advise(plain, NORMAL)
    results["no advice"] = measured(plain, files, photographs, options.probes)
    print(json.dumps(results), flush=True)
    options.out.write_text(json.dumps(table | results, indent=1) + "\n")


def measured(index: Index, files: list[Path], photographs: list[torch.Tensor], probes: int) -> dict[str, list[float]]:
    """Return megabytes read and seconds of every photograph, with nothing and with everything in memory."""
    search = Search(index, SearchConfig(probes=probes))
    search.search(photographs[0])
    rows: dict[str, list[float]] = {"megabytes": [], "seconds": [], "seconds_in_memory": []}
    with torch.inference_mode():
        for queries in photographs:
            drop(index, files)
            before, begin = bytes_read(), time.perf_counter()
            search.search(queries)
            rows["seconds"].append(round(time.perf_counter() - begin, 2))
            rows["megabytes"].append(round((bytes_read() - before) / 1e6, 1))
            begin = time.perf_counter()
            search.search(queries)
            rows["seconds_in_memory"].append(round(time.perf_counter() - begin, 2))
    return rows


if __name__ == "__main__":
    main()
