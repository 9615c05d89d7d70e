"""Measure translators of small photographs whose index owners hold: images under way at a time, and slow networks.

    python benchmarks/served_images.py LIBRARY PHOTOGRAPHS --delays 0 10 --out results/served_images.json

`translation`: the photographs are translated by two workers and two owners of one local Ray, with 1 image of a worker
under way at a time, with 2, and with as many as there may be. Every question to owners takes some milliseconds longer,
as it does where they are on other machines. Rounds alternate; the first run warms up. Images a second are those of a
worker between the first image and the last of its units; a ratio of two numbers of images is what counts.

`together`: the queries of 1, 2 and 4 photographs in one search, of owners in turn in this process on one thread and of
the whole index: microseconds of processor time a query. Matches do not depend on it.
"""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any

import torch
from served_search import divided, processor_seconds, queries_of, timed

from kt_batch.config import RunOptions, SearchConfig
from kt_batch.index.search import OwnersSearch, Search
from kt_batch.index.served.index import ServedIndex
from kt_batch.index.served.local import LocalOwners
from kt_batch.index.served.placement import divide_shards
from kt_batch.index.served.router import Router
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate import beside
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.mapped_index import map_index
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.base import Keeper
from kt_batch.runners.ray.keepers import Keepers
from kt_batch.runners.ray.runner import RayRunner
from kt_batch.store.cache import CachePlace
from kt_batch.store.indexes import IndexSummary, find_index
from kt_batch.store.locations import absolute_place, open_location
from kt_batch.store.opening import open_library
from kt_batch.store.units import Ledger

IMAGES = (1, 2, beside.IMAGES)
TOGETHER = (1, 2, 4)


class DistantKeepers(Keepers):
    """Keepers whose answers take longer, and that let a worker have so many images under way at a time."""

    delay = 0.0
    images = beside.IMAGES

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        beside.IMAGES = self.images

    def ask(self, requests: Any) -> dict[int, Any]:
        """See `Keepers.ask`."""
        time.sleep(self.delay)
        return super().ask(requests)


class DistantRunner(RayRunner):
    """Two workers, and owners elsewhere."""

    def __init__(self) -> None:
        super().__init__(None, 2, 1)
        self.delay, self.images = 0.0, 1
        self.pids: set[int] = set()  # of workers that have committed a unit

    def serve(self, factories: Sequence[Callable[[], Keeper]], memory: Sequence[int], replicas: int = 1) -> Keepers:
        """See `RayRunner.serve`."""
        found = super().serve(factories, memory, replicas)
        found.__class__ = DistantKeepers
        found.__dict__.update(delay=self.delay, images=self.images)
        return found

    def processor_seconds(self, run: str | None = None) -> float:
        """Return the processor seconds of all workers so far, and get to know those of a run before."""
        if run:
            receipts = Ledger(open_location(run)).receipts().values()
            self.pids |= {int(str(receipt.worker).rpartition(":")[2]) for receipt in receipts}
        return processor_seconds(sorted(self.pids))


def request_of(library: str, photographs: Path, summary: IndexSummary, run: Path) -> TranslateRequest:
    """Return the request of a run with two owners."""
    config, sources = choose("knowledge", {"format": "jpg"}, Choice(library=library))
    sizes = [shard.bytes for shard in summary.shards]
    step = max(1, sum(sizes) // 1000)
    most = next(most for most in range(max(sizes), sum(sizes), step) if len(divide_shards(sizes, most)) == 2)
    options = RunOptions(threads=1, unit_size=20)
    return TranslateRequest([str(photographs)], str(run), config, sources, options, index_memory=most)


def translated(runner: DistantRunner, request: TranslateRequest, delay: float, images: int) -> dict[str, float]:
    """Translate, and return the figures of a run."""
    shutil.rmtree(request.run, ignore_errors=True)
    runner.delay, runner.images = delay, images
    before = runner.processor_seconds()
    summary = translate(request, runner, no_progress)
    receipts = Ledger(open_location(request.run)).receipts().values()
    seconds = sum(spent or 0.0 for receipt in receipts for spent in receipt.item_seconds)
    return {
        "images_a_second_of_a_worker": round(summary.images / seconds, 2),
        "waited_for_owners": round(sum(owner.seconds for owner in summary.owners) / len(summary.owners), 2),
        "processor_seconds_of_workers": round(runner.processor_seconds(request.run) - before, 2),
    }


def translation(library: str, photographs: Path, delays: Sequence[float], rounds: int) -> list[dict[str, Any]]:
    """Measure translators with each delay and number of images under way."""
    summary = find_index(open_library(library), None)
    runner, folder = DistantRunner(), Path(mkdtemp())
    request = request_of(library, photographs, summary, folder / "run")
    found: dict[tuple[float, int], list[dict[str, float]]] = {}
    try:
        translated(runner, request, 0.0, 1)  # warms up
        for _ in range(rounds):
            for delay in delays:
                for images in IMAGES:
                    figures = translated(runner, request, delay / 1000, images)
                    found.setdefault((delay, images), []).append(figures)
                    print(delay, images, figures, flush=True)
    finally:
        runner.close()
        shutil.rmtree(folder, ignore_errors=True)
    return [
        {"delay_ms": delay, "images": images}
        | {name: median(each[name] for each in figures) for name in figures[0]}
        | {"rounds": [each["images_a_second_of_a_worker"] for each in figures]}
        for (delay, images), figures in found.items()
    ]


def together(library: str, photographs: Sequence[Path], rounds: int) -> list[dict[str, Any]]:
    """Measure searches for the queries of several photographs."""
    torch.set_num_threads(1)
    summary = find_index(open_library(library), None)
    queries = [queries_of(library, str(photograph)) for photograph in photographs[: max(TOGETHER)]]
    index, total = map_index(open_library(library).location, summary, CachePlace()), sum(map(len, queries))
    rows = []
    for probes in (8, 32):
        config = SearchConfig(probes=probes)
        owners = LocalOwners(index, divided(summary, 4))
        searches = {
            "local": Search(index, config),
            "served": OwnersSearch(ServedIndex(Router.of(index), owners), config),
        }
        each = {name: {count: list[float]() for count in TOGETHER} for name in searches}
        for number in range(rounds + 1):  # the first warms up
            for name, search in searches.items():
                for count in TOGETHER:
                    parts = [torch.cat(queries[start : start + count]) for start in range(0, len(queries), count)]
                    seconds = sum(timed(partial(search.search, part), time.process_time)[0] for part in parts)
                    each[name][count] += [round(1e6 * seconds / total, 1)] * bool(number)
        rows.append({"probes": probes, "queries_of_a_photograph": total // len(queries), "us_a_query": each})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--delays", type=float, nargs="+", default=[0.0, 10.0], help="milliseconds of a question")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    library = absolute_place(given.library)
    summary = find_index(open_library(library), None)
    found = {
        "patches": summary.kept,
        "leaves": summary.leaves,
        "photographs": len(list(given.photographs.iterdir())),
        "together": together(library, sorted(given.photographs.iterdir()), given.rounds),
        "translation": translation(library, given.photographs, given.delays, given.rounds),
        "load_of_the_machine": os.getloadavg()[0],
    }
    text = json.dumps(found, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
