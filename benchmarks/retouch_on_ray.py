"""Compare `translate --method retouch` on Ray, two workers of one thread, with two independent single processes.

    python benchmarks/retouch_on_ray.py --pairs LIBRARY --images DIR [--count 500] [--rounds 3] --out results/x.json

LIBRARY is a fitted paired library. The photographs are images below DIR, enlarged to 2 to 3 megapixels and saved as
JPEG once. On one side a command edits all of them with `--runner ray --workers 2 --threads 1`; on the other, two
commands with `--runner local --threads 1` start together, and each edits one half. The sides take turns: Ray, local,
local, Ray and so on.

Start-up and the idle end are excluded alike on both sides. A side has two workers (of Ray, or the two processes), and
receipts say who committed which unit and when. The window begins when both workers have committed a unit, and ends at
the last commit of the worker that ends first. The rate is the number of photographs committed within the window, over
its seconds. The result is the median rate of Ray over the median rate of the two processes. The seconds of the whole
commands are reported beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kt_batch.store.opening import open_run
from kt_batch.store.receipts import Receipt

SUFFIXES = (".jpg", ".jpeg", ".png")
MEGAPIXELS = (2.0, 3.0)  # drawn evenly
SIDES = {
    "ray": ("--runner", "ray", "--workers", "2", "--threads", "1"),
    "local": ("--runner", "local", "--threads", "1"),
}


def make_photographs(images: Path, folder: Path, count: int) -> None:
    """Write `count` JPEG files, every other one to `folder/0` and `folder/1`."""
    sources = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not sources:
        raise SystemExit(f"{images} holds no images")
    random = np.random.default_rng(0)
    for half in ("0", "1"):
        (folder / half).mkdir(parents=True)
    for number in range(count):
        with Image.open(sources[number % len(sources)]) as image:
            scale = (random.uniform(*MEGAPIXELS) * 1e6 / (image.width * image.height)) ** 0.5
            size = round(image.width * scale), round(image.height * scale)
            large = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        large.save(folder / str(number % 2) / f"{number:04d}.jpg", quality=90)


def start(photographs: Path, pairs: Path, run: Path, side: str) -> subprocess.Popen[bytes]:
    """Start one command; it logs to a file beside its run."""
    words = ["translate", photographs, "--method", "retouch", "--library", pairs, "--format", "jpg", "--out", run]
    line = [sys.executable, "-m", "kt_batch", *map(str, words), *SIDES[side]]
    with run.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT)


def rate(receipts: Iterable[Receipt]) -> dict[str, float]:
    """Return the photographs committed by two workers while both were at work, the seconds, and the rate.

    Raises:
        SystemExit: There are other than two workers, or they were never at work together for long.
    """
    commits: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for receipt in receipts:
        commits[receipt.worker or ""].append((receipt.finished or 0.0, receipt.images))
    begin = max(min(each)[0] for each in commits.values())
    end = min(max(each)[0] for each in commits.values())
    if len(commits) != 2 or end <= begin:
        raise SystemExit(f"{len(commits)} workers were at work together for {end - begin:.1f} s; give more photographs")
    counted = sum(images for each in commits.values() for finished, images in each if begin < finished <= end)
    return {"photographs": counted, "seconds": round(end - begin, 3), "rate": round(counted / (end - begin), 4)}


def measure(side: str, photographs: Path, pairs: Path, folder: Path) -> dict[str, float]:
    """Edit all photographs on one side, and return its figures."""
    parts: Sequence[Path] = [photographs] if side == "ray" else sorted(photographs.iterdir())
    runs = [folder / f"run-{number}" for number in range(len(parts))]
    started = time.perf_counter()
    running = [start(part, pairs, run, side) for part, run in zip(parts, runs, strict=True)]
    codes = [each.wait() for each in running]
    seconds = time.perf_counter() - started
    if any(codes):
        logs = "\n".join(run.with_suffix(".log").read_text() for run in runs)
        raise SystemExit(f"{side} ended with {codes}:\n{logs}")
    receipts = [receipt for run in runs for receipt in open_run(str(run)).committed.receipts.values()]
    return {**rate(receipts), "command_seconds": round(seconds, 1)}


def compare(photographs: Path, pairs: Path, rounds: int) -> dict[str, Any]:
    """Measure both sides in turns, and return all figures."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in SIDES if number % 2 == 0 else reversed(SIDES):
            with tempfile.TemporaryDirectory(prefix="retouch-on-ray-") as folder:
                found[side].append(measure(side, photographs, pairs, Path(folder)))
            print(f"round {number + 1}, {side}: {found[side][-1]}", flush=True)
    medians = {side: statistics.median(each["rate"] for each in found[side]) for side in SIDES}
    return {
        "cores": os.cpu_count(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "rounds": rounds,
        "photographs_per_second": medians,
        "ratio": round(medians["ray"] / medians["local"], 4),
        "runs": found,
    }


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="a fitted paired library")
    parser.add_argument("--images", type=Path, required=True, help="a folder of images")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="retouch-photographs-") as folder:
        make_photographs(options.images, Path(folder), options.count)
        figures = {"count": options.count, **compare(Path(folder), options.pairs.resolve(), options.rounds)}
    text = json.dumps(figures, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
