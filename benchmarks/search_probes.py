"""What a probe is worth: recall@1, NCC ratio and queries per second of every searcher on one library.

    python benchmarks/search_probes.py --library LIB --photo FILE --out results/search_probes.json

`exact` is the truth. NCC ratio: mean NCC found / mean NCC of the exact matches.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

import kt_batch  # noqa: F401 - before torch, so that its threads wait asleep
from kt_batch.config import SearchConfig
from kt_batch.index.search import search
from kt_batch.kernels.patches import positions, unfold
from kt_batch.kernels.tiles import canonical_scores, unit
from kt_batch.methods.knowledge import encode, to_tensor
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.translate import open_index
from kt_batch.store.images import decode, pad_to
from kt_batch.store.indexes import find_index
from kt_batch.store.library import Library

SEARCHES = {
    "exact": SearchConfig(searcher="exact"),
    **{f"ours, {probes} probes": SearchConfig(probes=probes) for probes in (2, 4, 8, 16, 32)},
    "hkm": SearchConfig(searcher="hkm", probes=1),
    **{f"bhkm, {bands} bands": SearchConfig(searcher="bhkm", probes=1, bands=bands) for bands in (1, 2, 3, 4)},
}


def main() -> None:
    """Print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", required=True)
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    library = Library.open(options.library)
    index = open_index(library.location, find_index(library, None), Path("unused"))
    encoder = load_encoder(EncoderSource()).network
    layer = library.config.encoder.layer
    working = decode(options.photo.read_bytes(), library.config.encoder.size)
    with torch.no_grad():
        features = encode(encoder, to_tensor(pad_to(working.pixels, encoder.geometry(layer).stride)), layer)
    queries = unfold(features, *positions(features.shape[1], features.shape[2], 1, cover=True))
    table = {"patches": index.count, "queries": len(queries), "dimension": 4 * index.channels, "searchers": {}}
    truth = None
    for name, config in SEARCHES.items():
        started = time.perf_counter()
        rows = search(index, queries, config).rows[:, 0]
        seconds = time.perf_counter() - started
        ncc = canonical_scores(unit(queries.flatten(1)), unit(index.patches(rows).flatten(1))).mean()
        truth = truth if truth is not None else (rows, ncc)
        table["searchers"][name] = {
            "recall_at_1": round(float((rows == truth[0]).float().mean()), 4),
            "ncc_ratio": round(float(ncc / truth[1]), 4),
            "queries_per_second": round(len(rows) / seconds),
        }
        print(name, table["searchers"][name], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
