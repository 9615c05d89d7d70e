"""A run on Ray recovers the undisturbed digest after SIGKILL to a random process.

The test does five rounds; `make chaos ROUNDS=50` does more.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import no_progress
from tests.e2e.conftest import COMMAND, run
from tests.support.ray_local import ray_environment
from tests.support.tiny import draw_all

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

ROUNDS = int(os.environ.get("ROUNDS", "5"))
SPAN = 14.0  # the kill happens within these seconds; a job takes about as long
HOW = ["--threads", 1, "--unit-size", 2]


class Job:
    """The command lines of extract, index and translate into one folder."""

    def __init__(self, images: Path, folder: Path) -> None:
        self.library, self.run = folder / "library", folder / "run"
        self.commands: list[list[object]] = [
            ["extract", images, "--library", self.library, "--size", 64, *HOW],
            ["index", self.library, "--max-leaf", 64, "--threads", 1],
            ["translate", images, "--library", self.library, "--out", self.run, *HOW],
        ]

    def digests(self) -> list[str | None]:
        return [verify(str(place), no_progress).digest for place in (self.library, self.run)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, list[str | None]]:
    """Run the job once; return it with the digests that every round must reach.

    All rounds use one place, since provenance contains its name.
    """
    root = tmp_path_factory.mktemp("chaos")
    job = Job(draw_all(root / "images", range(1, 13)), root / "place")
    for command in job.commands:
        assert run(COMMAND, *command).code == 0
    digests = job.digests()
    assert None not in digests
    return job, digests


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return the live processes of a driver: itself, its raylet and all workers."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def test_a_worker_that_dies_during_the_start_of_ray_does_not_stop_it(
    undisturbed: tuple[Job, list[str | None]],
) -> None:
    job, _ = undisturbed
    shutil.rmtree(job.library, ignore_errors=True)
    with ray_environment() as (environment, _):
        line = [str(COMMAND), *(str(word) for word in job.commands[0]), "--runner", "ray"]
        with subprocess.Popen(
            line, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as driver:
            try:
                first_worker(driver).kill()
                _, said = driver.communicate(timeout=120)
            finally:
                for process in family(psutil.Process(driver.pid)) if driver.poll() is None else []:
                    process.kill()
    assert driver.returncode == 0, said


def first_worker(driver: subprocess.Popen[str]) -> psutil.Process:
    """Wait for the first worker process of Ray and return it."""
    while driver.poll() is None:
        for process in family(psutil.Process(driver.pid)):
            with suppress(psutil.Error):
                if any(word.endswith("/default_worker.py") for word in process.cmdline()):
                    return process
        time.sleep(0.02)
    raise AssertionError(f"the run ended before Ray had a worker: {driver.communicate()}")


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_after_any_kill_a_repeated_command_gives_the_undisturbed_digest(
    undisturbed: tuple[Job, list[str | None]], round_: int
) -> None:
    job, expected = undisturbed
    chance = random.Random(round_)
    shutil.rmtree(job.library, ignore_errors=True)
    shutil.rmtree(job.run, ignore_errors=True)
    stage = round_ % 3
    for command in job.commands[:stage]:
        assert run(COMMAND, *command).code == 0
    with ray_environment() as (environment, _):
        line = [str(COMMAND), *(str(word) for word in job.commands[stage]), "--runner", "ray"]
        with subprocess.Popen(
            line, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as driver:
            time.sleep(chance.uniform(0, SPAN))
            living = (
                sorted(family(psutil.Process(driver.pid)), key=lambda each: each.pid) if driver.poll() is None else []
            )
            if living:
                victim = chance.choice(living)
                victim.send_signal(signal.SIGKILL)
            try:
                driver.communicate(timeout=300)  # Ray waits a minute for a head that is gone, perhaps twice
            finally:
                for process in living:  # leftovers of a killed driver
                    if process.is_running():
                        process.kill()
    for command in job.commands[stage:]:
        ended = run(COMMAND, *command)
        assert ended.code == 0, ended.err
    assert job.digests() == expected
