"""Time several libraries beside one of them all, and one source for each photograph beside all sources.

    python benchmarks/several_libraries.py FOLDER --photographs 1000 --workers 2 --out results/several_libraries.json

Paintings and photographs of 256 x 256 pixels are drawn into FOLDER, and libraries are made there: two of half of the
paintings each, and one of all. Images are translated by `knowledge` after the whole library, after both halves, and
with one source each. With --workers 0, work is done in this process on one thread, and processor seconds are those of
the pictures; else Ray runs it. Every run is made --times times, in turn. The smallest seconds are shown; a ratio is the
median of those of all rounds.
"""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

import argparse
import json
import shutil
import time
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kt_batch.config import ExtractConfig, IndexConfig, RunOptions
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.encoders import new_encoder
from kt_batch.pipelines.extract.finish import extract
from kt_batch.pipelines.extract.plan import ExtractRequest
from kt_batch.pipelines.index.finish import build_index
from kt_batch.pipelines.merge.finish import MergeRequest, merge
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.base import Runner
from kt_batch.runners.local import LocalRunner

SIDE = 256
OPTIONS = RunOptions(threads=1, unit_size=16)


def picture(number: int) -> NDArray[np.uint8]:
    """Return forms of several sizes, each with edges, and grain: `(SIDE, SIDE, 3)` uint8."""
    random, total = np.random.default_rng(number), np.zeros((SIDE, SIDE, 3))
    for cells, weight in ((4, 1.0), (12, 0.7), (40, 0.45), (128, 0.2)):
        coarse = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        resampling = Image.Resampling.NEAREST if random.random() < 0.5 else Image.Resampling.BICUBIC
        total += weight * np.asarray(coarse.resize((SIDE, SIDE), resampling), np.float64)
    scaled: NDArray[np.uint8] = (total / total.max() * 255).astype(np.uint8)
    return scaled


def drawn(folder: Path, count: int, first: int) -> Path:
    """Draw pictures unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        place = folder / f"{number:05}.jpg"
        if not place.exists():
            Image.fromarray(picture(first + number)).save(place, quality=95)
    return folder


def library(pictures: Path, place: Path) -> int:
    """Extract and index pictures; return the number of patches."""
    source, encoder = EncoderSource(), new_encoder(EncoderSource(), "relu3_1", SIDE)[1]
    request = ExtractRequest([str(pictures)], str(place), ExtractConfig(encoder=encoder), source, OPTIONS)
    extract(request, LocalRunner(), no_progress)
    return build_index(str(place), IndexConfig(), OPTIONS, LocalRunner(), no_progress).patches


def timed(photographs: Path, run: Path, choice: Choice, runner: Runner) -> dict[str, float]:
    """Translate, and return seconds of a clock, of this process, and of each stage."""
    shutil.rmtree(run, ignore_errors=True)
    config, sources = choose("knowledge", {"format": "jpg"}, choice)
    request = TranslateRequest([str(photographs)], str(run), config, sources, OPTIONS)
    clock, processor = time.perf_counter(), time.process_time()
    summary = translate(request, runner, no_progress)
    seconds, work = time.perf_counter() - clock, time.process_time() - processor
    return {"seconds": seconds, "processor_seconds": work} | summary.stage_seconds


def compared(folder: Path, photographs: Path, workers: int, times: int) -> dict[str, list[dict[str, float]]]:
    """Return the seconds of each kind of run in each of `times` rounds."""
    halves = [str(folder / "first"), str(folder / "second")]
    both = str(folder / "both")
    cache = str(folder / "cache")
    choices = {
        "one library": Choice(library=both, cache=cache),
        "two libraries": Choice(library=halves, cache=cache),
        "one source": Choice(library=both, draw="random", cache=cache),
    }
    runner: Runner = LocalRunner()
    if workers:
        from kt_batch.runners.ray.runner import RayRunner

        runner = RayRunner(None, workers, 1)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in choices}
    for _ in range(times):
        for name, choice in choices.items():
            found[name].append(timed(photographs, folder / "run", choice, runner))
    runner.close()  # type: ignore[attr-defined]
    return found


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--paintings", type=int, default=200)
    parser.add_argument("--photographs", type=int, default=100)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    half = given.paintings // 2
    patches = []
    for name, count, first in (("first", half, 0), ("second", given.paintings - half, half)):
        patches.append(library(drawn(given.folder / f"{name}-paintings", count, first), given.folder / name))
    if not (given.folder / "both").exists():
        halves = [str(given.folder / name) for name in ("first", "second")]
        merge(MergeRequest(halves, str(given.folder / "both")), no_progress)
    patches.append(build_index(str(given.folder / "both"), IndexConfig(), OPTIONS, LocalRunner(), no_progress).patches)
    photographs = drawn(given.folder / "photographs", given.photographs, 10**6)
    runs = compared(given.folder, photographs, given.workers, given.times)
    measure = "seconds" if given.workers else "processor_seconds"
    base = runs["one library"]
    table = {
        "patches": dict(zip(("first", "second", "both"), patches, strict=True)),
        "photographs": given.photographs,
        "workers": given.workers,
        "runs": {
            name: {key: round(min(each[key] for each in rounds), 3) for key in rounds[0]}
            for name, rounds in runs.items()
        },
        "ratios": {
            name: round(median(each[measure] / one[measure] for each, one in zip(rounds, base, strict=True)), 3)
            for name, rounds in runs.items()
        },
    }
    print(json.dumps(table, indent=1))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
