"""Rehearse a large translation whose index no process may hold: real jobs, on a Ray cluster of this machine.

    python benchmarks/served_rehearsal.py --photos DIR --paintings DIR --out results/served_rehearsal.json
        [--count 5000] [--library-count 1000] [--size 128] [--owners 3] [--workers 2] [--check 5] [--folder PLACE]

Photographs and paintings are made of those in the folders by `varied_images.py`. `ray job submit` starts
`jobs/build_library.py` and `jobs/translate.py` as cluster/README.md does; --index-memory is the least that so many
owners can do with. Reported are rates, rejects, lost workers, what owners were asked, the most memory of a worker and
of an owner, and whether --check pictures are the same when `kt-batch verify --recompute` makes them with the whole
index in one process. What is written to PLACE (some 1.4 kB a patch) is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ray_head import Head, Memory, head
from varied_images import write_varied

from kt_batch.index.served.placement import divide_shards
from kt_batch.store.indexes import IndexSummary, read_index_summary
from kt_batch.store.locations import open_location

LOST = ("worker_lost", "unit_retried", "image_quarantined", "no_worker", "no_keeper", "failed")


def submit(cluster: Head, log: Path, *words: object) -> tuple[list[dict[str, Any]], float]:
    """Run a job to its end; return the events of its log, and its seconds with the submission."""
    started = time.perf_counter()
    code, said = cluster.job(*words, "--log-file", log)
    if code:
        raise SystemExit(f"{words[0]} ended with {code}:\n{said[-4000:]}")
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return events, round(time.perf_counter() - started, 1)


def of(events: list[dict[str, Any]], what: str) -> dict[str, Any]:
    """Return the last summary of one kind."""
    return next(event for event in reversed(events) if event["event"] == "summary" and event["of"] == what)


def index_of(library: Path) -> IndexSummary:
    """Return the summary of the only index of a library."""
    (name,) = (path.parent.name for path in library.glob("index/*/index.json"))
    found = read_index_summary(open_location(str(library)), name)
    if found is None:
        raise SystemExit(f"{library} has lost its index")
    return found


def least_memory(summary: IndexSummary, owners: int) -> int:
    """Return the least --index-memory, in bytes, with which so many owners hold an index, or fewer."""
    sizes = [shard.bytes for shard in summary.shards]
    most = max(*sizes, -(-sum(sizes) // owners))
    while len(divide_shards(sizes, most)) > owners:
        most += 1 + most // 1000
    return most


def rehearse(options: argparse.Namespace, place: Path, ray: Path) -> dict[str, Any]:
    """Make the images, run both jobs, and return the figures."""
    photos, paintings, library, run = (place / name for name in ("photos", "paintings", "library", "run"))
    write_varied(options.photos, photos, options.count, options.size)
    write_varied(options.paintings, paintings, options.library_count, options.size, seed=1)
    how = ("--workers", options.workers, "--threads", 1)
    memory = Memory(ray)
    with head(ray, options.workers) as cluster:
        size = ("--size", options.size)
        words = ("jobs/build_library.py", paintings, "--library", library, *size, *how)
        built, build_seconds = submit(cluster, place / "build.log", *words)
        summary = index_of(library)
        most = least_memory(summary, options.owners)
        words = ("jobs/translate.py", photos, "--library", library, "--out", run, *how)
        with memory.watch():
            done, seconds = submit(cluster, place / "run.log", *words, "--index-memory", f"{most / 1e6:.6f}MB")
    asked = [event for event in done if event["event"] == "index_owner"]
    translated, counts = of(done, "translate"), Counter(event["event"] for event in done)
    return {
        "cores": os.cpu_count(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "pixels": options.size,
        "workers": options.workers,
        "library": {
            "images": of(built, "extract")["images"],
            "patches": summary.patches,
            "index_mb": round(sum(shard.bytes for shard in summary.shards) / 1e6, 1),
            "job_seconds": build_seconds,
        },
        "index_memory_mb": round(most / 1e6, 1),
        "translate": {
            **{key: translated[key] for key in ("images", "rejected", "seconds", "images_per_second", "stage_seconds")},
            "job_seconds": seconds,
            "disturbances": {name: counts[name] for name in LOST if counts[name]},
        },
        "owners": [{key: event[key] for key in ("queries", "visits", "bytes", "seconds")} for event in asked],
        "memory": memory.figures(),
        "same_in_one_process": recomputed(run, options.check),
    }


def recomputed(run: Path, count: int) -> int:
    """Make so many pictures of a run once more, each with the whole index in one process; return how many.

    Raises:
        SystemExit: One of them differs.
    """
    line = [sys.executable, "-m", "kt_batch", "verify", str(run), "--recompute", str(count), "--seed", "0", "--json"]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} ended with {done.returncode}:\n{done.stdout}")
    return count


def main() -> None:
    """Rehearse and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("photos", "paintings", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    numbers = {"count": 5000, "library-count": 1000, "size": 128, "owners": 3, "workers": 2, "check": 5}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", help="where the images, the library and the run are kept for the time being")
    options = parser.parse_args()
    temporary = tempfile.TemporaryDirectory  # Ray's own has a short name, since it holds sockets
    if options.folder:
        Path(options.folder).mkdir(parents=True, exist_ok=True)
    with temporary(prefix="rehearsal-", dir=options.folder) as place, temporary(prefix="kt-r-") as ray:
        figures = rehearse(options, Path(place), Path(ray))
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
