"""The process settings: their callers, their time and their effect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ray_local import ray_environment

ROOT = Path(__file__).resolve().parent.parent
JOBS = sorted(path.name for path in (ROOT / "jobs").glob("*.py"))

REPORT_FAULTS = """
import resource, sys
import numpy as np
from kt_batch import tune_process
if "tuned" in sys.argv:
    tune_process()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**26, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

REPORT_CALL = """
import sys
import kt_batch.process
def report():
    print("tuned before torch:", "torch" not in sys.modules)
kt_batch.process.tune_process = report
"""

WORK_ON_RAY = """
import os
from kt_batch.runners.ray.runner import RayRunner
runner = RayRunner(None, 1, 1)
def make():
    return lambda unit, beat: os.environ.get("OMP_WAIT_POLICY")
print(os.environ.get("OMP_WAIT_POLICY"), *runner.run(make, [0]))
runner.close()
"""


def printed(code: str, *arguments: str, **environment: str) -> str:
    """Run `code` in a new Python process and return its output."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": str(ROOT), **environment}, check=True, capture_output=True, text=True
    ).stdout


def test_importing_the_package_changes_nothing() -> None:
    code = "import os, sys; old = dict(os.environ); import kt_batch; print(old == os.environ, 'torch' in sys.modules)"
    assert printed(code) == "True False\n"


@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_idle_threads_sleep_unless_the_environment_says_otherwise(given: dict[str, str], expected: str) -> None:
    code = "import os, kt_batch; kt_batch.tune_process(); print(os.environ['OMP_WAIT_POLICY'])"
    assert printed(code, **given) == f"{expected}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has mallopt")
def test_freed_memory_is_reused_without_new_pages() -> None:
    assert int(printed(REPORT_FAULTS)) > 2**26 / 4096 / 2048  # at least one fault for every huge page of 2 MiB
    assert int(printed(REPORT_FAULTS, "tuned")) < 8


def test_the_command_tunes_its_process_before_it_imports_torch() -> None:
    code = REPORT_CALL + "from kt_batch.cli import main; sys.argv = ['kt-batch', '--help']; main()"
    assert printed(code).startswith("tuned before torch: True\n")


@pytest.mark.parametrize("name", JOBS)
def test_a_job_tunes_its_process_before_it_imports_torch(name: str) -> None:
    code = (
        REPORT_CALL
        + f"import runpy; sys.argv = [{name!r}, '--help']; runpy.run_path('jobs/{name}', run_name='__main__')"
    )
    assert printed(code).startswith("tuned before torch: True\n")


@pytest.mark.slow
def test_a_ray_worker_tunes_its_process() -> None:
    with ray_environment() as (environment, _):
        assert printed(WORK_ON_RAY, **environment) == "None PASSIVE\n"
