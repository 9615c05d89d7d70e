"""Measure the peak memory of every process of a whole index build.

    python benchmarks/build_memory.py --patches 4000000 --out results/build_memory.json
    python benchmarks/build_memory.py --patches 4000000 --unit-size 40 -- --build-memory 1
    python benchmarks/build_memory.py --patches 1000000 -- --runner ray --workers 2

A library of patches of a mixture of Gaussians is written to a temporary folder, or found in --library, and
`kt-batch index` runs as a user starts it, with the options after `--`. Resident memory is read from /proc; its highest
value is kept by the kernel and reset at the beginning of each stage, so that no peak is missed between two looks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.config import EncoderConfig, ExtractConfig
from kt_batch.index.ids import pack_ids
from kt_batch.kernels.principal import LEVEL_WIDTH
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.store.layout import PATCHES
from kt_batch.store.library import write_library_summary
from kt_batch.store.locations import open_location
from kt_batch.store.plans import Item
from kt_batch.store.receipts import Receipt, new_attempt
from kt_batch.store.schemas import fixed_binary, patches_schema
from kt_batch.store.tables import commit_row_groups
from kt_batch.store.units import Ledger

SIDE = 126  # patches of a row of an image of 512 pixels
IMAGE_PATCHES = SIDE**2
COMPONENTS = 2000  # of the mixture; the weight of number i is 1 / (i + 10)
COPIES = 50  # of this many patches one is a copy of another
LOOKS = 0.2  # seconds between two


class Mixture:
    """Raw patches around random directions, whose strength falls from one to the next, with weak noise in all values.

    A part of each is what a network makes of flat areas: copies of other patches.
    """

    def __init__(self, channels: int) -> None:
        """Choose directions and weights of the components."""
        generator = torch.Generator().manual_seed(0)
        self._channels, width = channels, LEVEL_WIDTH - 1
        strength = (torch.arange(width) + 1.0).rsqrt()
        basis = torch.linalg.qr(torch.randn(4 * channels, width, generator=generator)).Q
        self._centres = (torch.randn(COMPONENTS, width, generator=generator) * strength) @ basis.T
        self._weights = 1 / (torch.arange(COMPONENTS) + 10.0)

    def draw(self, image: int, count: int) -> NDArray[np.float16]:
        """Return the patches `(count, 4, C)` of an image."""
        generator = torch.Generator().manual_seed(image)
        chosen = torch.multinomial(self._weights, count, replacement=True, generator=generator)
        patches: Tensor = 0.04 * torch.randn(count, 4 * self._channels, generator=generator)
        patches += self._centres[chosen]
        patches[COPIES::COPIES] = patches[: len(patches[COPIES::COPIES])].clone()
        return patches.half().view(count, 4, self._channels).numpy()


def write_library(place: Path, patches: int, channels: int, unit_size: int) -> None:
    """Write a library of as many patches as images of 512 pixels have, without images."""
    encoder = EncoderConfig(weights_sha256=load_encoder(EncoderSource()).sha256, size=512)
    config = ExtractConfig(encoder=encoder)
    location, mixture = open_location(str(place)), Mixture(channels)
    names = [f"{number}.png" for number in range(-(-patches // IMAGE_PATCHES))]
    items = [Item(hashlib.sha256(name.encode()).hexdigest()[:16], f"/images/{name}", name) for name in names]
    ledger = Ledger(location)
    for unit in ledger.plan(items, unit_size, config.model_dump(mode="json"), config.digest()):
        images = [(int(item.name.partition(".")[0]), item.image_id) for item in unit.items]
        counts = [min(IMAGE_PATCHES, patches - number * IMAGE_PATCHES) for number, _ in images]
        tables = (_table(mixture, *image, count) for image, count in zip(images, counts, strict=True))
        part = commit_row_groups(location, PATCHES, unit.id, patches_schema(channels), tables)
        receipt = Receipt(
            unit=unit.id,
            attempt=new_attempt(),
            config_digest=config.digest(),
            tables=(part,),
            images=len(images),
            patches=part.rows,
            numerics={},
        )
        ledger.commit(receipt)
    write_library_summary(location, ledger, config)


def _table(mixture: Mixture, number: int, image: str, count: int) -> pa.Table:
    """Return the patches table of an image."""
    places = np.arange(count)
    ids = pack_ids(image, places // SIDE, places % SIDE)
    vectors = mixture.draw(number, count)
    box = pa.array(np.zeros(count, np.int32))
    columns = [
        fixed_binary(ids),
        fixed_binary(np.ascontiguousarray(ids[:, :8])),
        pa.array((places // SIDE).astype(np.uint16)),
        pa.array((places % SIDE).astype(np.uint16)),
        *[box] * 4,
        fixed_binary(vectors),
    ]
    return pa.Table.from_arrays(columns, schema=patches_schema(vectors.shape[2]))


class Watch:
    """The highest resident memory of a process and all its descendants, by process and stage, in MiB."""

    def __init__(self, process: int, build: Path) -> None:
        """Watch a process that writes the files of its build below a folder `index`."""
        self._process, self._build = process, build
        self.stage = "sample and fit"
        self.mib: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))

    def look(self) -> None:
        """Look once."""
        for process in descendants(self._process):
            with suppress(OSError, KeyError):  # it has ended
                name = f"{process} {process_name(process)}"
                self.mib[name][self.stage] = max(self.mib[name][self.stage], peak(process))
        stage = self._stage()
        if stage != self.stage:
            self.stage = stage
            for process in descendants(self._process):
                with suppress(OSError):
                    Path(f"/proc/{process}/clear_refs").write_text("5")

    def _stage(self) -> str:
        """Return the stage that is under way, as the files of the build show it."""
        if any(self._build.glob("*/build/clusters/*")) or self.stage == "pack and commit":
            return "pack and commit"
        return "route" if any(self._build.glob("*/build/top/*")) else "sample and fit"


def descendants(process: int) -> list[int]:
    """Return a process and all its descendants."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with suppress(OSError, IndexError):
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                children[int(fields[1])].append(int(path.name))
    found = [process]
    for each in found:
        found += children[each]
    return found


