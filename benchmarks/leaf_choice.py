"""Measure the choice of leaves in groups beside that among all leaves.

    python benchmarks/leaf_choice.py --library LIBRARY --queries IMAGES --out results/leaf_choice.json

1. A mixture of Gaussians: MEANS leaves of COMPONENTS components, in the order of a tree; queries lie near a leaf, which
   is home. Processor time, leaves chosen by both, and queries whose home is among the leaves chosen.
2. With --library, an index: the same for its leaves, and the recall of matches (`kt-batch bench search`).
"""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch
from torch import Tensor

from kt_batch.config import SearchConfig
from kt_batch.evaluation.search import query_patches
from kt_batch.index.index import Index
from kt_batch.index.leaf_statistics import LeafStatistics
from kt_batch.index.search import find
from kt_batch.index.searchers import leaf_choice
from kt_batch.index.searchers.leaf_choice import leaves_in_groups, nearest_leaves
from kt_batch.kernels.tiles import normalise
from kt_batch.models.precision import quick_products
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.translate.resources import open_index
from kt_batch.store.indexes import read_index_summary
from kt_batch.store.locations import open_location

DIRECTIONS = 127
COMPONENTS = 1000
CLUSTERS = 30_000
WITHIN = 0.5  # spread of clusters about their component, and of leaves about their cluster,
# in that of the components
EVERY = 10  # of the queries of photographs, one is asked
NEVER = 1 << 62


class Mixture:
    """The parts of an index that the choice of leaves reads: `count` leaves without patches, and queries near them."""

    def __init__(self, count: int, queries: int, noise: float) -> None:
        some = torch.Generator().manual_seed(0)
        scale = (1 + torch.arange(DIRECTIONS)).rsqrt()
        components = torch.randn(COMPONENTS, DIRECTIONS, generator=some) * scale
        own = torch.arange(CLUSTERS) * COMPONENTS // CLUSTERS
        clusters = components[own] + WITHIN * scale * torch.randn(CLUSTERS, DIRECTIONS, generator=some)
        own = torch.arange(count) * CLUSTERS // count
        means = clusters[own] + WITHIN * scale * torch.randn(count, DIRECTIONS, generator=some)
        self.home = torch.randint(0, count, (queries,), generator=some)
        near = means[self.home] + noise * scale * torch.randn(queries, DIRECTIONS, generator=some)
        self.level = torch.cat([0.9 * normalise(near), torch.full((queries, 1), 0.4)], dim=1)
        means = torch.cat([0.8 * normalise(means), torch.full((count, 1), 0.4)], dim=1)
        self.statistics = LeafStatistics.of(means, torch.rand(count, 48, generator=some) * 1e-3)
        self.tree = SimpleNamespace(leaves=count)


def timed(choose: Callable[[], tuple[Tensor, Tensor]], queries: int) -> tuple[Tensor, float]:
    """Return the leaves that are chosen, and microseconds a query, of the second call."""
    choose()
    begin = time.thread_time()
    chosen, _ = choose()
    return chosen, (time.thread_time() - begin) / queries * 1e6


def shared(some: Tensor, others: Tensor) -> float:
    """Return the share of the leaves `some` `(n, p)` of each query that are among `others` `(n, p)`."""
    return float((some.unsqueeze(2) == others.unsqueeze(1)).any(2).float().mean())


def of_choice(index: Index, level: Tensor, probes: int, visited: list[int], home: Tensor | None) -> dict[str, object]:
    """Return the figures of the choice of `probes` leaves among all, and from each number of visited groups."""
    few = level[:512]  # among a million leaves, all queries would take long
    leaf_choice.GROUPED = NEVER
    all_leaves, us = timed(partial(nearest_leaves, index, few, probes), len(few))
    rows: dict[str, object] = {"probes": probes, "of_all": {"us": round(us, 1), **at_home(all_leaves, home)}}
    for groups in visited:
        leaves, us = timed(partial(leaves_in_groups, index, level, probes, groups), len(level))
        same = shared(all_leaves, leaves[: len(few)])
        rows[f"of {groups} groups"] = {
            "us": round(us, 1),
            "shared": round(same, 4),
            **at_home(leaves[: len(few)], home),
        }
    return rows


def at_home(leaves: Tensor, home: Tensor | None) -> dict[str, float]:
    """Return the share of queries whose leaf is among those chosen."""
    if home is None:
        return {}
    return {"home": round(float((leaves == home[: len(leaves), None]).any(1).float().mean()), 4)}


def of_mixture(count: int, queries: int, noise: float, visited: list[int]) -> dict[str, object]:
    """Return the figures of a mixture of Gaussians."""
    mixture = Mixture(count, queries, noise)
    begin = time.thread_time()
    groups = mixture.statistics.groups
    table: dict[str, object] = {
        "leaves": count,
        "noise": noise,
        "groups": len(groups.size),
        "grouping_seconds": round(time.thread_time() - begin, 2),
    }
    index = cast("Index", mixture)
    table["choices"] = [of_choice(index, mixture.level, probes, visited, mixture.home) for probes in (8, 64)]
    return table


def of_library(place: str, images: list[str]) -> dict[str, object]:
    """Return the recall of an index among the exact matches, by the choice of leaves and the number of probes."""
    location = open_location(place)
    digests = sorted(Path(place, "index").glob("*/index.json"))
    summary = read_index_summary(location, digests[0].parent.name)
    if summary is None:
        raise SystemExit(f"'{place}' has no index; make one with kt-batch index.")
    index = open_index(location, summary)
    queries = query_patches(place, images, EncoderSource())[::EVERY]
    exact = find(index, queries, SearchConfig(searcher="exact")).rows[:, 0]
    rows = []
    for probes in (8, 16, 64):
        row: dict[str, object] = {"probes": probes}
        for name, least in (("of_all", NEVER), ("in_groups", 0)):
            leaf_choice.GROUPED = least
            found = find(index, queries, SearchConfig(probes=probes)).rows[:, 0]
            row[name] = round(float((found == exact).float().mean()), 5)
        rows.append(row)
        print(row, flush=True)
    return {"leaves": index.tree.leaves, "patches": index.count, "queries": len(queries), "recall": rows}


def main() -> None:
    """Measure both, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library")
    parser.add_argument("--queries", nargs="+", default=[])
    parser.add_argument("--means", type=int, nargs="+", default=[1 << 16, 1_000_000])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.5, 1.0], help="of queries about their leaf")
    parser.add_argument("--asked", type=int, default=4000, help="queries at once")
    parser.add_argument("--visited", type=int, nargs="+", default=[32, 48, 64])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, object] = {"mixtures": []}
    with torch.inference_mode(), quick_products():
        table["mixtures"] = mixtures = []
        for count, noise in product(options.means, options.noise):
            mixtures.append(of_mixture(count, options.asked, noise, options.visited))
            print(json.dumps(mixtures[-1], indent=1), flush=True)
    if options.library:
        with torch.inference_mode():
            table["library"] = of_library(options.library, options.queries)
    options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
