"""Three hosts on one machine: network namespaces on a bridge with a Ray node each."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.conftest import COMMAND
from tests.support.ray_local import ray_environment

NUMBERS = (1, 2, 3)  # of the hosts; the head is on the first
PORT = 6379
# The settings of cluster/ by which a lost host is given up.
KEEPALIVE = {
    "RAY_grpc_keepalive_time_ms": "2000",
    "RAY_grpc_keepalive_timeout_ms": "3000",
    "RAY_grpc_client_keepalive_time_ms": "2000",
    "RAY_grpc_client_keepalive_timeout_ms": "3000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_prestart_worker_first_driver": "0",
}
END_OF_CUT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "20"}  # a host without its head ends itself; Ray waits 60 s


def skip_where_there_can_be_none() -> None:
    """Skip the test without root or iproute2, which namespaces need."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces take root")
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` (Debian: iproute2)")
    name = f"kt{secrets.token_hex(3)}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no network namespaces")
    _ip("netns", "del", name)


@dataclass
class Hosts:
    """Three namespaces; `nodes` maps numbers to processes of `ray start --block`."""

    name: str
    folder: Path
    environment: Mapping[str, str]
    nodes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Return the address of the Ray cluster."""
        return f"{self.at(1)}:{PORT}"

    def at(self, number: int) -> str:
        """Return the address of a host."""
        return f"10.77.0.{number}"

    def on(self, number: int, *words: object) -> list[str]:
        """Return a command line that runs on a host with its own `/tmp/ray`."""
        own = self.folder / f"host{number}"
        own.mkdir(exist_ok=True)
        private = f'mount --bind "{own}" /tmp/ray && exec "$@"'
        return [
            "ip",
            "netns",
            "exec",
            f"{self.name}-{number}",
            "unshare",
            "-m",
            "sh",
            "-c",
            private,
            "sh",
            *map(str, words),
        ]

    def cut(self, number: int) -> None:
        """Disconnect a host silently: its link stays up but delivers nothing."""
        _ip("link", "set", f"{self.name}v{number}", "nomaster")

    def kill(self, number: int) -> None:
        """Kill every process of a host."""
        for pid in self._pids(number):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _pids(self, number: int) -> list[int]:
        line = ["ip", "netns", "pids", f"{self.name}-{number}"]
        return [int(pid) for pid in subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()]

    def revive(self) -> None:
        """Connect the hosts that were cut off, and start the nodes that are gone, as new ones."""
        for number in NUMBERS:
            link = f"{self.name}v{number}"
            if not Path(f"/sys/class/net/{link}/master").exists():
                self.kill(number)
                _ip("link", "set", link, "master", self.name, "up")
            if not self.processes(number):
                self.nodes[number].wait()
                self.start(number)
                _wait(self, number)

    def processes(self, number: int) -> dict[int, str]:
        """Return the processes of a host, each with its command line."""
        return {pid: line for pid in self._pids(number) if (line := _command_line(pid))}

    def start(self, number: int) -> None:
        """Start the Ray node of a host."""
        ray = COMMAND.with_name("ray")
        role = (
            ["--head", f"--port={PORT}", "--include-dashboard=false"] if number == 1 else [f"--address={self.address}"]
        )
        line = self.on(
            number, ray, "start", "--block", *role, f"--node-ip-address={self.at(number)}", "--num-cpus=1",
            "--object-store-memory=100000000",
        )  # fmt: skip
        with (self.folder / f"{number}.log").open("wb") as log:
            self.nodes[number] = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **self.environment}
            )


@contextmanager
def three_hosts(settings: Mapping[str, str] | None = None) -> Iterator[Hosts]:
    """Start the hosts with a Ray node each and remove everything afterwards. settings: Further ones of Ray."""
    skip_where_there_can_be_none()
    name = f"k{secrets.token_hex(2)}"
    with ExitStack() as stack:
        environment, folder = stack.enter_context(ray_environment())
        environment = {name: value for name, value in environment.items() if name != "RAY_TMPDIR"}
        hosts = Hosts(name, folder, {**environment, **KEEPALIVE, **END_OF_CUT, **(settings or {})})
        stack.callback(_remove, hosts)
        Path("/tmp/ray").mkdir(exist_ok=True)  # mount point of the private directories
        _ip("link", "add", name, "type", "bridge")
        _ip("link", "set", name, "up")
        for number in NUMBERS:
            space = f"{name}-{number}"
            _ip("netns", "add", space)
            _ip("link", "add", f"{name}v{number}", "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", f"{name}v{number}", "master", name, "up")
            _ip("-n", space, "addr", "add", f"{hosts.at(number)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")
        for number in NUMBERS:
            hosts.start(number)
            _wait(hosts, number)
        yield hosts


def _wait(hosts: Hosts, number: int) -> None:
    """Wait until the node of a host reports that it runs."""
    give_up = time.monotonic() + 60
    log = hosts.folder / f"{number}.log"
    while "Ray runtime started" not in log.read_text(errors="replace"):
        if time.monotonic() > give_up or hosts.nodes[number].poll() is not None:
            raise RuntimeError(f"the node of host {number} does not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)


def _command_line(pid: int) -> str:
    """Return the command line of a process; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _remove(hosts: Hosts) -> None:
    for number in NUMBERS:
        if number in hosts.nodes:
            hosts.kill(number)
            hosts.nodes[number].wait()
        subprocess.run(["ip", "netns", "del", f"{hosts.name}-{number}"], check=False, capture_output=True)
    subprocess.run(["ip", "link", "del", hosts.name], check=False, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
