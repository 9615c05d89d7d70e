"""A run that loses a host, silently or by death, finishes with the same digest."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import no_progress
from tests.e2e.conftest import COMMAND, run
from tests.support.preloads import preload
from tests.support.three_hosts import three_hosts
from tests.support.tiny import draw_all

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

SECONDS = 60  # from the cut to the end of the run
HOW = ["--size", "64", "--threads", "1", "--unit-size", "1"]


@pytest.mark.parametrize("loss", ["cut", "kill"])
def test_a_run_that_loses_a_host_finishes_on_the_others_with_the_same_digest(tmp_path: Path, loss: str) -> None:
    images = draw_all(tmp_path / "images", range(60))
    assert run(COMMAND, "extract", images, "--library", tmp_path / "undisturbed", *HOW).code == 0
    library = tmp_path / "library"
    with three_hosts() as hosts:
        words = ["extract", images, "--library", library, *HOW, "--runner", "ray", "--address", hosts.address]
        with subprocess.Popen(
            hosts.on(1, COMMAND, *words),
            env={**os.environ, **hosts.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as driver:
            while driver.poll() is None and len(list(library.glob("receipts/*.json"))) < 6:
                time.sleep(0.05)
            assert driver.poll() is None, driver.stderr and driver.stderr.read()
            getattr(hosts, loss)(3)
            lost = time.monotonic()
            _, said = driver.communicate(timeout=300)
        took = time.monotonic() - lost
    assert driver.returncode == 0, said
    assert took < SECONDS
    assert verify(str(library), no_progress).digest == verify(str(tmp_path / "undisturbed"), no_progress).digest


def test_three_hosts_are_refused_where_there_are_no_hard_links(tmp_path: Path) -> None:
    images, library = draw_all(tmp_path / "images", range(3)), tmp_path / "library"
    words = ["extract", images, "--library", library, *HOW, "--runner", "ray"]
    with three_hosts() as hosts:
        environment = {**hosts.environment, **preload(tmp_path, "nolink", "norename")}
        refused = run(*hosts.on(1, COMMAND, *words, "--address", hosts.address), environment=environment)
    assert refused.code == 1
    assert refused.err.splitlines()[-1].endswith("or object storage (s3://bucket/prefix)")
    assert not (library / "receipts").exists()
