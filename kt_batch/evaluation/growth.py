"""Measure how build time, search time at a fixed recall and memory grow with the size of a library."""

from __future__ import annotations

import math
import resource
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.config import IndexConfig, SearchConfig
from kt_batch.errors import UsageError
from kt_batch.evaluation.search import (
    SearchFigures,
    index_bytes,
    library_patches,
    measure,
    prepare_queries,
    query_patches,
    searcher,
    speed_at,
    timed_build,
)
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.progress import Progress, Step

SIZES = (65_536, 262_144, 1_048_576, 4_194_304)
PROBES = (8, 16, 32, 48, 64, 96, 128, 160, 192, 256, 384)
SAMPLE = 1024  # queries whose exact match is known at each size


@dataclass(frozen=True)
class GrowthFigures:
    """The figures of one size.

    Attributes:
        patches: Number of patches in the index.
        leaves: Number of leaves of its tree.
        build_seconds: Time of the build in memory.
        seconds_per_query: Time at the target recall; None if no setting reaches it.
        bytes_per_patch: Size of the index per patch.
        memory_bytes: Peak resident memory of this process so far; sizes are measured in ascending order.
        rows: One row for each measured setting.
    """

    patches: int
    leaves: int
    build_seconds: float
    seconds_per_query: float | None
    bytes_per_patch: float
    memory_bytes: int
    rows: tuple[SearchFigures, ...]


@dataclass(frozen=True)
class Growth:
    """The figures of all sizes, and exponents e fitted to time ~ patches^e by least squares of logarithms."""

    recall: float
    sizes: tuple[GrowthFigures, ...]
    build_exponent: float
    query_exponent: float | None


def bench_growth(
    library_uri: str,
    images: Sequence[str],
    source: EncoderSource,
    recall: float,
    seed: int,
    threads: int,
    progress: Progress,
) -> Growth:
    """Index growing random samples of a library's patches, and search each with the patches of `images`.

    Args:
        library_uri: The library.
        images: Paths, globs or URIs.
        source: The library's encoder.
        recall: Search time is measured at this recall.
        seed: Of the samples.
        threads: Of this process.
        progress: Called after every size.

    Raises:
        UsageError: If the library holds too few patches for two sizes.
    """
    torch.set_num_threads(threads)
    packets, ids, config = library_patches(library_uri)
    sizes = [size for size in SIZES if size <= len(ids)]
    if len(sizes) < 2:
        raise UsageError(f"'{library_uri}' holds {len(ids)} patches; growth needs at least {SIZES[1]}.")
    queries = query_patches(library_uri, images, source)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    figures: list[GrowthFigures] = []
    for number, size in enumerate(sizes, start=1):
        rows = order[:size].sort().values
        if number == len(sizes):  # memory is short for another copy of millions of patches
            packets, ids = packets[rows], ids[rows.numpy()]
            figures.append(_measure_size(packets, ids, config, queries, recall))
        else:
            figures.append(_measure_size(packets[rows], ids[rows.numpy()], config, queries, recall))
        progress(Step("sizes", number, len(sizes), note=_in_words(figures[-1])))
    timed = [(each.patches, each.seconds_per_query) for each in figures]
    reached = [(patches, seconds) for patches, seconds in timed if seconds is not None]
    return Growth(
        recall=recall,
        sizes=tuple(figures),
        build_exponent=_exponent([(each.patches, each.build_seconds) for each in figures]),
        query_exponent=_exponent(reached) if len(reached) > 1 else None,
    )


def _measure_size(
    packets: Tensor, ids: NDArray[np.uint8], config: IndexConfig, queries: Tensor, recall: float
) -> GrowthFigures:
    part, build_seconds = timed_build(packets, ids, config)
    prepared_queries = prepare_queries(part, queries, SAMPLE)
    table: list[SearchFigures] = []
    for probes in (p for p in PROBES if p < part.tree.leaves):
        find = searcher(part, SearchConfig(probes=probes))
        table.append(measure(part, "tree", probes, prepared_queries, find, None, None))
        if table[-1].recall >= recall:
            break
    speed = speed_at(table, "tree", recall)
    return GrowthFigures(
        patches=part.count,
        leaves=part.tree.leaves,
        build_seconds=round(build_seconds, 2),
        seconds_per_query=None if speed is None else 1 / speed,
        bytes_per_patch=round(index_bytes(part) / part.count, 1),
        memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        rows=tuple(table),
    )


def _in_words(size: GrowthFigures) -> str:
    speed = "recall not reached"
    if size.seconds_per_query is not None:
        speed = f"{size.seconds_per_query * 1e6:.0f} microseconds a query"
    return f"{size.patches:,} patches: built in {size.build_seconds:.1f} s, {speed}"


def _exponent(points: Sequence[tuple[int, float]]) -> float:
    """Return the slope of log(time) over log(patches)."""
    logs = np.array([(math.log(patches), math.log(seconds)) for patches, seconds in points])
    return round(float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0]), 3)
