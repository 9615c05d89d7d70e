"""A worker of Ray that is killed in the middle of a batch changes no byte, whatever method makes the pictures."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kt_batch.config import RunOptions
from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import Progress, Step, no_progress
from kt_batch.pipelines.translate.finish import TranslateSummary, translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.base import Runner
from kt_batch.runners.local import LocalRunner
from kt_batch.runners.ray.runner import RayRunner
from tests.e2e.test_chaos import family
from tests.support.ray_local import ray_here  # noqa: F401  # the fixture
from tests.support.tiny import draw_all, hashes

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

PHOTOS = 24
METHODS: dict[str, dict[str, Any]] = {
    "patch_swap": {},
    "adain": {},
    "wct": {},
    "ift": {"updates": 5},
    "gatys": {"iterations": 5},
    "gatys_refined": {"iterations": 5},
}


class Batch:
    """Photographs of 64 pixels, which any method paints after one style image."""

    def __init__(self, root: Path) -> None:
        self.photos = draw_all(root / "photos", range(101, 101 + PHOTOS))
        self.style = draw_all(root / "styles", [1])

    def translate(self, method: str, place: Path, runner: Runner, progress: Progress) -> TranslateSummary:
        config, sources = choose(method, METHODS[method], Choice(styles=str(self.style), size=64))
        options = RunOptions(threads=1, unit_size=2)
        return translate(TranslateRequest([str(self.photos)], str(place), config, sources, options), runner, progress)


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    return Batch(tmp_path_factory.mktemp("methods"))


@pytest.fixture
def two_workers(ray_here: None) -> Iterator[RayRunner]:  # noqa: F811
    runner = RayRunner(None, 2, threads=1)
    yield runner
    runner.close()


def working() -> list[psutil.Process]:
    """Return the processes of the workers, by ascending id; the agents of Ray would take its node with them."""
    found = []
    for process in family(psutil.Process()):
        words = process.cmdline() if process.is_running() else []
        if words and words[0].startswith("ray::WorkerActor"):
            found.append(process)
    return sorted(found, key=lambda each: each.pid)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_killed_worker_changes_no_byte(batch: Batch, tmp_path: Path, two_workers: RayRunner, method: str) -> None:
    killed: list[psutil.Process] = []

    def kill_once(step: Step) -> None:
        if step.stage == "translate" and PHOTOS / 3 <= step.done < PHOTOS and not killed:
            killed.append(random.Random(method).choice(working()))
            os.kill(killed[0].pid, signal.SIGKILL)

    disturbed = batch.translate(method, tmp_path / "killed", two_workers, kill_once)
    whole = batch.translate(method, tmp_path / "whole", LocalRunner(), no_progress)
    assert len(killed) == 1
    assert (disturbed.new_images, disturbed.rejected) == (whole.new_images, whole.rejected) == (PHOTOS, 0)
    for folder in ("plan", "images", "provenance"):
        assert hashes(tmp_path / "killed", folder) == hashes(tmp_path / "whole", folder)
    digests = {verify(str(tmp_path / place), no_progress).digest for place in ("killed", "whole")}
    assert len(digests) == 1
    assert None not in digests
