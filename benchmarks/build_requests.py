"""Count the requests of an index build, and forecast them for a library of any size.

    python benchmarks/build_requests.py --parts 16 --clusters 32 --out results/build_requests.json

A small library is written and indexed in an empty folder; every call of a `Location` that an object store would answer
is counted, by stage. The forecast follows from the numbers of parts and clusters alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from kt_batch.config import EncoderConfig, ExtractConfig, IndexConfig, RunOptions
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.extract.finish import extract
from kt_batch.pipelines.extract.plan import ExtractRequest
from kt_batch.pipelines.index.finish import build_index
from kt_batch.pipelines.index.plan import MOST_UNITS, SHARD_PATCHES
from kt_batch.pipelines.progress import Step, no_progress
from kt_batch.runners.local import LocalRunner
from kt_batch.store.local import LocalLocation
from kt_batch.store.tables import COPIED_BYTES

REQUESTS = (
    "read_bytes",
    "read_range",
    "size",
    "put_if_absent",
    "put_file_if_absent",
    "put_content",
    "list",
    "open",
    "delete",
)
PART_PATCHES, CHANNELS = 128_000, 152
SAMPLED = 12  # requests for the sample of a unit: its table three times, with its footer


class Counted:
    """The requests of the stage that is under way."""

    def __init__(self) -> None:
        """Begin before the first stage."""
        self.stage, self.requests = "plan", Counter[tuple[str, str]]()

    def progress(self, step: Step) -> None:
        """Turn to a stage."""
        self.stage = "finish" if step.stage == "pack" and step.done == step.total else step.stage

    def table(self) -> dict[str, dict[str, int]]:
        """Return stage -> kind -> requests."""
        stages = dict.fromkeys(stage for stage, _ in self.requests)
        return {s: {kind: n for (stage, kind), n in self.requests.items() if stage == s} for s in stages}


class _Reads:
    """A file of which every read is a request, as in an object store."""

    def __init__(self, file: Any, counted: Counted) -> None:
        self._file, self._counted = file, counted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Reads:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, *size: int) -> Any:
        self._counted.requests[self._counted.stage, "read"] += 1
        return self._file.read(*size)


@contextmanager
def counting() -> Iterator[Counted]:
    """Count what is asked of every location, as if it were far away: no file of it is local."""
    counted = Counted()

    def wrap(kind: str) -> Any:
        original = getattr(LocalLocation, kind)

        def call(self: LocalLocation, *arguments: Any) -> Any:
            counted.requests[counted.stage, kind] += 1
            result = original(self, *arguments)
            return _Reads(result, counted) if kind == "open" else result

        return call

    with ExitStack() as stack:
        for kind in REQUESTS:
            stack.enter_context(mock.patch.object(LocalLocation, kind, wrap(kind)))
        stack.enter_context(mock.patch.object(LocalLocation, "local_path", return_value=None))
        yield counted


def forecast(parts: int, clusters: int) -> dict[str, int]:
    """Return the requests of a build of parts of PART_PATCHES patches and clusters of SHARD_PATCHES on average."""
    routed, packs = min(parts, MOST_UNITS + 1), min(clusters, MOST_UNITS + 1)
    part_bytes = PART_PATCHES * (8 * CHANNELS + 40)
    whole = 1 + -(-part_bytes // COPIED_BYTES)  # the size, then pieces
    return {
        "sample": parts * whole + routed * (2 + SAMPLED),
        "route": parts * whole + routed * 3 + 2 * routed,
        "pack": routed * packs + packs * 5 + 2 * clusters,
        "receipts": 3 * (2 * routed + packs),
        "finish": 6 * packs + 3 * clusters + 2 * (2 * routed + packs) + clusters + 2,  # two for the leaves of a shard
    }


def _library(folder: Path, parts: int) -> str:
    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(parts):
        pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((160, 160)).save(folder / "images" / f"{number}.png")
    encoder = EncoderConfig(weights_sha256=load_encoder(EncoderSource()).sha256, size=160)
    request = ExtractRequest(
        [str(folder / "images")],
        str(folder / "library"),
        ExtractConfig(encoder=encoder),
        EncoderSource(),
        RunOptions(threads=1, unit_size=1),
    )
    extract(request, LocalRunner(), no_progress)
    return str(folder / "library")


def measure(parts: int, clusters: int) -> dict[str, dict[str, int]]:
    """Return the requests of each stage of a build of so many parts and clusters."""
    with tempfile.TemporaryDirectory() as folder:
        library = _library(Path(folder), parts)
        config = IndexConfig(fan_out=clusters, max_leaf=64)
        with counting() as counted:
            build_index(library, config, RunOptions(threads=1), LocalRunner(), counted.progress)
        return counted.table()


def main() -> None:
    """Count the requests of a small build, and print forecasts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=16)
    parser.add_argument("--clusters", type=int, default=32)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = measure(options.parts, options.clusters)
    table: dict[str, Any] = {"parts": options.parts, "clusters": options.clusters, "requests": found}
    table["total"] = sum(sum(kinds.values()) for kinds in found.values())
    for patches in (80_000_000, 800_000_000):
        expected = forecast(-(-patches // PART_PATCHES), -(-patches // SHARD_PATCHES))
        table[f"forecast of {patches:,} patches"] = expected | {"total": sum(expected.values())}
    print(json.dumps(table, indent=1))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
