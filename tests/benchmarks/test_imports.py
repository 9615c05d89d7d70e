"""Every benchmark loads with the present package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
LOAD = """
import json, runpy, sys, traceback
faults = {}
for script in sys.argv[1:]:
    try:
        runpy.run_path(script, run_name="loaded")
    except (Exception, SystemExit):
        faults[script] = traceback.format_exc()
json.dump(faults, sys.stdout)
"""


@pytest.fixture(scope="module")
def faults() -> dict[str, str]:
    """Load all scripts in one process, which imports the package once; return the fault of each that does not load."""
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}", "PATH": "/usr/bin:/bin"}
    line = [sys.executable, "-c", LOAD, *map(str, SCRIPTS)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_loads(script: Path, faults: dict[str, str]) -> None:
    assert str(script) not in faults, faults[str(script)]
