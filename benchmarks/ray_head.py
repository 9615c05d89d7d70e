"""A Ray head on this machine as cluster/README.md starts one, jobs for it, and the memory of its processes.

A part of `served_rehearsal.py`; it starts nothing by itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = ("kt_batch", "jobs", "pyproject.toml")  # that a job takes along
KINDS = {"worker": b"ray::WorkerActor", "owner": b"ray::_KeeperActor"}  # how Ray names processes
POLL_SECONDS = 0.5
START_SECONDS = 120


def free_ports(count: int) -> list[int]:
    """Return ports that are free now."""
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in listening]
    for each in listening:
        each.close()
    return ports


@dataclass
class Head:
    """A running head: the environment of who submits to it, and the folder of its files."""

    environment: Mapping[str, str]
    folder: Path

    def job(self, *words: object) -> tuple[int, str]:
        """Submit a job with the code of this checkout, and wait for it; return its exit code and what it said."""
        ray = str(Path(sys.executable).with_name("ray"))
        line = [ray, "job", "submit", "--working-dir", self.folder / "checkout", "--", "python", *words]
        done = subprocess.run(
            [str(word) for word in line],
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout


@contextmanager
def head(folder: Path, cpus: int) -> Iterator[Head]:
    """Start a head with a token, with its files in an empty folder with a short name; end it afterwards."""
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in CODE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, checkout / name)
    gcs, dashboard, agent, client = free_ports(4)
    environment = {
        "HOME": str(folder),
        "RAY_TMPDIR": str(folder),
        "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    line = (
        f". {ROOT}/cluster/environment.sh; unset RAY_ADDRESS; ray get-auth-token --generate > /dev/null; "
        f"exec ray start --head --port={gcs} --dashboard-host=127.0.0.1 --dashboard-port={dashboard} --num-cpus={cpus} "
        f"--dashboard-agent-listen-port={agent} --ray-client-server-port={client} --block"
    )
    log = folder / "head.log"
    with log.open("wb") as output:
        own = {**os.environ, **environment}
        node = subprocess.Popen(["sh", "-ec", line], stdout=output, stderr=output, env=own, start_new_session=True)
    try:
        _wait(log, node, dashboard)
        yield Head({**environment, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}, folder)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGTERM)
        try:
            node.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()


def _wait(log: Path, node: subprocess.Popen[bytes], dashboard: int) -> None:
    """Wait until a head runs and takes jobs. Raises SystemExit with its log where it does not come up."""
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up and node.poll() is None:
        if "Ray runtime started" in log.read_text(errors="replace"):
            with suppress(OSError), socket.create_connection(("127.0.0.1", dashboard), 1):
                return
        time.sleep(POLL_SECONDS)
    raise SystemExit(f"the head does not start: {log.read_text(errors='replace')[-2000:]}")


@dataclass
class Memory:
    """The most memory of a process of each kind, in bytes, and how many were seen, while `watch` runs.

    resident: Files that processes share are in it. private: Without them.
    """

    folder: Path
    resident: dict[str, int] = field(default_factory=dict)
    private: dict[str, int] = field(default_factory=dict)
    seen: dict[str, set[int]] = field(default_factory=dict)

    @contextmanager
    def watch(self) -> Iterator[Memory]:
        """Look at the processes of the head in `folder` every POLL_SECONDS, within the block."""
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(POLL_SECONDS):
                self._look()

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield self
        finally:
            ended.set()
            watcher.join()

    def _look(self) -> None:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                line = (process / "cmdline").read_bytes()
                kind = next((kind for kind, name in KINDS.items() if line.startswith(name)), None)
                if kind is None or str(self.folder).encode() not in (process / "environ").read_bytes():
                    continue
                self.seen.setdefault(kind, set()).add(int(process.name))
                fields = dict(row.split(":", 1) for row in (process / "status").read_text().splitlines() if ":" in row)
                for found, name in ((self.resident, "VmHWM"), (self.private, "RssAnon")):
                    found[kind] = max(found.get(kind, 0), int(fields[name].split()[0]) * 1024)

    def figures(self) -> dict[str, dict[str, int]]:
        """Return by kind how many processes there were, and the most megabytes of one."""
        return {
            kind: {
                "processes": len(pids),
                "peak_resident_mb": round(self.resident[kind] / 1e6),
                "peak_private_mb": round(self.private[kind] / 1e6),
            }
            for kind, pids in sorted(self.seen.items())
        }
