"""GPU requests of workers: counts, refusals and the shares that Ray assigns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from kt_batch.cli.runner import make_runner
from kt_batch.config import RunOptions
from kt_batch.errors import KtBatchError, UsageError
from kt_batch.runners import pool_state
from kt_batch.runners.ray.runner import RayRunner, share_out
from tests.support.ray_local import ray_environment, ray_here  # noqa: F401  # the fixture

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("nodes", "gpu_workers", "workers", "threads", "expected"),
    [
        ([8], [2], None, 2, (2, 2.0)),  # limited by GPUs
        ([4], [8], None, 2, (2, 2.0)),  # limited by processors
        ([64, 8, 8], [0, 1, 1], None, 4, (2, 4.0)),  # the largest node has no GPU
        ([8, 8], [4, 0], 2, 16, (2, 4.0)),
        ([8], [0], None, 2, (1, 2.0)),  # the request to an autoscaler
        ([], [], None, 2, (1, 2.0)),
    ],
)
def test_the_number_of_workers_fits_the_processors_of_nodes_with_gpus(
    nodes: list[int], gpu_workers: list[int], workers: int | None, threads: int, expected: tuple[int, float]
) -> None:
    assert share_out(nodes, workers, threads, gpu_workers) == expected


@pytest.mark.parametrize("gpus", [0, 0.01, 0.5, 1, 2, 8.0])
def test_shares_of_one_gpu_and_whole_numbers_are_accepted(gpus: float) -> None:
    assert RunOptions(runner="ray", gpus=gpus).gpus == gpus


@pytest.mark.parametrize("gpus", [float("nan"), float("inf")])
def test_what_is_no_finite_number_is_refused(gpus: float) -> None:
    with pytest.raises(ValidationError, match="should be a finite number"):
        RunOptions(runner="ray", gpus=gpus)


@pytest.mark.parametrize("gpus", [-1, -0.5, 0.001, 1.5])
def test_other_numbers_are_refused(gpus: float) -> None:
    with pytest.raises(ValidationError, match=r"allowed is 0, a share of one GPU from 0\.01 to 1, or a whole number"):
        RunOptions(runner="ray", gpus=gpus)


@pytest.mark.parametrize("gpus", [0.5, 2])
def test_a_local_run_has_one_gpu_or_none(gpus: float) -> None:
    with make_runner(RunOptions(gpus=1)) as runner:
        assert runner.hosts() == 1
    sentence = rf"^--gpus {gpus:g} is for --runner ray, .* --gpus 1 computes on the GPU of this machine"
    with pytest.raises(UsageError, match=sentence), make_runner(RunOptions(gpus=gpus)):
        raise AssertionError


# Two units that wait for each other are done only by two workers at once; each says which GPUs it sees.
SCRIPT = """
import json, os, pathlib, sys, time
import ray
from kt_batch.config import RunOptions
from kt_batch.cli.runner import make_runner

folder = pathlib.Path(sys.argv[1])

def factory():
    def worker(unit, beat):
        (folder / unit).touch()
        for _ in range(600):
            if sum(path.name[0] == unit[0] for path in folder.iterdir()) == 2:
                return os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()
            time.sleep(0.1)
        return "alone", os.getpid()
    return worker

ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
with make_runner(RunOptions(runner="ray", threads=1, gpus=0.5)) as runner:
    shared = list(runner.run(factory, ["a1", "a2"]))
    left = ray.available_resources().get("GPU", 0)
    print(json.dumps({"shared": shared, "left": left}))
ray.shutdown()
"""


@pytest.mark.slow
@pytest.mark.cluster
def test_two_workers_share_one_gpu(tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    with ray_environment() as (environment, _):
        environment |= {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
        line = [sys.executable, "-c", SCRIPT, str(tmp_path / "units")]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert [devices for devices, _ in said["shared"]] == ["0", "0"]
    assert len({process for _, process in said["shared"]}) == 2
    assert said["left"] == 0


@pytest.mark.slow
def test_a_request_for_unavailable_gpus_ends_the_run_with_one_sentence(
    ray_here: None,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_state, "STARTUP_REPORT_SECONDS", 1.0)
    monkeypatch.setattr(pool_state, "STARTUP_REPORT_INTERVAL_SECONDS", 1.0)
    runner = RayRunner(None, None, 1, gpus=99.0)
    sentence = (
        r"one asks for 1 CPUs and 99 GPUs, the Ray cluster has 1 node, .* and no node with more than \d+ GPUs, and"
    )
    with pytest.raises(KtBatchError, match=sentence):
        list(runner.run(lambda: lambda unit, beat: unit, [1]))
    runner.close()
