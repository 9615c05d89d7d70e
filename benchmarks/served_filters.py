"""Measure filters, proofs and single sources of an index that several owners hold, against one process.

    python benchmarks/served_filters.py LIBRARY PHOTOGRAPH --owners 4 --out results/served_filters.json

Owners are in this process, one after another on one thread, so that processor time is compared with processor time;
rounds alternate, and matches must be equal to the last byte. `filters`: a half, a tenth and one of the images allowed;
the copying of allowed rows by one process and by the owners, with the opening of a router; the fetching of all of them;
a search of all queries of the photograph with 8 probes; bytes of messages and of the router's tensors. `proofs`:
certified matches of some queries. `sources`: an index of one image, from a whole index and fetched from owners.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from served_search import assert_equal, divided, queries_of
from torch import Tensor

from kt_batch import tune_process
from kt_batch.config import SearchConfig
from kt_batch.index.index import Index
from kt_batch.index.restricted import IndexImages, index_of_images, mean_leaf
from kt_batch.index.search import OwnersSearch, Search
from kt_batch.index.served.fetched import ServedImages, in_memory
from kt_batch.index.served.filtered import allowed_by, open_filtered
from kt_batch.index.served.image_messages import CountAllowed
from kt_batch.index.served.index import ServedIndex
from kt_batch.index.served.local import LocalOwners
from kt_batch.index.served.router import Router
from kt_batch.pipelines.numerics import fix_numerics
from kt_batch.pipelines.translate.mapped_index import map_index
from kt_batch.store.cache import CachePlace
from kt_batch.store.indexes import find_index
from kt_batch.store.locations import absolute_place
from kt_batch.store.opening import open_library

R = TypeVar("R")
ROUNDS = 3
PROVED = 512  # queries of which matches are certified


def timed(work: Callable[[], R]) -> tuple[float, R]:
    """Return the processor seconds that some work took, and its result."""
    began = time.process_time()
    result = work()
    return round(time.process_time() - began, 3), result


def opened(index: Index, shards: list[list[int]], images: bytes) -> tuple[LocalOwners, ServedIndex]:
    """Return owners that hold the allowed patches alone, and the index as a translator sees it."""
    owners = LocalOwners(index, shards, filtered=True)
    counted = owners.ask({owner: [CountAllowed(images)] for owner in range(len(shards))})
    allow = allowed_by(images, mean_leaf(index.count, index.tree.leaves), shards, list(counted.values()))
    return owners, ServedIndex(*open_filtered(index.tree, owners, allow))


def filtered(index: Index, shards: list[list[int]], images: list[str], queries: Tensor) -> dict[str, Any]:
    """Measure a filter that allows some images."""
    ids = b"".join(map(bytes.fromhex, images))
    copied, local = timed(lambda: index_of_images(index, ids))
    told, (owners, served) = timed(lambda: opened(index, shards, ids))
    if local is None:
        raise ValueError("The index holds no patch of these images.")
    opening = owners.traffic.total()
    owners.traffic.clear()
    every = torch.arange(served.count)
    fetching, whole = timed(lambda: in_memory(served, every, served.tree.leaf_count))
    if not whole.shards[0].level.equal(local.shards[0].level):
        raise ValueError("What was fetched is not the index of one process.")
    bytes_to_fetch = owners.traffic.total()
    statistics = served.router.statistics
    config = SearchConfig()
    searches = {"local": Search(local, config).search, "served": OwnersSearch(served, config).search}
    assert_equal(searches["local"](queries), searches["served"](queries))  # and warms up
    owners.traffic.clear()
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(ROUNDS):
        for name, search in searches.items():
            seconds[name].append(timed(lambda search=search: search(queries))[0])
    return {
        "images": len(images),
        "patches": local.count,
        "leaves": local.tree.leaves,
        "further_owners_of_leaves": sum(map(len, served.router.leaves_of_owners(shards))) - local.tree.leaves,
        "seconds_to_copy": copied,
        "seconds_to_copy_and_open_by_owners": told,
        "bytes_to_open": opening,
        "seconds_to_fetch": fetching,
        "bytes_to_fetch": bytes_to_fetch,
        "bytes_of_a_router": sum(part.nbytes for part in (statistics.directions, statistics.variances)),
        "us_a_query": {name: [round(1e6 * one / len(queries), 1) for one in some] for name, some in seconds.items()},
        "bytes_a_query": round(owners.traffic.total() / ROUNDS / len(queries)),
    }


def proved(index: Index, shards: list[list[int]], queries: Tensor) -> dict[str, Any]:
    """Measure certified matches."""
    owners, config = LocalOwners(index, shards), SearchConfig(certify=True)
    local, served = Search(index, config), OwnersSearch(ServedIndex(Router.of(index), owners), config)
    some = queries[:: len(queries) // PROVED][:PROVED]
    assert_equal(local.search(some), served.search(some))  # and checks the bounds
    owners.traffic.clear()
    seconds = {"local": timed(lambda: local.search(some))[0], "served": timed(lambda: served.search(some))[0]}
    each = {name: round(1e6 * one / len(some)) for name, one in seconds.items()}
    return {"queries": len(some), "us_a_query": each, "bytes_a_query": round(owners.traffic.total() / len(some))}


def fetched(index: Index, shards: list[list[int]], images: list[str]) -> dict[str, Any]:
    """Measure indexes of one image each."""
    owners, whole = LocalOwners(index, shards), IndexImages(index)
    served = ServedImages(ServedIndex(Router.of(index), owners))
    if served.images != whole.images:
        raise ValueError("Owners do not hold the images of the whole index.")
    whole.of_image(images[0]), served.of_image(images[0])
    owners.traffic.clear()
    seconds, patches = {"local": 0.0, "served": 0.0}, 0
    for image in images:
        local, one = timed(lambda image=image: whole.of_image(image))
        remote, other = timed(lambda image=image: served.of_image(image))
        if not other.shards[0].level.equal(one.shards[0].level):
            raise ValueError(f"Owners hold other patches of the image {image}.")
        seconds["local"], seconds["served"] = seconds["local"] + local, seconds["served"] + remote
        patches += one.count
    mean = {name: round(1e3 * one / len(images), 2) for name, one in seconds.items()}
    return {
        "images": len(images),
        "patches_of_an_image": round(patches / len(images)),
        "ms_an_image": mean,
        "bytes_a_patch": round(owners.traffic.total() / patches),
    }


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("photograph")
    parser.add_argument("--owners", type=int, default=4)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    tune_process()
    torch.set_num_threads(1)
    library = open_library(absolute_place(given.library))
    summary = find_index(library, None)
    index = map_index(library.location, summary, CachePlace())
    shards = divided(summary, given.owners)
    queries = queries_of(absolute_place(given.library), given.photograph)
    images = IndexImages(index).images
    found = {
        "patches": summary.kept,
        "leaves": summary.leaves,
        "images": len(images),
        "queries": len(queries),
        "owners": given.owners,
        "filters": [filtered(index, shards, images[::step], queries) for step in (2, 10, len(images))],
        "proofs": proved(index, shards, queries),
        "sources": fetched(index, shards, images[:8]),
        "numerics": fix_numerics(1),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
