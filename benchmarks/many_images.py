"""Translate many small images through the real commands: memory, open files and time spent outside the computation.

    python benchmarks/many_images.py --work DIR --out results/many_images.json [CASE ...]

Makes seeded images in nested folders and a library of a few larger ones, then translates in a separate process, as a
user starts it, and samples that process and its descendants every second. A case that takes longer than --minutes gets
SIGTERM; the same command then resumes and measures the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from kt_batch.report.run_report import run_report
from kt_batch.store.opening import open_run
from kt_batch.store.receipts import Receipt

COMPUTE = ("encode", "search", "swap", "decode")  # stages of computation; all others are orchestration
WARM_UP = 0.2  # share of the images after which memory should be flat
KINDS = (  # kinds of process, by a word of the command line
    ("decoder", "kt_batch.store.images.reader_child"),
    ("worker", "ray::WorkerActor"),
    ("heart", "ray::HeartbeatMonitor"),
    ("raylet", "raylet/raylet"),
    ("gcs", "gcs/gcs_server"),
)


@dataclass(frozen=True)
class Case:
    """Images of random sides between `sides`, in pixels, translated at working size `size`."""

    images: int
    sides: tuple[int, int]
    size: int
    runner: str
    threads: int
    unit_size: int = 8


CASES = {
    "small-ray": Case(20_000, (48, 64), 64, "ray", threads=1, unit_size=64),
    "small-local": Case(4000, (48, 64), 64, "local", threads=2, unit_size=64),
    "larger-ray": Case(60, (256, 320), 256, "ray", threads=1),
}


def main() -> None:
    """Run the cases and save their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--work", type=Path, required=True, help="where images, library and runs are made and kept")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file, to which cases are added")
    parser.add_argument("--images", type=int, help="instead of what the case says")
    parser.add_argument("--unit-size", type=int, help="instead of 8")
    parser.add_argument("--minutes", type=float, default=14.0, help="for each case")
    options = parser.parse_args()
    unknown = sorted(set(options.cases) - CASES.keys())
    if unknown:
        parser.error(f"there is no case {unknown[0]}; there are {', '.join(CASES)}")
    for name in options.cases or CASES:
        given = {key: getattr(options, key) for key in ("images", "unit_size") if getattr(options, key)}
        figures = measure(name, replace(CASES[name], **given), options.work, 60 * options.minutes)
        table = json.loads(options.out.read_text()) if options.out.exists() else {}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({**table, name: figures}, indent=1) + "\n")
        print(f"\n{name}\n{as_text(figures)}", flush=True)


# ---- inputs ----------------------------------------------------------------------------------------------------------


def draw(place: Path, sides: tuple[int, int], number: int) -> None:
    """Draw soft picture `number`, unless it exists."""
    path = place / f"{number // 1000:03d}" / f"{number // 100 % 10}" / f"{number:06d}.png"
    if path.exists():
        return
    random = np.random.default_rng([number, *sides])
    width, height = (int(side) for side in random.integers(sides[0], sides[1] + 1, 2))
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(temporary, "PNG", compress_level=1)
    temporary.rename(path)


def drawn(place: Path, count: int, sides: tuple[int, int]) -> Path:
    """Draw `count` pictures; return their folder."""
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(draw, place, sides), range(count), chunksize=256))
    return place


def kt_batch(*words: object) -> list[str]:
    """Return the command line of `kt-batch WORDS`."""
    return [sys.executable, "-c", "from kt_batch.cli import main; main()", *map(str, words)]


def library(work: Path) -> Path:
    """Make an indexed library of 16 pictures; the commands skip finished work."""
    place = work / "library"
    pictures = drawn(work / "style", 16, (128, 160))
    for words in (("extract", pictures, "--library", place, "--size", 128), ("index", place)):
        subprocess.run(kt_batch(*words), check=True, stdout=subprocess.DEVNULL)
    return place


