"""Measure the memory of the packing worker of an index build on one cluster of drawn patches.

    python benchmarks/pack_memory.py --patches 196608 --channels 152 204 --out results/pack_memory.json

No library is needed: a routed file and a top level are written to a temporary folder, and the worker reads them as in a
build, in a process of its own. The hashes of its shard, its subtree and its table of merged patches tell whether two
versions of the code pack alike.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kt_batch.config import IndexConfig, ScaleKey
from kt_batch.kernels.principal import LEVEL_WIDTH, Basis
from kt_batch.kernels.tiles import normalise
from kt_batch.pipelines.index.plan import BuildJob, PackUnit
from kt_batch.pipelines.index.top import Top
from kt_batch.pipelines.index.worker import PackWorker
from kt_batch.store.routed import RoutedFiles, put_routed, record_sorter, record_type

DRAWN = 8192  # patches of a routed file
GROUPS = 300  # around which patches are drawn
COPIES = 50  # of this many patches one is a copy, and one nearly so
STEPS = (  # of packing, in this order
    "_by_id",
    "collapse_equal",
    "ClusterSpace.points_of",
    "_Builder.split",
    "_merged",
    "_deviation_sum",
    "make_shard",
    "write_shard",
)


def job_of(folder: str, patches: int, channels: int, payload: str) -> BuildJob:
    """Return a job of a build whose files are in a folder."""
    config = IndexConfig.model_validate({"payload": payload})
    return BuildJob(folder, "0" * 16, config, ScaleKey("relu3_1", 512), patches, channels, threads=1)


def draw(job: BuildJob) -> tuple[str, str]:
    """Store routed patches of one cluster and its top level, and return the hashes that the worker is given."""
    generator = torch.Generator().manual_seed(0)
    build, values = job.build_location(), 4 * job.channels
    directions = torch.linalg.qr(torch.randn(values, LEVEL_WIDTH - 1, generator=generator)).Q.contiguous()
    groups = torch.randn(GROUPS, LEVEL_WIDTH - 1, generator=generator) @ directions.T
    ids = np.random.default_rng(0).permutation(job.patches)
    outputs = []
    for start in range(0, job.patches, DRAWN):
        count = min(DRAWN, job.patches - start)
        chosen = torch.randint(GROUPS, (count,), generator=generator)
        drawn = groups[chosen] + 0.5 * torch.randn(count, values, generator=generator)
        drawn[COPIES::COPIES] = drawn[: len(drawn[COPIES::COPIES])]
        drawn[COPIES + 1 :: COPIES] = drawn[1 : 1 + len(drawn[COPIES + 1 :: COPIES])] * 1.001
        records = np.zeros(count, record_type(job.channels))
        records["patch_id"][:, 4:] = ids[start : start + count].astype(">u8").view("u1").reshape(-1, 8)
        records["packet"] = drawn.half().view(-1, 4, job.channels).numpy()
        with record_sorter(build, 1, job.channels) as sorter:
            sorter.add(records, np.zeros(count, np.int64))
            outputs.append(put_routed(build, sorter))
    centre = normalise(torch.ones(1, LEVEL_WIDTH - 1))
    spread = torch.full((values,), values**-0.5)
    top = Top(centre, torch.zeros(4, job.channels), Basis(directions, spread))
    return top.put(build), RoutedFiles.find(build, outputs, 1, job.channels).put(build)


class Watch(threading.Thread):
    """Notes the largest resident memory of each step while the main thread packs."""

    def __init__(self) -> None:
        """Watch the thread that makes it."""
        super().__init__(daemon=True)
        self._main = threading.get_ident()
        self.mib: dict[str, int] = {}

    def run(self) -> None:
        """Look two hundred times a second."""
        while True:
            stack = traceback.walk_stack(sys._current_frames()[self._main])  # noqa: SLF001 - documented
            called = {frame.f_code.co_qualname for frame, _ in stack}
            step = next((name for name in STEPS if name in called), "other")
            self.mib[step] = max(self.mib.get(step, 0), memory("VmRSS"))
            time.sleep(0.005)


def memory(name: str) -> int:
    """Return a line of /proc/self/status in MiB. `getrusage` would begin with the peak of the parent process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return round(int(line.split()[1]) / 1024)
    raise KeyError(name)


def pack_one(job: BuildJob, top: str, clusters: str) -> dict[str, Any]:
    """Pack the cluster in this process."""
    worker, alone = PackWorker(job, top, clusters), memory("VmRSS")
    watch = Watch()
    watch.start()
    started = time.process_time()
    receipt = worker(PackUnit("0" * 16, 0, 0))
    seconds = time.process_time() - started
    return {
        "before_mib": alone,
        "peak_mib": memory("VmHWM"),
        "steps_mib": dict(watch.mib),
        "processor_seconds": round(seconds, 1),
        "kept": receipt.patches,
        "sha256": [output[0] for output in receipt.outputs if output] + [table.sha256 for table in receipt.tables],
    }


def main() -> None:
    """Draw, and pack in a process of its own; print all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, default=196608)
    parser.add_argument("--channels", type=int, nargs="+", default=[152, 204])
    parser.add_argument("--payload", default="4bit")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--drawn", nargs=3, help=argparse.SUPPRESS)  # folder and hashes: this is the process that packs
    options = parser.parse_args()
    if options.drawn:
        folder, *hashes = options.drawn
        job = job_of(folder, options.patches, options.channels[0], options.payload)
        print(json.dumps(pack_one(job, *hashes)))
        return
    table = []
    for channels in options.channels:
        with tempfile.TemporaryDirectory() as folder:
            hashes = draw(job_of(folder, options.patches, channels, options.payload))
            setting = {"patches": options.patches, "channels": channels, "payload": options.payload}
            command = [sys.executable, __file__, "--drawn", folder, *hashes]
            for name, value in setting.items():
                command += [f"--{name}", str(value)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            table.append(setting | json.loads(done.stdout))
    text = json.dumps(table, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
