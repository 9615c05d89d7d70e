"""Compare two Ray workers of one thread with two independent processes of one thread, for every stage of the main job.

    python benchmarks/two_workers.py --style DIR --photos DIR --size 256 --out results/two_workers.json

Two processes without Ray work at the same time: each extracts half of the paintings, indexes the whole library (its own
copy of it), and translates half of the photographs. Ray's two workers do the whole once. What is compared is patches or
images a second between the start of the first unit and the commit of the last one, as the log tells them: Ray's
start-up (its seconds are told too) does not grow with the work. Both ways take turns, ROUNDS times.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

COMMANDS = ("extract", "index", "translate")
ROUNDS = 2
RAY = ("--runner", "ray", "--workers", "2")


@dataclass(frozen=True)
class Job:
    """A process that runs one command, and the log of it."""

    process: subprocess.Popen[bytes]
    log: Path


@dataclass(frozen=True)
class Work:
    """The images of one process or of all, in folders of links, and its results.

    library: That is indexed, and that photographs are translated after.
    """

    style: Path
    photos: Path
    folder: Path
    library: Path

    def words(self, command: str, size: int) -> list[str]:
        """Return the words of a command; what is extracted stays in the folder."""
        library = ["--library", str(self.library)]
        return {
            "extract": ["extract", str(self.style), "--library", str(self.folder / "extracted"), "--size", str(size)],
            "index": ["index", str(self.library)],
            "translate": ["translate", str(self.photos), *library, "--out", str(self.folder / "run")],
        }[command]


def start(work: Work, command: str, size: int, runner: Sequence[str]) -> Job:
    """Start a command in a process of its own."""
    log = work.folder / f"{command}.jsonl"
    words = [*work.words(command, size), "--threads", "1", *runner, "--log-file", str(log)]
    code = "from kt_batch.cli import main; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return Job(subprocess.Popen([sys.executable, "-c", code, *words], env=environment, **quiet), log)  # type: ignore[call-overload]


def measured(job: Job) -> dict[str, float]:
    """Wait for a process; return its units' patches or images a second, and the seconds before the first one."""
    if status := job.process.wait():
        raise SystemExit(f"{job.log}: the command ended with {status}")
    events = [json.loads(line) for line in job.log.read_text().splitlines()]
    begun = [_time(event) for event in events if event["event"] == "unit_started"]
    ended = [_time(event) for event in events if event["event"] == "unit_committed"]
    seconds = max(ended) - min(begun)
    return {"seconds": seconds, "before": min(begun) - _time(events[0])}


def _time(event: dict[str, str]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def links(folder: Path, images: Sequence[Path]) -> Path:
    """Return a new folder with links to images."""
    folder.mkdir(parents=True)
    for image in images:
        (folder / f"{image.parent.name}-{image.name}").symlink_to(image.resolve())
    return folder


def some(folder: Path, count: int) -> list[Path]:
    """Return `count` images below a folder, evenly spaced in the order of their names."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return [found[number * len(found) // count] for number in range(count)]


def one_round(style: Sequence[Path], photos: Sequence[Path], size: int, folder: Path) -> dict[str, dict[str, float]]:
    """Return for each command the ratio of the rates, the seconds of both ways, and of Ray's start-up."""
    parts = {"both": slice(None), "0": slice(0, None, 2), "1": slice(1, None, 2)}
    both, *halves = (
        Work(
            links(folder / name / "style", style[part]),
            links(folder / name / "photos", photos[part]),
            folder / name,
            folder / name / "library",
        )
        for name, part in parts.items()
    )
    rows = {}
    for command in COMMANDS:
        if command == "index":
            for work in (both, *halves):
                shutil.copytree(both.folder / "extracted", work.library)
        with_ray = measured(start(both, command, size, RAY))
        jobs = [start(work, command, size, ()) for work in halves]
        share = 1 if command == "index" else 0.5  # of the whole work that a process does
        rate = sum(share / measured(job)["seconds"] for job in jobs)
        rows[command] = {
            "ratio": 1 / with_ray["seconds"] / rate,
            "ray_seconds": with_ray["seconds"],
            "two_processes_seconds": 1 / rate,
            "ray_start_up_seconds": with_ray["before"],
        }
    return rows


def main() -> None:
    """Measure all commands in turn; print and save the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--images", type=int, default=32, help="paintings, and photographs; an even number")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    style, photos = some(options.style, options.images), some(options.photos, options.images)
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            for command, row in one_round(style, photos, options.size, Path(folder)).items():
                rows[command].append(row)
                print(command, {name: round(value, 2) for name, value in row.items()}, flush=True)
    table = {
        command: {name: round(statistics.median(row[name] for row in found), 3) for name in found[0]}
        for command, found in rows.items()
    }
    print(json.dumps(table, indent=1))
    options.out.write_text(json.dumps({"images": options.images, "size": options.size, **table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