# ---- watching --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One process at one moment.

    `own_mib` is anonymous memory, without pages of files, which the system may reclaim; `resident_mib` includes them.
    """

    at: float
    kind: str
    pid: int
    own_mib: float
    resident_mib: float
    open_files: int


def kind_of(process: psutil.Process, driver: int) -> str:
    """Return the kind of a process."""
    if process.pid == driver:
        return "driver"
    line = " ".join(process.cmdline())
    return next((kind for kind, word in KINDS if word in line), "other Ray")


def look(driver: psutil.Process) -> list[Sample]:
    """Sample all processes of the tree; skip those that end meanwhile."""
    samples = []
    for process in [driver, *driver.children(recursive=True)]:
        try:
            memory = resident(process.pid)
            kind = kind_of(process, driver.pid)
            samples.append(Sample(time.time(), kind, process.pid, *memory, process.num_fds()))
        except (psutil.Error, OSError, KeyError):
            continue
    return samples


def resident(pid: int) -> tuple[float, float]:
    """Return anonymous and all resident memory of a process in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
    return kib["RssAnon"] / 1024, kib["VmRSS"] / 1024


def watched(command: list[str], environment: dict[str, str], seconds: float) -> tuple[float, float, list[Sample], str]:
    """Run a command to its end; return its start and end times, the samples, and its output."""
    samples: list[Sample] = []
    with tempfile.TemporaryFile("w+") as printed:
        began = time.time()
        process = psutil.Popen(command, stdout=printed, env=environment)
        stopped = False
        while process.poll() is None:
            samples += look(process)
            if not stopped and time.time() - began > seconds:
                process.send_signal(signal.SIGTERM)
                stopped = True
            time.sleep(1.0)
        ended = time.time()
        printed.seek(0)
        text = printed.read()
    if process.returncode not in (0, 3) and not stopped:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return began, ended, samples, text


# ---- the measurement -------------------------------------------------------------------------------------------------


def measure(name: str, case: Case, work: Path, seconds: float) -> dict[str, Any]:
    """Translate the images of a case and sample its processes."""
    photos = drawn(work / "photos" / f"{case.sides[0]}-{case.sides[1]}-{case.images}", case.images, case.sides)
    run = work / f"run-{name}-{case.images}-{case.unit_size}"
    before = set(open_run(str(run)).committed.receipts) if run.exists() else set()
    words = ["translate", photos, "--library", library(work), "--out", run, "--size", case.size, "--json"]
    words += ["--runner", case.runner, "--threads", case.threads, "--unit-size", case.unit_size]
    with tempfile.TemporaryDirectory(prefix="kt-", dir="/tmp") as short:  # a Ray of our own, its socket paths short
        environment = {**os.environ, "RAY_TMPDIR": short, "RAY_USAGE_STATS_ENABLED": "0"}
        environment.pop("RAY_ADDRESS", None)
        began, ended, samples, _ = watched(kt_batch(*words), environment, seconds)
    receipts = [receipt for unit, receipt in open_run(str(run)).committed.receipts.items() if unit not in before]
    if not receipts:
        raise SystemExit(f"{run} is done already; remove it to measure it again")
    return {
        **asdict(case),
        "sizes": "working images of at most this long side",
        "processors": os.cpu_count(),
        "images_done": sum(receipt.images for receipt in receipts),
        "images_done_before": case.images - sum(len(receipt.outputs) for receipt in receipts),
        **shares(receipts, began, ended),
        "processes": processes(samples, receipts),
        "report_images_per_second": getattr(run_report(str(run)).throughput, "images_per_second", None),
    }


def shares(receipts: list[Receipt], began: float, ended: float) -> dict[str, Any]:
    """Divide the wall time of all workers by stage, from start to exit and from the first unit to the last."""
    workers = len({receipt.worker for receipt in receipts})
    images = sum(receipt.images for receipt in receipts)
    stages: defaultdict[str, float] = defaultdict(float)
    for receipt in receipts:
        for stage, spent in receipt.timings.items():
            stages[stage] += spent
    first = min((receipt.finished or 0) - sum(receipt.timings.values()) for receipt in receipts)
    last = max(receipt.finished or 0 for receipt in receipts)
    work = sum(stages[stage] for stage in COMPUTE)
    wall, busy = workers * (ended - began), workers * (last - first)
    return {
        "workers": workers,
        "wall_seconds": round(ended - began, 2),
        "start_up_seconds": round(first - began, 2),
        "finish_seconds": round(ended - last, 2),
        "images_per_second": round(images / (ended - began), 3),
        "stage_seconds": {stage: round(spent, 2) for stage, spent in stages.items()},
        "milliseconds_per_image": {stage: round(1000 * spent / images, 2) for stage, spent in stages.items()},
        "orchestration_share": round(1 - work / wall, 4),
        "orchestration_share_between_first_and_last_unit": round(1 - work / busy, 4),
        "read_share": round(stages["read"] / wall, 4),
        "write_share": round(stages["write"] / wall, 4),
        "between_units_share": round((busy - sum(stages.values())) / wall, 4),
    }


