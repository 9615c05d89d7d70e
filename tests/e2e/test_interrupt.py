"""Ctrl-C at any moment: exit code 130, one sentence, no traceback, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.cli.interrupt import MESSAGE
from tests.e2e.conftest import ROOT, Small
from tests.support.ray_local import ray_environment
from tests.support.tiny import draw_all, results, translate_request, translated


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """Let commands have Ctrl-C as on a terminal, also where these tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# Sends this process Ctrl-C as soon as it imports a module.
WHILE_IMPORTING = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class Interrupting(MetaPathFinder):
    def __init__(self, module):
        self.module = module

    def find_spec(self, name, path, target=None):
        if name == self.module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

from kt_batch.cli import main
sys.meta_path.insert(0, Interrupting(sys.argv[1]))
sys.argv = ["kt-batch", "models"]
main()
"""

# Runs a command of our own with the entry point of all commands.
OWN_COMMAND = """
import os, signal, sys, time
import typer
from kt_batch.cli.start import run_process

def press():
    os.kill(os.getpid(), signal.SIGINT)

{command}

def load():
    app = typer.Typer()
    app.command()(command)
    return app

run_process(load)
"""

TURNED_INTO_ANOTHER_ERROR = """
def command():
    try:
        press()
        time.sleep(60)
    except BaseException as error:
        raise RuntimeError("a library failed") from error
"""

IN_A_DESTRUCTOR = """
class Thing:
    def __del__(self):
        press()
        time.sleep(0.01)

def command():
    Thing()
    time.sleep(60)
"""

TWICE = """
def command():
    try:
        press()
        time.sleep(60)
    finally:
        press()
        time.sleep(60)
"""


def python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize(
    "module", ["typer", "pydantic", "numpy", "torch", "pyarrow", "kt_batch.cli.app", "kt_batch.cli.exit_codes"]
)
def test_while_a_module_is_imported(module: str) -> None:
    ended = python(WHILE_IMPORTING, module)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", MESSAGE)


@pytest.mark.parametrize("command", [TURNED_INTO_ANOTHER_ERROR, IN_A_DESTRUCTOR])
def test_where_python_or_a_library_would_lose_it(command: str) -> None:
    ended = python(OWN_COMMAND.format(command=command))
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", MESSAGE)


def test_a_second_one_ends_the_process_at_once() -> None:
    ended = python(OWN_COMMAND.format(command=TWICE))
    assert (ended.returncode, "Traceback" in ended.stderr) == (130, False)


def test_a_process_that_was_started_to_ignore_it_goes_on() -> None:
    command = "def command():\n    press()\n    print('went on')\n"
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + OWN_COMMAND.format(command=command)
    assert (python(code).returncode, python(code).stdout) == (0, "went on\n")


@pytest.mark.parametrize("runner", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_in_the_middle_of_the_work_and_the_same_command_goes_on(small: Small, tmp_path: Path, runner: str) -> None:
    photos, run = draw_all(tmp_path / "photos", range(20, 60)), tmp_path / "run"
    words = ["translate", str(photos), "--library", str(small.library), "--out", str(run)]
    words += ["--threads", "1", "--unit-size", "1"]
    with ray_environment() as (settings, folder):
        process = subprocess.Popen(
            [sys.executable, "-m", "kt_batch", *words, "--runner", runner],
            env={**os.environ, **settings, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        while process.poll() is None and not list(run.glob("receipts/*.json")):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
        out, err = process.communicate(timeout=120)
        assert list(folder.glob("kt-*")) == []  # the files of Ray are gone
    assert (process.returncode, out) == (130, "")
    assert err.endswith(MESSAGE)
    assert "Traceback" not in err
    assert 0 < len(list(run.glob("receipts/*.json"))) < 40
    assert run_app(app, words) == 0
    translated([photos], translate_request(small.library, tmp_path / "undisturbed", small.index))
    assert results(run) == results(tmp_path / "undisturbed")
