"""Measure the default searcher and those of faiss in turn, so that the drifting speed of a machine affects all alike.

    python benchmarks/beside_peers.py LIBRARY --queries IMAGES --encoder-weights FILE --out results/beside_peers.json

LIBRARY is indexed; `--encoder-weights` names VGG-19's weights if it was made with them. After each peer is built, it
and the default searcher, in float16, search for all queries in turn, ROUNDS times.
"""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch

from kt_batch.config import SearchConfig
from kt_batch.evaluation.search import (
    PreparedQueries,
    SearchFigures,
    baseline_searcher,
    library_patches,
    measure,
    prepare_queries,
    query_patches,
    searcher,
)
from kt_batch.index.index import Index, build_in_memory
from kt_batch.index.searchers.faiss import build_baseline
from kt_batch.models.weights import EncoderSource

OURS = (64, 96)  # probes
PEERS = {"ivf": 64, "ivf-panorama": 64, "hnsw": 64}  # lists, efSearch: recall of about 0.95 among a million patches
ROUNDS = 3


def in_turn(index: Index, prepared_queries: PreparedQueries, name: str) -> Iterator[SearchFigures]:
    """Yield a row for each searcher and round."""
    peer = baseline_searcher(build_baseline(index, name), index, PEERS[name])
    for _ in range(ROUNDS):
        for probes in OURS:
            yield measure(
                index, "tree", probes, prepared_queries, searcher(index, SearchConfig(probes=probes)), None, None
            )
        yield measure(index, name, PEERS[name], prepared_queries, peer, None, None)


def main() -> None:
    """Measure all peers, and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--queries", nargs="+", required=True)
    parser.add_argument("--encoder-weights")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    weights = args.encoder_weights
    source = EncoderSource(name="vgg19", path=weights) if weights else EncoderSource()
    packets, ids, config = library_patches(args.library)
    queries = query_patches(args.library, args.queries, source)
    index = build_in_memory(packets, ids, config.model_copy(update={"payload": "float16"}))
    del packets
    prepared_queries = prepare_queries(index, queries)
    peers = {}
    for name in args.peers:
        rows: dict[str, list[SearchFigures]] = defaultdict(list)
        for row in in_turn(index, prepared_queries, name):
            rows[f"{row.searcher} {row.setting}"].append(row)
            print(
                f"{row.searcher} {row.setting}: {row.recall:.4f}, {row.queries_per_second:,.0f} queries/s", flush=True
            )
        peers[name] = {
            key: {
                "recall": every[0].recall,
                "queries_per_second": [round(row.queries_per_second) for row in every],
                "median": round(statistics.median(row.queries_per_second for row in every)),
            }
            for key, every in rows.items()
        }
    table = {"patches": index.count, "queries": len(queries), "threads": args.threads, "peers": peers}
    args.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
