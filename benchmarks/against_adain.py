"""One photograph from pixels to pixels: with a large library, beside AdaIN, on the same threads.

    python benchmarks/against_adain.py LIBRARY PHOTOGRAPHS --vgg19 FILE --adain FILE --out results/against_adain.json

LIBRARY is indexed and of the default encoder. AdaIN (Huang & Belongie 2017) is VGG-19 to relu4_1, the photograph's mean
and deviation per channel replaced by a painting's that are known already, and its own decoder, all in float32. Ours
encodes, searches, swaps (geometric) and decodes at each number of probes. Every photograph goes through all before the
next one does, so that a busy machine slows all alike; the NCC ratio is that of what is found to the best there is, for
queries evenly spread over the photographs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from kt_batch.config import EncoderConfig, SearchConfig, TranslateConfig
from kt_batch.evaluation.models import working_images
from kt_batch.index.index import Index
from kt_batch.index.search import find
from kt_batch.kernels.patches import positions, unfold
from kt_batch.kernels.tiles import canonical_scores, normalise
from kt_batch.methods.knowledge import KnowledgeTransfer, decode, encode, to_tensor
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder
from kt_batch.models.weights import EncoderSource, load_decoder, load_encoder
from kt_batch.pipelines.translate.worker import default_cache, open_index
from kt_batch.store.images.files import pad_to
from kt_batch.store.indexes import find_index
from kt_batch.store.library import Library

PROBES = (8, 12, 13, 16, 32)
SAMPLE = 1024  # queries whose best match is found


@torch.inference_mode()
def adain(encoder: Encoder, decoder: Decoder, photo: Tensor, style: tuple[Tensor, Tensor]) -> Tensor:
    """The photograph with the style's mean and deviation `(512, 1, 1)` per channel."""
    features = encode(encoder, photo, "relu4_1")
    mean, deviation = features.mean((1, 2), keepdim=True), features.std((1, 2), keepdim=True) + 1e-5
    return decode(decoder, (features - mean) / deviation * style[1] + style[0])


def ncc_ratios(index: Index, encoder: Encoder, layer: str, photos: list[Tensor]) -> dict[int, float]:
    """Mean NCC of what is found at each number of probes, over that of the best there is."""
    patches = []
    for photo in photos:
        features = encode(encoder, photo, layer)
        patches.append(unfold(features, *positions(features.shape[1], features.shape[2], 1, cover=True)))
    queries = torch.cat(patches)
    queries = queries[torch.arange(SAMPLE) * len(queries) // SAMPLE]

    def mean_ncc(config: SearchConfig) -> float:
        rows = find(index, queries, config).rows[:, 0]
        return float(canonical_scores(normalise(queries.flatten(1)), normalise(index.values(rows).flatten(1))).mean())

    best = mean_ncc(SearchConfig(searcher="exact"))
    return {probes: mean_ncc(SearchConfig(probes=probes)) / best for probes in PROBES}


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
    library = Library.open(options.library)
    index = open_index(library.location, find_index(library, None), Path(default_cache()))
    loaded, layer = load_encoder(EncoderSource()), library.config.encoder.layer
    decoder = load_decoder(loaded, "kt-vgg", layer, None).network
    peer = load_encoder(EncoderSource("vgg19", options.vgg19))
    peer_decoder = load_decoder(peer, "vgg19", "relu4_1", options.adain).network
    photos = [to_tensor(pad_to(w.pixels, 8)) for w in working_images(options.photographs, 512, held_out=False)]
    features = encode(peer.network, photos[-1], "relu4_1")
    style = (features.mean((1, 2), keepdim=True), features.std((1, 2), keepdim=True))
    settings = EncoderConfig(weights_sha256=loaded.sha256, layer=layer)
    seconds: dict[str, list[float]] = defaultdict(list)
    stages: dict[int, dict[str, list[float]]] = {probes: defaultdict(list) for probes in PROBES}
    for photo in [photos[0], *photos]:  # the first of all sets up the kernels and is not counted
        started = time.perf_counter()
        adain(peer.network, peer_decoder, photo, style)
        seconds["adain"].append(time.perf_counter() - started)
        for probes in PROBES:
            config = TranslateConfig(
                encoder=settings, decoder_sha256="", index_digest="", search=SearchConfig(probes=probes)
            )
            started = time.perf_counter()
            found = KnowledgeTransfer(loaded.network, decoder, index, config).translate(photo)
            seconds[str(probes)].append(time.perf_counter() - started)
            for stage, spent in found.seconds.items():
                stages[probes][stage].append(spent)
    ratios = ncc_ratios(index, loaded.network, layer, photos)
    median = {name: statistics.median(spent[1:]) for name, spent in seconds.items()}
    table = {
        "patches": index.count,
        "dimension": 4 * index.channels,
        "photographs": len(photos),
        "pixels_median": int(statistics.median(photo.shape[1] * photo.shape[2] for photo in photos)),
        "threads": options.threads,
        "adain_seconds": round(median["adain"], 3),
        "ours": [
            {
                "probes": probes,
                "seconds": round(median[str(probes)], 3),
                "rate_of_adain": round(median["adain"] / median[str(probes)], 3),
                "ncc_ratio": round(ratios[probes], 5),
                "stages": {name: round(statistics.median(spent[1:]), 3) for name, spent in stages[probes].items()},
            }
            for probes in PROBES
        ],
    }
    options.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
