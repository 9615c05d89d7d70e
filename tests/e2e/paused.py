"""A kt-batch process that stops itself before one of its writes and can continue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.e2e.conftest import Ended

# Runs kt-batch and stops just before the n-th object gets its final name.
DRIVER = """
import os, signal, sys
from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.store.local import LocalLocation
from kt_batch.store.s3 import S3Location

number, words = int(sys.argv[1]), sys.argv[2:]
seen = 0

def stopping(put):
    def stopping_put(location, name, content):
        global seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGSTOP)
        return put(location, name, content)
    return stopping_put

for kind in (LocalLocation, S3Location):
    kind.put_if_absent, kind.put_content = stopping(kind.put_if_absent), stopping(kind.put_content)
sys.exit(run_app(app, words))
"""


class Paused:
    """A process that has stopped itself."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def go_on(self) -> None:
        """Let the process continue."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the stopped process."""
        self._process.kill()

    def end(self) -> Ended:
        """Wait until the process ends."""
        out, err = self._process.communicate(timeout=240)
        return Ended(self._process.returncode, out, err)


@contextmanager
def paused(number: int, *words: object, environment: Mapping[str, str] | None = None) -> Iterator[Paused]:
    """Run `kt-batch WORDS` up to its write `number`; end it with the block."""
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(number), *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    ) as process:
        try:
            state = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            ended = state is None or state.si_code != os.CLD_STOPPED
            assert not ended, f"it ended before write {number}: {process.communicate()}"
            yield Paused(process)
        finally:
            process.kill()
