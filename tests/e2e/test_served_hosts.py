"""Runs whose index three hosts share are those of one process, also when hosts are lost with their parts of it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from kt_batch.pipelines.translate.plan import TranslateRequest
from tests.e2e.conftest import COMMAND
from tests.support.served import assert_same_run, local_run, served_words
from tests.support.three_hosts import NUMBERS, Hosts, three_hosts

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

OWNERS = 3
OWNER = "ray::_KeeperActor"  # how Ray names the process of an owner
OF_THE_DRIVER = ("ray::HeartbeatMonitor", "ray::_Tally")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> TranslateRequest:
    """The request of a run of one process, which is done."""
    return local_run(tmp_path_factory.mktemp("hosts"), range(11, 27))


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    # Like those of large pictures, messages stay in the store of the host that sends them until they are fetched.
    with three_hosts({"RAY_max_direct_call_object_size": "1000"}) as hosts:
        yield hosts


def owners_on(hosts: Hosts, number: int) -> list[int]:
    """Return the ids of the owners' processes on a host."""
    return [pid for pid, line in hosts.processes(number).items() if line.startswith(OWNER)]


def wait_for_receipts(driver: subprocess.Popen[str], run: Path, count: int) -> None:
    while driver.poll() is None and len(list(run.glob("receipts/*.json"))) < count:
        time.sleep(0.05)
    assert driver.poll() is None, driver.communicate()


def translate_on(
    hosts: Hosts, request: TranslateRequest, run: Path, workers: int, losses: Mapping[int, str]
) -> list[dict[str, int]]:
    """Translate from the first host, lose others with their owners in the middle, and return the owners' figures."""
    words = [*served_words(request, OWNERS, workers), "--out", run, "--address", hosts.address]
    with subprocess.Popen(
        hosts.on(1, COMMAND, *words),
        env={**os.environ, **hosts.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as driver:
        wait_for_receipts(driver, run, 2)
        beside = [line for line in hosts.processes(1).values() if line.startswith(OF_THE_DRIVER)]
        assert len(beside) == 2  # what they know survives the loss of any other host
        for count, (number, loss) in enumerate(losses.items()):
            wait_for_receipts(driver, run, 2 + 4 * count)  # the run goes on after the loss before
            assert owners_on(hosts, number)
            getattr(hosts, loss)(number)
        out, said = driver.communicate(timeout=300)
    assert driver.returncode == 0, said
    owners: list[dict[str, int]] = json.loads(out)["owners"]
    return owners


def assert_no_owner(hosts: Hosts) -> None:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and any(owners_on(hosts, number) for number in NUMBERS):
        time.sleep(0.2)
    assert not [pid for number in NUMBERS for pid in owners_on(hosts, number)]


@pytest.mark.parametrize(
    ("workers", "losses"),
    [(1, {}), (2, {3: "kill", 2: "cut"})],  # the second one ends on the first host alone
    ids=["undisturbed", "killed and cut"],
)
def test_a_run_on_three_hosts_that_share_the_index_is_that_of_one_process(
    hosts: Hosts, local: TranslateRequest, tmp_path: Path, workers: int, losses: Mapping[int, str]
) -> None:
    owners = translate_on(hosts, local, tmp_path / "run", workers, losses)
    assert_same_run(tmp_path / "run", local)
    assert len(owners) == OWNERS
    assert all(owner["queries"] > 0 for owner in owners)
    assert_no_owner(hosts)
