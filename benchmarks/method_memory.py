"""Measure the memory of a worker over 100 small pictures, for each method on style images and for `knowledge`.

    python benchmarks/method_memory.py [--pictures 100] [--size 64] [--iterations 5] [--methods NAME ...] --out FILE

Each method has a process of its own, which does units of one picture on one thread, as the worker of a run does.
Resident is VmRSS of /proc/self/status after so many pictures; freed memory that the allocator keeps counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from draw_images import waves
from PIL import Image

from kt_batch import tune_process
from kt_batch.memory import peak_memory

ITERATED = {"gatys": "iterations", "gatys_refined": "iterations", "ift": "updates"}
METHODS = ("patch_swap", "adain", "wct", "ift", "gatys", "gatys_refined", "knowledge")
EVERY = 20  # pictures between two measurements


def resident() -> float:
    """Return the resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024, 1)


def work(method: str, root: Path, size: int, iterations: int) -> dict[str, Any]:
    """Translate the photographs below `root` in this process; return its memory after each `EVERY` of them."""
    tune_process()
    from kt_batch.pipelines.inputs import find_images, plan_items
    from kt_batch.pipelines.progress import no_progress
    from kt_batch.pipelines.translate.plan import TranslateJob
    from kt_batch.pipelines.translate.sources import Choice, choose
    from kt_batch.pipelines.translate.worker import TranslateWorker
    from kt_batch.store.plans import make_units

    sources = {"library": str(root / "library")} if method == "knowledge" else {"styles": str(root / "styles")}
    settings = {ITERATED[method]: iterations} if method in ITERATED else {}
    choice = Choice(**sources, size=None if method == "knowledge" else size, cache=root / "cache")
    config, places = choose(method, settings, choice)
    items = plan_items(find_images([str(root / "photos")], (), no_progress).inputs, no_progress)
    run = TranslateJob(run=str(root / f"run-{method}"), config=config, sources=places, threads=1)
    worker, after = TranslateWorker(run), {}
    began = time.process_time()
    for number, unit in enumerate(make_units(items, 1), 1):
        receipt = worker(unit)
        if receipt.images != 1:
            raise RuntimeError(f"{method} rejected {unit.items[0].name}")
        if number % EVERY == 0:
            after[str(number)] = resident()
    seconds = round(time.process_time() - began, 1)
    return {"resident_mib_after": after, "peak_mib": round(peak_memory() / 2**20, 1), "processor_seconds": seconds}


def prepare(root: Path, pictures: int, size: int) -> None:
    """Draw photographs and two paintings, and make a library of the paintings."""
    for name, seeds in (("photos", range(100, 100 + pictures)), ("styles", range(2))):
        (root / name).mkdir()
        for seed in seeds:
            Image.fromarray(waves(seed, size, size * 3 // 4)).save(root / name / f"{seed}.png")
    library = str(root / "library")
    command = [sys.executable, "-m", "kt_batch"]
    extract = ["extract", str(root / "styles"), "--library", library, "--size", str(size), "--threads", "1"]
    for words in (extract, ["index", library, "--threads", "1"]):
        subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    """Measure every method in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--measured", nargs=2, metavar=("METHOD", "FOLDER"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.measured:
        method, root = options.measured
        print(json.dumps(work(method, Path(root), options.size, options.iterations)))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), options.pictures, options.size)
        for method in options.methods:
            same = ["--size", str(options.size), "--iterations", str(options.iterations)]
            command = [sys.executable, __file__, *same, "--measured", method, folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            found[method] = json.loads(done.stdout)
            print(method, found[method], file=sys.stderr)
    settings = {"pictures": options.pictures, "size": options.size, "iterations": options.iterations, "threads": 1}
    if options.out:
        options.out.write_text(json.dumps({**settings, "methods": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