def process_name(process: int) -> str:
    """Return what a process calls itself, in a few characters."""
    words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").strip("\0").split("\0")
    return " ".join([Path(words[0]).name, *words[1:4]])[:60]


def peak(process: int | str) -> int:
    """Return the highest resident memory of a process since its last reset, in MiB. Raises KeyError."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return round(int(line.split()[1]) / 1024)
    raise KeyError(process)


def measure(library: Path, words: Sequence[str]) -> dict[str, Any]:
    """Index a library with further words of the command line, and return peaks and seconds."""
    command = [sys.executable, "-m", "kt_batch", "index", str(library), "--fresh", "--json", *words]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output, subprocess.Popen(command, stdout=output) as build:
        watch = Watch(build.pid, library / "index")
        while build.poll() is None:
            watch.look()
            time.sleep(LOOKS)
        output.seek(0)
        said = output.read()
    if build.returncode:
        raise SystemExit(f"the build ended with {build.returncode}")
    peaks = {name: dict(stages) for name, stages in watch.mib.items() if max(stages.values())}
    if not json.loads(said)["built"]:
        raise SystemExit(f"{library} has this index already; remove it first.")
    return {
        "words": list(words),
        "peak_mib": max(max(stages.values()) for stages in peaks.values()),
        "processes": _named(peaks),
        "seconds": round(time.perf_counter() - started, 1),
        "summary": json.loads(said),
    }


def _named(peaks: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    """Return the processes, largest first, without their numbers."""
    ordered = sorted(peaks.items(), key=lambda item: -max(item[1].values()))
    return [{"process": name.partition(" ")[2], "mib": stages} for name, stages in ordered]


def libraries(options: argparse.Namespace, folder: Path) -> Iterator[Path]:
    """Yield the library that is indexed, and write it if there is none."""
    library = options.library or folder / "library"
    if not (library / "library.json").exists():
        write_library(library, options.patches, options.channels, options.unit_size)
    yield library


def main() -> None:
    """Write a library, index it, and print the peaks as JSON."""
    words = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=4_000_000)
    parser.add_argument("--channels", type=int, default=152)
    parser.add_argument("--unit-size", type=int, default=8, help="images of a part")
    parser.add_argument("--library", type=Path, help="where the library is, or is written and kept")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(sys.argv[1 : len(sys.argv) - len(words) - bool("--" in sys.argv)])
    with tempfile.TemporaryDirectory() as folder:
        for library in libraries(options, Path(folder)):
            setting = {"patches": options.patches, "channels": options.channels, "unit_size": options.unit_size}
            text = json.dumps(setting | measure(library, words), indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
