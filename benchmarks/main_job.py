"""Time the main job: extract a collection, index it, translate photographs; rates, stage shares and peak memory.

    python benchmarks/main_job.py --style DIR --photos DIR --work EMPTY_DIR --out results/main_job.json

Each command runs in its own process, as a user starts it, with the local runner.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def run(*words: str) -> tuple[dict[str, Any], float]:
    """Run a command; return its JSON summary and its peak memory in MiB."""
    command = [sys.executable, "-c", "from kt_batch.cli import main; main()", *words, "--json"]
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, stdout=printed)
        _, status, usage = os.wait4(process.pid, 0)
        printed.seek(0)
        text = printed.read()
    if os.waitstatus_to_exitcode(status) not in (0, 3):
        raise SystemExit(f"{' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return json.loads(text), usage.ru_maxrss / 1024


def shares(seconds: dict[str, float]) -> dict[str, float]:
    """Return each stage's share of the sum."""
    total = sum(seconds.values())
    return {stage: round(spent / total, 3) for stage, spent in seconds.items()} if total else {}


def main() -> None:
    """Run the three commands and save their summaries."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--style", required=True)
    parser.add_argument("--photos", nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--swap", default="geometric")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    library, result = str(options.work / "library"), str(options.work / "run")
    table: dict[str, Any] = {}
    for name, words in (
        ("extract", ("extract", options.style, "--library", library)),
        ("index", ("index", library)),
        ("translate", ("translate", *options.photos, "--library", library, "--out", result, "--swap", options.swap)),
    ):
        summary, memory = run(*words)
        table[name] = {**summary, "stage_shares": shares(summary.get("stage_seconds", {})), "peak_mib": round(memory)}
        for place in ("library", "run"):
            table[name].pop(place, None)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(table, indent=1) + "\n")
        print(name, json.dumps(table[name], indent=1), flush=True)


if __name__ == "__main__":
    main()