def processes(samples: list[Sample], receipts: list[Receipt]) -> dict[str, Any]:
    """Return memory and open files after warm-up and at the end, for each kind of process."""
    finished = sorted((receipt.finished or 0, receipt.images) for receipt in receipts)
    times, done = np.array([at for at, _ in finished]), np.cumsum([images for _, images in finished])
    warm, last = float(times[np.searchsorted(done, WARM_UP * done[-1])]), float(times[-1])
    kinds = {}
    for kind in sorted({sample.kind for sample in samples}):
        own = [sample for sample in samples if sample.kind == kind and warm <= sample.at <= last]
        if not own:
            continue
        kinds[kind] = {
            "processes": len({sample.pid for sample in own}),
            **{field: flatness(own, field, times, done) for field in ("own_mib", "resident_mib", "open_files")},
        }
    return kinds


def flatness(
    samples: list[Sample], field: str, times: np.ndarray[Any, Any], done: np.ndarray[Any, Any]
) -> dict[str, Any]:
    """Return the mean of the first and last tenth of the samples, the maximum, the slope, and means of 20 stretches."""
    at = np.array([sample.at for sample in samples])
    values = np.array([getattr(sample, field) for sample in samples], dtype=np.float64)
    order = np.argsort(at, kind="stable")
    values, images = values[order], np.interp(at[order], times, done)
    tenth = max(1, len(values) // 10)
    spread = float(np.ptp(images))
    slope = float(np.polyfit(images, values, 1)[0]) * 1000 if spread else 0.0
    return {
        "warm": round(float(values[:tenth].mean()), 2),
        "end": round(float(values[-tenth:].mean()), 2),
        "highest": round(float(values.max()), 2),
        "per_1000_images": round(slope, 4),
        "course": [round(float(part.mean()), 2) for part in np.array_split(values, 20) if len(part)],
    }


def as_text(run: dict[str, Any]) -> str:
    """Return the figures as text."""
    lines = [
        (
            f"  {run['images_done']} images at {run['size']} px, {run['runner']}, {run['workers']} workers of "
            f"{run['threads']} threads: {run['wall_seconds']:.1f} s, {run['images_per_second']:.2f} images/s"
        ),
        f"  start-up {run['start_up_seconds']:.1f} s, finish {run['finish_seconds']:.1f} s",
        (
            f"  orchestration {run['orchestration_share']:.1%} of the wall time "
            f"({run['orchestration_share_between_first_and_last_unit']:.1%} between the first unit and the last): "
            f"read {run['read_share']:.1%}, write {run['write_share']:.1%}, "
            f"between units {run['between_units_share']:.1%}"
        ),
        "  ms per image: " + ", ".join(f"{k} {v:.1f}" for k, v in run["milliseconds_per_image"].items()),
        (
            f"  {'each process of':<16}{'':>4}{'MiB warm':>10}{'at the end':>11}{'per 1000':>10}"
            f"{'files warm':>12}{'at the end':>11}{'highest':>9}"
        ),
    ]
    for kind, row in run["processes"].items():
        memory, files = row["own_mib"], row["open_files"]
        lines.append(
            f"  {kind:<16}{row['processes']:>4}{memory['warm']:>10.1f}{memory['end']:>11.1f}"
            f"{memory['per_1000_images']:>+10.3f}{files['warm']:>12.1f}{files['end']:>11.1f}{files['highest']:>9.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
