"""Time `painting` in turn with AdaIN, and measure its matches at each number of probes.

    python benchmarks/painting_speed.py LIBRARY PHOTOGRAPHS --peer-weights DIR --out results/painting_speed.json

LIBRARY was made with `--preset painting` and is indexed. Each photograph is painted by AdaIN, after a painting that it
knows in advance; by `painting` after that painting alone; and by `painting` with the library: twice, since the sources
of a picture are encoded when they are needed first, and kept then. So a busy machine slows all alike. The seconds of
a method are its own, without reading and writing files. The NCC ratio is that of the matches of the first level over
those of the best matches, for queries evenly spaced over the photographs.
"""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch

from kt_batch.config import SearchConfig
from kt_batch.evaluation.search import mean_ncc
from kt_batch.evaluation.style.contenders import OwnMethod
from kt_batch.evaluation.style.peers import load_peers
from kt_batch.evaluation.style.pictures import StylePicture, read_pictures
from kt_batch.index.index import Index
from kt_batch.index.search import find
from kt_batch.kernels.patches import positions, unfold
from kt_batch.methods.base import Resources
from kt_batch.methods.painting.levels import LAYERS, encode_photograph
from kt_batch.methods.painting.method import Painting, PaintingConfig
from kt_batch.pipelines.translate.resources import load_resources
from kt_batch.pipelines.translate.sources import Choice, choose

PROBES = (4, 8, 12, 16, 32)
SAMPLE = 1024  # queries whose best match is known


def timed(translate: Callable[[StylePicture], object], photograph: StylePicture) -> float:
    """Return the seconds of one picture."""
    started = time.perf_counter()
    translate(photograph)
    return time.perf_counter() - started


def ncc_ratios(painter: Painting, index: Index, photographs: list[StylePicture]) -> dict[int, float]:
    """Return the mean NCC of the matches at each number of probes, over that of the best matches."""
    patches = []
    for photograph in photographs:
        features = painter.usual.recolour(encode_photograph(painter.encoder, photograph.image, LAYERS[:1])[1])
        patches.append(unfold(features, *positions(features.shape[1], features.shape[2], 1, cover=True)))
    queries = torch.cat(patches)
    queries = queries[torch.arange(SAMPLE) * len(queries) // SAMPLE]

    def ncc_of(config: SearchConfig) -> float:
        return mean_ncc(index, queries, find(index, queries, config).rows[:, 0])

    best = ncc_of(SearchConfig(searcher="exact"))
    return {probes: ncc_of(SearchConfig(probes=probes)) / best for probes in PROBES}


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("photographs", nargs="+")
    parser.add_argument("--style", required=True, help="the painting of AdaIN and of `painting` without the library")
    parser.add_argument("--peer-weights", type=Path, required=True)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    photographs = read_pictures(given.photographs, given.size, "photographs")
    (painting,) = read_pictures([given.style], given.size, "paintings")
    adain = next(peer for peer in load_peers(given.peer_weights)[0] if peer.name == "AdaIN")
    config, resources = _loaded(given.library)
    painter = Painting(config, resources)
    index = cast("Index", resources.index)
    ways: dict[str, Callable[[StylePicture], object]] = {
        "AdaIN": adain.after(painting),
        "painting, one painting": OwnMethod("painting", "painting", {}, None, given.size).after(painting),
        "painting, library, cold": lambda photograph: painter.translate(photograph.image),
        "painting, library, warm": lambda photograph: painter.translate(photograph.image),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for photograph in [photographs[0], *photographs]:
        for name, translate in ways.items():
            seconds[name].append(timed(translate, photograph))
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    table = {
        "patches": index.count,
        "photographs": len(photographs),
        "threads": given.threads,
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "times_adain": {
            name: round(statistics.median(a / b for a, b in zip(values[1:], seconds["AdaIN"][1:], strict=True)), 2)
            for name, values in seconds.items()
        },
        "ncc_ratio": {probes: round(ratio, 5) for probes, ratio in ncc_ratios(painter, index, photographs).items()},
    }
    given.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table, indent=1))


def _loaded(library: str) -> tuple[PaintingConfig, Resources]:
    config, sources = choose("painting", {}, Choice(library))
    return cast("PaintingConfig", config), load_resources(config, sources)


if __name__ == "__main__":
    main()
