"""S3 servers for tests: the mock moto, and the real radosgw of Ceph in memory."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tenacity

from kt_batch.store.locations import Location, open_location

ACCESS_KEY, SECRET_KEY = "testkey", "testsecret"
BINARIES = ("ceph-mon", "ceph-osd", "ceph", "radosgw", "radosgw-admin", "monmaptool")

CEPH_CONF = """
[global]
fsid = {fsid}
monmap = {folder}/monmap
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
osd crush chooseleaf type = 0
ms bind ipv6 = false
ms bind msgr2 = false
run dir = {folder}
log file = {folder}/$name.log
admin socket = {folder}/$name.asok
[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{s3_port}
rgw thread pool size = 32
"""


@dataclass(frozen=True)
class S3Server:
    """A running server; `environment` configures clients for it."""

    endpoint: str
    access_key: str = ACCESS_KEY
    secret_key: str = field(default=SECRET_KEY, repr=False)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def new_location(self, monkeypatch: pytest.MonkeyPatch) -> Location:
        """Return a prefix of a new bucket; set the environment of its clients."""
        from s3fs import S3FileSystem

        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        bucket = f"kt-{secrets.token_hex(6)}"
        S3FileSystem(endpoint_url=self.endpoint).call_s3("create_bucket", Bucket=bucket)
        return open_location(f"s3://{bucket}/some/prefix")


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """Start a fast mock, suitable for everything but races."""
    server_module = pytest.importorskip("moto.server", reason="the moto mock of S3 is not installed")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield S3Server(f"http://{host}:{port}")
    server.stop()


@pytest.fixture(scope="session")
def ceph_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Start a real server: one monitor, one in-memory object daemon and one gateway."""
    absent = [binary for binary in BINARIES if shutil.which(binary) is None]
    if absent:
        pytest.skip(f"{', '.join(absent)} not found: install ceph-mon, ceph-osd, ceph-common and radosgw")
    with ExitStack() as stack:
        yield _enter_ceph(stack, tmp_path_factory)


# A port that was free a moment ago may be taken when a daemon asks for it.
@tenacity.retry(
    retry=tenacity.retry_if_exception_type((RuntimeError, OSError, subprocess.TimeoutExpired, tenacity.RetryError)),
    stop=tenacity.stop_after_attempt(3),
    reraise=True,
)
def _enter_ceph(stack: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> S3Server:
    return stack.enter_context(run_ceph(tmp_path_factory.mktemp("ceph")))


@contextmanager
def run_ceph(folder: Path) -> Iterator[S3Server]:
    """Start Ceph in an empty folder; end every process afterwards."""
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    mon_port, s3_port = _free_ports(2)
    fsid = str(uuid.uuid4())
    config = folder / "ceph.conf"
    config.write_text(CEPH_CONF.format(fsid=fsid, folder=folder, mon_port=mon_port, s3_port=s3_port))
    ours = ["-c", str(config)]
    osd_id = str(uuid.uuid4())
    endpoint = f"http://127.0.0.1:{s3_port}"
    with ExitStack() as daemons:
        monmap = str(folder / "monmap")
        _call(["monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v1:127.0.0.1:{mon_port}]", monmap])
        _call(["ceph-mon", *ours, "--mkfs", "-i", "a", "--monmap", monmap])
        daemons.enter_context(_daemon(["ceph-mon", "-f", *ours, "-i", "a"], folder))
        _call(["ceph", *ours, "--connect-timeout", "60", "osd", "new", osd_id])
        _call(["ceph-osd", *ours, "-i", "0", "--mkfs", "--osd-uuid", osd_id])
        _call(["ceph", *ours, "osd", "crush", "add", "osd.0", "1.0", "root=default"])
        _enter_osd(daemons, ours, folder)
        daemons.enter_context(_daemon(["radosgw", "-f", *ours, "-n", "client.rgw"], folder))
        keys = [f"--access-key={ACCESS_KEY}", f"--secret={SECRET_KEY}"]
        _call(["radosgw-admin", *ours, "user", "create", "--uid=test", "--display-name=test", *keys])
        _wait_for(endpoint)
        yield S3Server(endpoint)


class ObjectDaemonDiedError(Exception):
    """ceph-osd ended before the monitor saw it."""


# ceph-osd 16.2 may abort while it starts: its first command to the monitor can overtake the answer that says who the
# monitor is ("wrong fsid", or "map::at" thrown). Seen in one start of three; we start it again, as a supervisor would.
@tenacity.retry(
    retry=tenacity.retry_if_exception_type(ObjectDaemonDiedError), stop=tenacity.stop_after_attempt(20), reraise=True
)
def _enter_osd(daemons: ExitStack, ours: Sequence[str], folder: Path) -> None:
    """Start the object daemon, and return once the monitor counts it as up."""
    with ExitStack() as this_one:
        process = this_one.enter_context(_daemon(["ceph-osd", "-f", *ours, "-i", "0"], folder))
        give_up = time.monotonic() + 60
        while '"num_up_osds":1' not in _call(["ceph", *ours, "osd", "stat", "--format", "json"]).replace(" ", ""):
            if process.poll() is not None or time.monotonic() > give_up:
                raise ObjectDaemonDiedError((folder / "ceph-osd.out").read_text(errors="replace")[-2000:])
            time.sleep(0.2)
        daemons.enter_context(this_one.pop_all())


@contextmanager
def _daemon(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{command[0]}.out").open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.kill()  # the data is not kept
            process.wait()


def _call(command: Sequence[str]) -> str:
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}: {result.stderr[-2000:]}")
    return result.stdout


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(OSError),
    wait=tenacity.wait_fixed(0.2),
    stop=tenacity.stop_after_attempt(300),
)
def _wait_for(endpoint: str) -> None:
    with urllib.request.urlopen(endpoint, timeout=5):
        pass


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
