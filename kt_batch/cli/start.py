"""The start and the end of a process that runs a command or a job.

It imports nothing heavy, so that Ctrl-C is handled while the command is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from kt_batch.cli.interrupt import interrupt_in_order, report_interrupt, was_interrupted
from kt_batch.cli.streams import guard_streams, output_fault
from kt_batch.process import tune_process

if TYPE_CHECKING:
    import typer

FAILED = 1


def run_process(load_app: Callable[[], typer.Typer]) -> NoReturn:
    """Run an app with the arguments of the command line, and end the process with its exit code.

    Args:
        load_app: Imports and returns the app. Ctrl-C is handled while it imports, too.
    """
    code = FAILED
    try:
        interrupt_in_order()
        guard_streams()
        tune_process()  # before the commands import torch
        from kt_batch.cli.exit_codes import run_app

        app = load_app()
        if was_interrupted():  # a library that was imported swallowed it
            raise KeyboardInterrupt  # noqa: TRY301 - it goes the same way as all others
        code = run_app(app)
    except BaseException:
        if not was_interrupted():
            raise
        code = report_interrupt()
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End the process at once.

    Threads of pyarrow that start late can abort the interpreter while it shuts down, with exit code 134. Everything is
    written, and the runner is closed, before this is called.
    """
    sys.stdout.flush()
    if fault := output_fault():
        sys.stderr.write(
            f"kt-batch: standard output cannot be written: {fault.strerror}; the work of the command is done, what it "
            "printed is lost.\n"
        )
        code = code or FAILED
    sys.stderr.flush()
    os._exit(code)
