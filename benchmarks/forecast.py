"""Forecast the build, the growth and the search of libraries that no machine here has held, from measured rates.

    python benchmarks/forecast.py > forecast.md

All rates are read from `benchmarks/results/`; the tables of `docs/scale.md` are what this prints. What is no rate is
named above `NODES`. Nothing is forecast for a GPU.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
NODES, CORES = 8, 16  # of the cluster; all cores are taken to be busy
VALUES = 608  # D of a relu3_1 patch of kt-vgg
ID_BYTES = 12
LEAF_BYTES = 4 * (128 + 48 + 2) + 8  # directions and a zero, variances, length and rest; the number of the leaf
COORDINATES = 127  # in which patches are routed
PRODUCTS = 97e9  # float32 operations a second of one core: half of the 194e9 of two (docs/benchmarks.md, "Search")
SHARD_PATCHES = 131072
SHARED_PROBES = 32  # of an index that nodes hold together
QUERIES = 12375  # of a photograph of 512 x 384 pixels at relu3_1
LIBRARIES = {"FiveK": (5_000, 80_000_000, "80m"), "WikiArt": (50_000, 800_000_000, "800m")}
TRANSLATED = {"FiveK": 5_000, "WikiArt": 80_000}  # photographs; all of FiveK, and as many as WikiArt has images


def result(name: str) -> Any:
    """Return stored figures."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Rates:
    """Measured rates of one core, and bytes of a patch."""

    extract: float  # patches a second
    index: float  # seconds a patch
    library_bytes: float
    index_bytes: float
    tree_bytes: float
    leaves_bytes: float  # of the statistics of leaves
    private_bytes: float  # of a searching process
    rest: float  # seconds of a query of all stages but the search
    query: float  # seconds of two cores, at `query_patches`
    query_patches: int

    @classmethod
    def read(cls) -> Rates:
        """Read them."""
        growth, fresh = result("growth")["sizes"][-1], result("growing")["fresh"]
        grown = result("growing")["grown"]
        private = next(row for row in reversed(result("open_memory")) if row["format"].endswith("/5"))
        translated = result("main_job_avx512")["translate"]
        rest = sum(seconds for stage, seconds in translated["stage_seconds"].items() if stage != "search")
        new_bytes = grown["new_patches"] * fresh["bytes"] / fresh["patches"]
        return cls(
            extract=result("main_job_avx512")["extract"]["patches_per_second"] / 2,
            index=fresh["processor_seconds"] / fresh["patches"],
            library_bytes=2 * VALUES,
            index_bytes=growth["bytes_per_patch"],
            tree_bytes=(grown["written_bytes"] - new_bytes) / grown["patches"],
            leaves_bytes=LEAF_BYTES * fresh["leaves"] / fresh["patches"],
            private_bytes=private["bytes_a_further_patch"],
            rest=2 * rest / translated["patches"],
            query=growth["seconds_per_query"],
            query_patches=growth["patches"],
        )


def build(rates: Rates, patches: int, balance: dict[str, Any], requests: int) -> list[tuple[str, str]]:
    """Return the rows of one library's build."""
    clusters = balance["split"]["clusters"]
    routing = 2 * clusters * COORDINATES / PRODUCTS
    extract, index = patches / rates.extract, patches * (rates.index + routing)
    serial = balance["fitted on the sample"]["fit_seconds"] + balance["split"]["split_seconds"]
    largest = balance["split"]["largest_over_mean"] * patches / clusters
    packed = result("pack_memory")[0]  # of patches of VALUES values
    pack_bytes = (packed["peak_mib"] - packed["before_mib"]) * 2**20 / packed["patches"]
    hours = ((extract + index) / (NODES * CORES) + serial) / 3600
    return [
        ("extract, core-hours", f"{extract / 3600:.1f}"),
        ("index, core-hours", f"{index / 3600:.1f}"),
        ("of it alone on one core: fit and split the top level, minutes", f"{serial / 60:.1f}"),
        (f"hours on {NODES} nodes of {CORES} cores; node-hours", f"{hours:.2f}; {NODES * hours:.1f}"),
        ("patches of the library, GB", f"{patches * rates.library_bytes / 1e9:,.0f}"),
        ("routed patches while the index is built, GB", f"{patches * (2 * VALUES + ID_BYTES) / 1e9:,.0f}"),
        ("index, GB", f"{patches * (rates.index_bytes + rates.leaves_bytes) / 1e9:,.0f}"),
        ("requests of the index", f"{requests:,}"),
        ("peak memory of a packing worker, GB", f"{(largest * pack_bytes + packed['before_mib'] * 2**20) / 1e9:.1f}"),
    ]


