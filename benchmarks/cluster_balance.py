"""Measure how even the top-level clusters of a large index are, on a mixture of Gaussians with unequal weights.

    python benchmarks/cluster_balance.py --patches 80000000 --out results/cluster_balance.json

No library is needed: the sample and the patches that are counted are drawn from the mixture. Clusters are compared by
the share of drawn patches that they get, so that a library of any size can be judged from a few million.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kt_batch.config import IndexConfig
from kt_batch.kernels.kmeans import ArrayPoints, assign, spherical_kmeans, split_large
from kt_batch.kernels.tiles import normalise
from kt_batch.pipelines.index.plan import LARGEST_CLUSTER, SHARD_PATCHES, sample_size, top_clusters

COMPONENTS = 2000  # of the mixture; the weight of number i is 1 / (i + 10)
DRAWN = 65536  # at a time


class Mixture:
    """Unit vectors of Gaussians around random directions; the strength of coordinate j falls as 1 / sqrt(j + 1)."""

    def __init__(self, width: int, seed: int) -> None:
        """Choose the directions, spreads and weights of the components."""
        self.generator = torch.Generator().manual_seed(seed)
        strength = (torch.arange(width) + 1.0).rsqrt()
        self.directions = torch.randn(COMPONENTS, width, generator=self.generator) * strength
        self.spread = strength * (0.2 + 0.8 * torch.rand(COMPONENTS, 1, generator=self.generator))
        self.weights = 1 / (torch.arange(COMPONENTS) + 10.0)

    def draw(self, count: int) -> Tensor:
        """Return `(count, width)` float16."""
        parts = []
        for start in range(0, count, DRAWN):
            size = min(DRAWN, count - start)
            chosen = torch.multinomial(self.weights, size, replacement=True, generator=self.generator)
            noise = torch.randn(size, self.directions.shape[1], generator=self.generator)
            parts.append(normalise(self.directions[chosen] + self.spread[chosen] * noise).half())
        return torch.cat(parts)


def balance(mixture: Mixture, centres: Tensor, counted: int) -> dict[str, Any]:
    """Return the sizes of the clusters of centres, as multiples of their mean."""
    counts = torch.zeros(len(centres), dtype=torch.int64)
    for start in range(0, counted, DRAWN):
        drawn = mixture.draw(min(DRAWN, counted - start))
        counts += torch.bincount(assign(drawn, centres)[0], minlength=len(centres))
    shares = counts.double() * len(centres) / counted
    return {
        "clusters": len(centres),
        "largest_over_mean": round(float(shares.max()), 2),
        "99_percent": round(float(shares.quantile(0.99)), 2),
        "median": round(float(shares.median()), 2),
        "smallest": round(float(shares.min()), 3),
    }


def main() -> None:
    """Fit the top level as a build does, before and after the split, and as it was fitted on 65,536 patches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, required=True, help="patches of the library")
    parser.add_argument("--counted", type=int, default=0, help="patches that are counted; default: 600 per cluster")
    parser.add_argument("--width", type=int, default=127, help="principal coordinates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config, mixture = IndexConfig(), Mixture(options.width, options.seed)
    clusters, size = top_clusters(options.patches, config), sample_size(options.patches, config)
    counted = options.counted or 600 * clusters
    table: dict[str, Any] = {"patches": options.patches, "sample": size, "counted": counted}
    points = ArrayPoints(mixture.draw(size))
    for name, sample in (("fitted on 65,536", config.sample), ("fitted on the sample", size)):
        started = time.perf_counter()
        chosen = ArrayPoints(points.vectors[:sample])
        centres = spherical_kmeans(chosen, clusters, config.iterations, config.sample, config.seed)
        seconds = time.perf_counter() - started
        table[name] = balance(mixture, centres, counted) | {"fit_seconds": round(seconds, 1)}
        print(name, json.dumps(table[name]), flush=True)
    started = time.perf_counter()
    most = LARGEST_CLUSTER * SHARD_PATCHES * size / options.patches
    centres = split_large(points, centres, most, config.iterations, config.seed)
    seconds = time.perf_counter() - started
    table["split"] = balance(mixture, centres, counted) | {"split_seconds": round(seconds, 1)}
    print("split", json.dumps(table["split"]), flush=True)
    table["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
