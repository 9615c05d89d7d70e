"""A kt-batch that stops itself before one of its writes, so that a test can do something halfway and let it go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.e2e.conftest import Ended

# Runs kt-batch, and stops at the n-th thing that is put under its final name, before it is put there.
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
        """Let it run again."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it where it stands."""
        self._process.kill()

    def end(self) -> Ended:
        """Wait until it has ended."""
        out, err = self._process.communicate(timeout=240)
        return Ended(self._process.returncode, out, err)


@contextmanager
def paused(number: int, *words: object, environment: Mapping[str, str] | None = None) -> Iterator[Paused]:
    """`kt-batch WORDS`, stopped before its write `number`; it does not outlive the block."""
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