def later(rates: Rates, patches: int) -> list[tuple[str, str]]:
    """Return the rows of growth by 1 % of the images, and of search."""
    grown = patches // 100
    written = grown * rates.index_bytes + patches * (rates.tree_bytes + rates.leaves_bytes)
    query = rates.query * (patches / rates.query_patches) ** 0.37
    return [
        ("1 % more images: extract and index, core-minutes", f"{grown * (1 / rates.extract + rates.index) / 60:.1f}"),
        ("bytes of index written, share of all", f"{written / (patches * rates.index_bytes):.1%}"),
        (
            "tree and leaves, mapped once a machine, GB",
            f"{patches * rates.tree_bytes / 1e9:.1f} and {patches * rates.leaves_bytes / 1e9:.1f}",
        ),
        ("private memory of a searching process for them, GB", f"{patches * rates.private_bytes / 1e9:.2f}"),
        ("search of a photograph at recall .95, seconds of two cores", f"{QUERIES * query:.1f}"),
    ]


def shared(rates: Rates, patches: int, photographs: int) -> list[tuple[str, str]]:
    """Return the rows of an index that NODES nodes hold together, at the probes of SHARED_PROBES.

    photographs: How many are translated.
    """
    served = result("served_search")
    row = next(row for row in served["in_turn"] if row["probes"] == SHARED_PROBES)
    worker = served["on_ray"]["bytes_of_a_worker_with_the_router"]
    router = sum(worker["opened"].values()) - sum(worker["before"].values())
    router_bytes, part = router / served["patches"] * patches, patches * rates.index_bytes / NODES
    owner = max(each["private"] for each in served["on_ray"]["bytes_of_owners"])
    node = part + owner + router_bytes + CORES * worker["searched"]["private"]
    photograph = QUERIES * row["bytes_a_query"]
    cores = 2 * QUERIES * rates.query * (patches / rates.query_patches) ** 0.37 / row["speed_of_served"]
    a_second = NODES * CORES / cores
    hours = photographs * (cores + rates.rest * QUERIES) / 3600
    return [
        (f"shared by {NODES} nodes: index a node, GB", f"{part / 1e9:.0f}"),
        ("memory of the router, once a node, GB", f"{router_bytes / 1e9:.1f}"),
        (f"memory of a node: index, owner, router, {CORES} workers, GB", f"{node / 1e9:.0f}"),
        ("messages of a photograph, MB", f"{photograph / 1e6:.0f}"),
        ("core-seconds of its search", f"{cores:.0f}"),
        (f"photographs a second of {NODES} nodes, searches alone", f"{a_second:.1f}"),
        ("of it in and out of each node, Mbit/s", f"{2 * 8 * a_second * photograph / NODES / 1e6:.0f}"),
        ("photographs translated", f"{photographs:,}"),
        (f"core-hours; hours on {NODES} nodes of {CORES} cores", f"{hours:.1f}; {hours / NODES / CORES:.2f}"),
        ("messages, TB", f"{photographs * photograph / 1e12:.2f}"),
    ]


def main() -> None:
    """Print the tables."""
    rates, requests = Rates.read(), result("build_requests")
    columns = []
    for library, (images, patches, name) in LIBRARIES.items():
        total = requests[f"forecast of {patches:,} patches"]["total"]
        rows = build(rates, patches, result(f"cluster_balance_{name}"), total) + later(rates, patches)
        rows += shared(rates, patches, TRANSLATED[library])
        columns.append([("images of 512 pixels; patches", f"{images:,}; {patches // 10**6} million"), *rows])
    print("| | " + " | ".join(LIBRARIES) + " |\n|---|" + "---|" * len(columns))
    for cells in zip(*columns, strict=True):
        print(f"| {cells[0][0]} | " + " | ".join(value for _, value in cells) + " |")


if __name__ == "__main__":
    main()
