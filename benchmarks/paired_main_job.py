"""Compare the main job's wall time in two checkouts, in interleaved pairs.

    python benchmarks/paired_main_job.py --base CHECKOUT --images DIR --out results/paired_main_job.json

DIR holds `style/` with paintings and `content/` with photographs; six of each are taken, always the same ones. One run
is `extract`, `index` and `translate` with the local runner and 2 threads, each command in a process of its own. The
checkouts take turns: base, new, new, base and so on, so that a drift of the machine's speed meets both alike. Each
runs once beforehand, untimed, so that files are in memory and modules are compiled.

The result is the ratio new / base of the seconds of each pair, their median, and their geometric mean with a 95 %
t-interval of the logarithms of the ratios.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
RUN = "from kt_batch.cli import main; main()"  # what the installed script does
COUNT = 6  # paintings, and photographs
SUFFIXES = (".jpg", ".jpeg", ".png")
COMMANDS = ("extract", "index", "translate")

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
T_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def choose(folder: Path) -> list[str]:
    """Return COUNT images below `folder`, evenly spaced in the order of their names.

    Raises:
        SystemExit: There are fewer.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(found) < COUNT:
        raise SystemExit(f"{folder} holds {len(found)} images, fewer than {COUNT}")
    return [str(found[number * len(found) // COUNT]) for number in range(COUNT)]


def run_python(checkout: Path, folder: Path, code: str, words: Sequence[str] = ()) -> str:
    """Run Python code with the package of `checkout` in a process of its own; return its standard output.

    Raises:
        SystemExit: The process ends with another exit code than 0.
    """
    command = [sys.executable, "-P", "-c", code, *words]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{checkout}: {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def run_command(checkout: Path, folder: Path, words: Sequence[str]) -> float:
    """Run one command as the installed script would; return its wall seconds, with its start-up."""
    started = time.perf_counter()
    run_python(checkout, folder, RUN, words)
    return time.perf_counter() - started


def check_package(checkout: Path) -> None:
    """Check that `checkout` runs its own package.

    Raises:
        SystemExit: The package is imported from elsewhere.
    """
    package = run_python(checkout, checkout, "import kt_batch; print(kt_batch.__file__)").strip()
    if not Path(package).resolve().is_relative_to(checkout):
        raise SystemExit(f"kt_batch is imported from {package}, not from {checkout}")


def run_main_job(checkout: Path, paintings: list[str], photographs: list[str]) -> dict[str, float]:
    """Run the three commands in an empty directory; return the seconds of each."""
    with tempfile.TemporaryDirectory(prefix="paired-main-job-") as work:
        library, run = str(Path(work) / "library"), str(Path(work) / "run")
        local = ["--runner", "local", "--threads", "2"]
        words = {
            "extract": ["extract", *paintings, "--library", library, *local],
            "index": ["index", library, *local],
            "translate": ["translate", *photographs, "--library", library, "--out", run, *local],
        }
        return {name: round(run_command(checkout, Path(work), words[name]), 3) for name in COMMANDS}


def summarise(base: Sequence[float], new: Sequence[float]) -> dict[str, Any]:
    """Return ratios, median, geometric mean and its 95 % t-interval for the seconds of n pairs.

    The interval is None for one pair and for more than 31.
    """
    ratios = [after / before for before, after in zip(base, new, strict=True)]
    logarithms = [math.log(ratio) for ratio in ratios]
    mean, interval = statistics.fmean(logarithms), None
    if 2 <= len(ratios) <= len(T_QUANTILES) + 1:
        margin = T_QUANTILES[len(ratios) - 2] * statistics.stdev(logarithms) / math.sqrt(len(ratios))
        interval = [round(math.exp(mean - margin), 4), round(math.exp(mean + margin), 4)]
    return {
        "ratios": [round(ratio, 4) for ratio in ratios],
        "median": round(statistics.median(ratios), 4),
        "geometric_mean": round(math.exp(mean), 4),
        "interval_95": interval,
    }


def measure(checkouts: dict[str, Path], images: Path, pairs: int) -> dict[str, list[dict[str, float]]]:
    """Return the seconds of every run of each checkout, in the order of the pairs."""
    paintings, photographs = choose(images / "style"), choose(images / "content")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for checkout in checkouts.values():
        check_package(checkout)
        run_main_job(checkout, paintings, photographs)
    for number in range(pairs):
        order = list(checkouts) if number % 2 == 0 else list(reversed(checkouts))
        for name in order:
            runs[name].append(run_main_job(checkouts[name], paintings, photographs))
        before, after = (sum(runs[name][-1].values()) for name in checkouts)
        print(f"pair {number + 1}: base {before:.2f} s, new {after:.2f} s, ratio {after / before:.4f}", flush=True)
    return runs


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--new", type=Path, default=HERE, help="default: this checkout")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    checkouts = {"base": options.base.resolve(), "new": options.new.resolve()}
    runs = measure(checkouts, options.images.resolve(), options.pairs)
    totals = {name: [sum(run.values()) for run in runs[name]] for name in checkouts}
    commands = {
        command: summarise([run[command] for run in runs["base"]], [run[command] for run in runs["new"]])
        for command in COMMANDS
    }
    total = summarise(totals["base"], totals["new"])
    print(
        f"new / base: median {total['median']}, geometric mean {total['geometric_mean']}, "
        f"95 % t-interval of the log ratios {total['interval_95']}"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"total": total, "commands": commands, "seconds": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
