"""Measure what a cluster that loses a node every two minutes gets done of what it would get done undisturbed.

    python benchmarks/goodput.py --photos DIR --paintings DIR --out results/goodput.json
        [--interval 120] [--count 1500] [--library-count 200] [--size 128] [--unit-size 8] [--folder PLACE]

Three hosts with one CPU each, network namespaces of this machine (as root), share an index that none of them may
hold, and translate photographs that `varied_images.py` makes: once undisturbed, and once losing a host after every
`--interval` seconds. Every process of the second and of the third in turn is killed, its worker and its part of the
index among them, and a new node joins in its place. The first host has the driver and Ray's head, and stays. Goodput
is the seconds of the undisturbed command over those of the other; both runs must have one digest. New nodes start on
the cores that all hosts share, so a cluster of real machines loses less.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from served_rehearsal import index_of, least_memory
from varied_images import write_varied

from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import no_progress
from tests.support.three_hosts import NUMBERS, Hosts, three_hosts

OWNERS = WORKERS = len(NUMBERS)
COMMAND = (sys.executable, "-m", "kt_batch")


def build(options: argparse.Namespace, place: Path) -> None:
    """Make the images and the library."""
    write_varied(options.photos, place / "photos", options.count, options.size)
    write_varied(options.paintings, place / "paintings", options.library_count, options.size, seed=1)
    library = str(place / "library")
    extract = ("extract", str(place / "paintings"), "--library", library, "--size", str(options.size))
    for words in (extract, ("index", library)):
        subprocess.run([*COMMAND, *words, "--threads", "1"], check=True, stdout=subprocess.DEVNULL)


def translate(hosts: Hosts, place: Path, run: Path, interval: float | None, unit_size: int) -> dict[str, Any]:
    """Translate on the hosts, which lose one after every `interval` seconds; return the figures of the command."""
    most = least_memory(index_of(place / "library"), OWNERS)
    words = ("translate", place / "photos", "--library", place / "library", "--out", run, "--runner", "ray")
    how = ("--address", hosts.address, "--workers", WORKERS, "--threads", 1, "--unit-size", unit_size)
    memory = ("--index-memory", f"{most / 1e6:.6f}MB", "--json")
    log = run.with_suffix(".log")
    began = time.perf_counter()
    with subprocess.Popen(
        hosts.on(1, *COMMAND, *words, *how, *memory, "--log-file", log),
        env={**os.environ, **hosts.environment},
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        losses = [] if interval is None else lose(hosts, driver, interval)
        out, _ = driver.communicate()
    seconds = time.perf_counter() - began
    if driver.returncode:
        raise SystemExit(f"the translation ended with {driver.returncode}: {out}")
    logged = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    events, summary = [event["event"] for event in logged], json.loads(out)
    commits = sorted(
        datetime.fromisoformat(event["time"]).timestamp() for event in logged if event["event"] == "unit_committed"
    )
    return {
        "seconds": round(seconds, 1),
        "hosts_lost": len(losses),
        "seconds_without_commit": [round(longest_pause(commits, loss, loss + (interval or 0)), 1) for loss in losses],
        "images": summary["images"],
        "rejected": summary["rejected"],
        "workers_lost": events.count("worker_lost"),
        "units_retried": events.count("unit_retried"),
        "owners": summary["owners"],
    }


def longest_pause(times: Sequence[float], begin: float, end: float) -> float:
    """Return the longest time without one of the ascending times, between `begin` and the last before `end`."""
    within = [begin, *(each for each in times if begin < each <= end)]
    return max((later - earlier for earlier, later in itertools.pairwise(within)), default=0.0)


def lose(hosts: Hosts, driver: subprocess.Popen[str], interval: float) -> list[float]:
    """Kill the last two hosts in turn, one after each interval, and start a new node each time; return when."""
    losses: list[float] = []
    for number in itertools.cycle(NUMBERS[1:]):
        try:
            driver.wait(interval)
        except subprocess.TimeoutExpired:
            losses.append(time.time())
            hosts.kill(number)
            hosts.revive()
            print(f"host {number} was lost, and has a new node", file=sys.stderr)
        else:
            break
    return losses


def measure(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Run both, compare their digests, and return the figures."""
    build(options, place)
    found: dict[str, Any] = {}
    digests = []
    for name, interval in (("undisturbed", None), ("disturbed", options.interval)):
        with three_hosts() as hosts:
            found[name] = translate(hosts, place, place / name, interval, options.unit_size)
        digests.append(verify(str(place / name), no_progress).digest)
    if len(set(digests)) != 1:
        raise SystemExit(f"the runs have different digests: {digests}")
    return {
        "cores": os.cpu_count(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "hosts": len(NUMBERS),
        "pixels": options.size,
        "interval_seconds": options.interval,
        "same_digest": True,
        "goodput": round(found["undisturbed"]["seconds"] / found["disturbed"]["seconds"], 3),
        **found,
    }


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("photos", "paintings", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--interval", type=float, default=120.0, help="seconds between two losses")
    for name, default in {"count": 1500, "library-count": 200, "size": 128, "unit-size": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", help="where the images, the library and the runs are kept for the time being")
    options = parser.parse_args()
    if options.folder:
        Path(options.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="goodput-", dir=options.folder) as place:
        figures = measure(options, Path(place))
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
