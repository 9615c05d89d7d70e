"""Time `retouch` on large JPEGs in turn with ffmpeg, which applies the `.cube` of the same edit.

python benchmarks/retouch_speed.py --pairs LIBRARY --photos FOLDER [--count 20] [--out FILE]

Each photograph is enlarged to 12 megapixels once. Then each is edited by a worker of one thread (reading, predicting,
editing, writing; start-up is not counted) and by ffmpeg (its start-up is measured and taken off), one after the other.
Both write 4:4:4 at about the same quality.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from PIL import Image

from kt_batch.cli.lut import write_lut
from kt_batch.pipelines.inputs import find_images, plan_items
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.plan import TranslateJob
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.pipelines.translate.worker import TranslateWorker
from kt_batch.store.locations import open_location
from kt_batch.store.units import Ledger

SIZE = (4000, 3000)


def enlarge(photos: Path, folder: Path, count: int) -> None:
    """Write `count` JPEGs of 12 megapixels."""
    sources = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for number, path in enumerate(sources[:count]):
        with Image.open(path) as image:
            image.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS).save(folder / f"{number:03d}.jpg", quality=92)


def ffmpeg(before: Path, cube: Path, after: Path) -> float:
    """Return the seconds of one ffmpeg process."""
    started = time.perf_counter()
    words = [
        "ffmpeg",
        "-loglevel",
        "error",
        "-y",
        "-threads",
        "1",
        "-i",
        before,
        "-vf",
        f"lut3d={cube},format=yuvj444p",
    ]
    subprocess.run([*map(str, words), "-threads", "1", "-q:v", "2", str(after)], check=True)
    return time.perf_counter() - started


def start_up() -> float:
    """Return the seconds that ffmpeg takes for nothing: the median of five."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(["ffmpeg", "-version"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def measure(pairs: str, folder: Path, work: Path) -> dict[str, object]:
    """Edit every photograph of a folder both ways, in turn."""
    config, sources = choose("retouch", {"format": "jpg"}, Choice(library=pairs))
    place = str(work / "run")
    worker = TranslateWorker(TranslateJob(run=place, config=config, sources=sources, threads=1))
    items = plan_items(find_images([str(folder)], (), no_progress).inputs, no_progress)
    units = Ledger(open_location(place)).plan(items, 1, config.model_dump(mode="json"), config.digest())
    ours, theirs, empty = [], [], start_up()
    for unit in units:
        started = time.perf_counter()
        worker(unit)
        ours.append(time.perf_counter() - started)
        name = unit.items[0].name
        write_lut(place, name, work / "edit.cube", 65, force=True)
        theirs.append(ffmpeg(folder / name, work / "edit.cube", work / "theirs.jpg") - empty)
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    return {
        "photographs": len(units),
        "seconds": round(statistics.median(ours), 3),
        "ffmpeg_seconds": round(statistics.median(theirs), 3),
        "ratio": round(ratio, 3),
        "ffmpeg_start_up": round(empty, 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", required=True, help="a fitted paired library")
    parser.add_argument("--photos", required=True, type=Path, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="kt-batch-retouch-"))
    try:
        (work / "photos").mkdir()
        enlarge(given.photos, work / "photos", given.count)
        found = measure(given.pairs, work / "photos", work)
    finally:
        shutil.rmtree(work)
    text = json.dumps(found, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
