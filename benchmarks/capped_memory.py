"""Time translations whose memory is capped, so that an ever smaller share of the index can stay in it.

    python benchmarks/capped_memory.py LIBRARY --photos IMAGES --out results/capped_memory.json

Each run is `kt-batch translate` in a control group of its own (version 1 of Linux's memory controller; root), after the
kernel's cache of files was dropped. The cap is the process's own memory without files, as the run without a cap shows
it, and a share of the index's bytes. A share of 0.95 is just under what the index needs; a run may also be killed,
which is told.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GROUPS = Path("/sys/fs/cgroup/memory")
SHARES = (0.95, 0.5, 0.25)
ROUNDS = 3
UNLIMITED = -1
LOOKS = 0.1  # seconds between two


def translate(library: str, photos: Sequence[str], cap: int) -> dict[str, Any]:
    """Translate photographs with a cap in bytes; return seconds, megabytes read, and own megabytes without files."""
    group = GROUPS / f"kt-batch-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(cap))
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("1")
        with tempfile.TemporaryDirectory() as folder:
            words = ["translate", *photos, "--library", library, "--out", f"{folder}/run", "--threads", "1", "--json"]
            join = f"import os; open('{group}/cgroup.procs', 'w').write(str(os.getpid()))"
            code = f"{join}; from kt_batch.cli import main; main()"
            begun, own = time.perf_counter(), 0
            with Path(folder, "json").open("w+") as printed:
                process = subprocess.Popen(
                    [sys.executable, "-c", code, *words], stdout=printed, stderr=subprocess.DEVNULL
                )
                while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
                    own = max(own, _own_bytes(group))
                    time.sleep(LOOKS)
                seconds = time.perf_counter() - begun
                printed.seek(0)
                lines = printed.read()
        status, usage = os.waitstatus_to_exitcode(ended[1]), ended[2]
        inside = json.loads(lines)["stage_seconds"] if status == 0 else {}
        return {
            "status": status,
            "seconds": round(seconds, 2),
            "stages": inside,
            "megabytes_read": round(usage.ru_inblock * 512 / 1e6),
            "own_megabytes": round(own / 1e6),
        }
    finally:
        _remove(group)


def _own_bytes(group: Path) -> int:
    lines = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(lines["total_rss"])


def _remove(group: Path) -> None:
    """Remove a control group; the kernel may hold it for a moment after its last process."""
    for _ in range(50):
        try:
            group.rmdir()
        except OSError:
            time.sleep(LOOKS)
        else:
            return


def main() -> None:
    """Measure without and with caps in turn; print and save medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--photos", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    index = sum(path.stat().st_size for path in Path(options.library).rglob("shards/*"))
    if not index:
        raise SystemExit(f"'{options.library}' has no index; make one with kt-batch index.")
    free = translate(options.library, options.photos, UNLIMITED)
    caps = {share: int(free["own_megabytes"] * 1e6 + share * index) for share in SHARES}
    rows: dict[str, list[dict[str, Any]]] = {"no cap": [], **{str(share): [] for share in SHARES}}
    for _ in range(ROUNDS):
        for name, cap in (("no cap", UNLIMITED), *((str(share), cap) for share, cap in caps.items())):
            rows[name].append(translate(options.library, options.photos, cap))
            print(name, rows[name][-1], flush=True)
    base = statistics.median(row["seconds"] for row in rows["no cap"])
    table = {
        name: {
            "ratio": round(statistics.median(row["seconds"] for row in found) / base, 3),
            "killed": sum(row["status"] != 0 for row in found),
            **{key: statistics.median(row[key] for row in found) for key in ("seconds", "megabytes_read")},
        }
        for name, found in rows.items()
    }
    content = {"index_megabytes": round(index / 1e6), "own_megabytes": free["own_megabytes"], "share": table}
    print(json.dumps(content, indent=1))
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
