"""Time one photograph by a large-library search and by AdaIN.

    python benchmarks/against_adain.py LIBRARY PHOTOGRAPHS --vgg19 FILE --adain FILE --out results/against_adain.json

LIBRARY is indexed and made with the default encoder. AdaIN (Huang & Belongie 2017) encodes with VGG-19 to relu4_1,
replaces the photograph's mean and deviation per channel by those of a painting, which are known in advance, and
decodes, all in float32. The knowledge method encodes, searches, swaps (geometric) and decodes at each number of probes.
Each photograph goes through all methods before the next one, so that a busy machine slows all alike. The NCC ratio is
that of the matches to the best matches, for queries evenly spaced over the photographs.
"""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

import argparse
import json
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from kt_batch.config import EncoderConfig, SearchConfig
from kt_batch.evaluation.models import working_images
from kt_batch.evaluation.search import mean_ncc
from kt_batch.index.index import Index
from kt_batch.index.search import find
from kt_batch.kernels.patches import positions, unfold
from kt_batch.methods.adain import Adain, AdainConfig
from kt_batch.methods.base import Resources
from kt_batch.methods.features import encode, to_tensor
from kt_batch.methods.knowledge import KnowledgeConfig, KnowledgeTransfer
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder
from kt_batch.models.weights import EncoderSource, LoadedEncoder, load_decoder, load_encoder
from kt_batch.pipelines.translate.resources import open_index
from kt_batch.store.images.files import pad_to
from kt_batch.store.indexes import find_index
from kt_batch.store.opening import open_library

PROBES = (8, 12, 13, 16, 32)
SAMPLE = 1024  # queries whose best match is known


def ncc_ratios(index: Index, encoder: Encoder, layer: str, photos: list[Tensor]) -> dict[int, float]:
    """Return the mean NCC of the matches at each number of probes, over that of the best matches."""
    patches = []
    for photo in photos:
        features = encode(encoder, photo, layer)
        patches.append(unfold(features, *positions(features.shape[1], features.shape[2], 1, cover=True)))
    queries = torch.cat(patches)
    queries = queries[torch.arange(SAMPLE) * len(queries) // SAMPLE]

    def ncc_of(config: SearchConfig) -> float:
        rows = find(index, queries, config).rows[:, 0]
        return mean_ncc(index, queries, rows)

    best = ncc_of(SearchConfig(searcher="exact"))
    return {probes: ncc_of(SearchConfig(probes=probes)) / best for probes in PROBES}


@dataclass
class Seconds:
    """Seconds of each photograph by AdaIN and, per probe count, by the tree, with stages."""

    adain: list[float] = field(default_factory=list)
    whole: dict[int, list[float]] = field(default_factory=lambda: {probes: [] for probes in PROBES})
    stages: dict[int, dict[str, list[float]]] = field(
        default_factory=lambda: {probes: defaultdict(list) for probes in PROBES}
    )


def time_all(
    photos: list[Tensor],
    peer: tuple[LoadedEncoder, Decoder],
    own: tuple[LoadedEncoder, Decoder],
    layer: str,
    index: Index,
) -> Seconds:
    """Translate every photograph by AdaIN, in the style of the last one, and at each number of probes."""
    style = "0" * 16
    encoder = EncoderConfig(encoder="vgg19", weights_sha256=peer[0].sha256, layer="relu4_1")
    resources = Resources(peer[0].network, peer[1], styles={style: photos[-1]})
    adain = Adain(AdainConfig(encoder=encoder, styles=(style,)), resources)
    loaded, decoder = own
    settings = EncoderConfig(weights_sha256=loaded.sha256, layer=layer)
    seconds = Seconds()
    for photo in photos:
        started = time.perf_counter()
        adain.translate(photo)
        seconds.adain.append(time.perf_counter() - started)
        for probes in PROBES:
            config = KnowledgeConfig(encoder=settings, search=SearchConfig(probes=probes))
            method = KnowledgeTransfer(config, Resources(loaded.network, decoder, index))
            started = time.perf_counter()
            result = method.translate(photo)
            seconds.whole[probes].append(time.perf_counter() - started)
            for stage, spent in result.seconds.items():
                seconds.stages[probes][stage].append(spent)
    return seconds


def rows(seconds: Seconds, ratios: dict[int, float]) -> list[dict[str, object]]:
    """Return a row for each number of probes: medians over the photographs, without the first, which is warm-up."""
    adain_median = statistics.median(seconds.adain[1:])
    table: list[dict[str, object]] = []
    for probes in PROBES:
        median = statistics.median(seconds.whole[probes][1:])
        stages = {name: round(statistics.median(spent[1:]), 3) for name, spent in seconds.stages[probes].items()}
        table.append(
            {
                "probes": probes,
                "seconds": round(median, 3),
                "rate_of_adain": round(adain_median / median, 3),
                "ncc_ratio": round(ratios[probes], 5),
                "stages": stages,
            }
        )
    return table


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("photographs", nargs="+")
    parser.add_argument("--vgg19", required=True)
    parser.add_argument("--adain", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    library = open_library(options.library)
    index = open_index(library.location, find_index(library, None))
    loaded, layer = load_encoder(EncoderSource()), library.config.encoder.layer
    decoder = load_decoder(loaded, "kt-vgg", layer, None).network
    peer = load_encoder(EncoderSource("vgg19", options.vgg19))
    peer_decoder = load_decoder(peer, "vgg19", "relu4_1", options.adain).network
    photos = [to_tensor(pad_to(w.pixels, 8)) for w in working_images(options.photographs, 512, held_out=False)]
    seconds = time_all([photos[0], *photos], (peer, peer_decoder), (loaded, decoder), layer, index)
    table = {
        "patches": index.count,
        "dimension": 4 * index.channels,
        "photographs": len(photos),
        "pixels_median": int(statistics.median(photo.shape[1] * photo.shape[2] for photo in photos)),
        "threads": options.threads,
        "adain_seconds": round(statistics.median(seconds.adain[1:]), 3),
        "ours": rows(seconds, ncc_ratios(index, loaded.network, layer, photos)),
    }
    options.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
