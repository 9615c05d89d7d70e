"""Run the commands of cluster/README.md for nodes started by hand, on real Ray and S3.

The test replaces HEAD and BUCKET, and the ports, since another Ray may run on this machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray._private.services
from s3fs import S3FileSystem

from kt_batch.store.locations import open_location
from kt_batch.store.units import Ledger
from tests.e2e.conftest import ROOT, Ended, Small, run
from tests.e2e.test_real_images import free_ports, wait_for
from tests.support.s3_server import S3Server, moto_server  # noqa: F401  # the fixture
from tests.support.tiny import rows

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

README = (ROOT / "cluster/README.md").read_text(encoding="utf-8")
CHAPTER = README.split("\n## Nodes started by hand\n")[1].split("\n## ")[0]
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", CHAPTER, re.DOTALL | re.MULTILINE)
SHIPPED = "0.1.0+shipped"  # the version of the code in the working directory, which differs from the installed one


class NoNodeError(Exception):
    """`ray start` ended or printed nothing."""


@dataclass
class Place:
    """A checkout and the environment of its user."""

    checkout: Path
    environment: Mapping[str, str]
    words: Mapping[str, str]

    def line(self, block: str) -> list[str]:
        """Return a block of the chapter as a shell command line."""
        for word, meant in self.words.items():
            block = block.replace(word, meant)
        return ["sh", "-ec", block]

    def follow(self, block: str) -> Ended:
        """Run a block until it ends."""
        return run(*self.line(f"cd {self.checkout}\n{block}"), environment=self.environment)

    @contextmanager
    def stay(self, block: str, log: Path) -> Iterator[None]:
        """Run a block that starts a node in the foreground; end the node by SIGTERM afterwards."""
        with log.open("wb") as output:
            node = subprocess.Popen(
                self.line(block),
                cwd=self.checkout,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        try:
            give_up = time.monotonic() + 120
            while "Ray runtime started" not in log.read_text(errors="replace"):
                if node.poll() is not None or time.monotonic() > give_up:
                    raise NoNodeError(log.read_text(errors="replace"))
                time.sleep(0.2)
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGTERM)
            try:
                node.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()


@pytest.fixture
def place(small: Small, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:  # noqa: F811
    """A copy of the checkout with its own version and home, and a bucket of images."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)  # another test may run a Ray, whose token would be found
    folder = Path(tempfile.mkdtemp(prefix="kt-readme-"))  # short: socket paths may not be long
    try:
        checkout = folder / "checkout"
        ignored = shutil.ignore_patterns("__pycache__")
        for name in ("kt_batch", "jobs", "cluster"):
            shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
        for name in ("pyproject.toml", ".gitignore"):
            shutil.copy(ROOT / name, checkout / name)
        code = checkout / "kt_batch/__init__.py"
        code.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{SHIPPED}"', code.read_text()))
        store = S3FileSystem(
            endpoint_url=moto_server.endpoint, key=moto_server.access_key, secret=moto_server.secret_key
        )
        bucket = f"bucket-{os.getpid()}"
        store.call_s3("create_bucket", Bucket=bucket)
        for name, images in (("paintings", small.paintings), ("photos", small.photos)):
            for image in images.iterdir():
                store.pipe_file(f"{bucket}/{name}/{image.name}", image.read_bytes())
        store.pipe_file(f"{bucket}/photos/bad.jpg", b"no image")
        gcs, dashboard = free_ports(2)
        words = {
            "HEAD": ray._private.services.get_node_ip_address(),
            "BUCKET": bucket,
            "6379": str(gcs),
            "8265": str(dashboard),
        }
        environment = {
            **moto_server.environment,
            "HOME": str(folder),
            "RAY_TMPDIR": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        yield Place(checkout, environment, words)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def beside_others(block: str) -> str:
    """Add to `ray start` the options that two nodes on one machine cannot share.

    These are the ports, and the directory in which each node unpacks and removes the code of jobs.
    """
    agent, client = free_ports(2)
    own = f"--num-cpus=1 --dashboard-agent-listen-port={agent}"
    if "--head" in block:
        own += f" --dashboard-port=8265 --ray-client-server-port={client}"
    else:
        own += " --temp-dir=$HOME/other"
    return block.replace("ray start ", f"ray start {own} ")


def test_the_chapter_has_a_token_two_kinds_of_node_and_jobs() -> None:
    assert len(BLOCKS) == 4
    assert [line for block in BLOCKS for line in block.splitlines() if line.startswith("ray job submit")]
    assert "get-auth-token" in BLOCKS[0]
    assert "ray start --head" in BLOCKS[1]
    assert "ray start --address=HEAD:6379" in BLOCKS[2]


def test_the_commands_of_the_chapter_work(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, head, other, jobs = BLOCKS
    with ExitStack() as nodes:
        assert place.follow(token).code == 0
        nodes.enter_context(place.stay(beside_others(head), tmp_path / "head.log"))
        nodes.enter_context(place.stay(beside_others(other), tmp_path / "other.log"))
        wait_for(f"http://127.0.0.1:{place.words['8265']}/api/version")
        ended = place.follow(jobs)
        assert ended.code == 0, ended.out + ended.err
        again = place.follow(jobs)
        assert again.code == 0, again.out + again.err
    assert "nothing to do: everything was translated already" in again.out
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    bucket = place.words["BUCKET"]
    made = Ledger(open_location(f"s3://{bucket}/run"))
    assert sum(receipt.images for receipt in made.receipts().values()) == 3
    assert {receipt.numerics["kt_batch"] for receipt in made.receipts().values()} == {SHIPPED}
    (reject,) = rows(f"s3://{bucket}/run", "rejects")
    events = [json.loads(line) for line in ended.out.splitlines() if line.startswith("{")]
    (rejected,) = [event for event in events if event["event"] == "image_rejected"]
    assert (rejected["uri"], rejected["reason"]) == (reject["uri"], reject["reason"])
    assert {rejected["unit"]} <= made.receipts().keys()
    said = ended.out + ended.err + again.out + again.err
    secrets = [
        Path(place.environment["HOME"], ".ray/auth_token").read_text(),
        place.environment["AWS_SECRET_ACCESS_KEY"],
    ]
    assert not [secret for secret in secrets if secret in said]


def test_a_node_without_the_token_is_refused(place: Place, tmp_path: Path) -> None:
    _, head, _, _ = BLOCKS
    with pytest.raises(NoNodeError, match="oken"), place.stay(beside_others(head), tmp_path / "head.log"):
        raise RuntimeError("it started")
