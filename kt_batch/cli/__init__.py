"""The command line."""

from __future__ import annotations

from kt_batch.process import tune_process


def main() -> None:
    """Run `kt-batch` with the arguments of the command line, and end the process with its exit code."""
    tune_process()  # before the commands import torch
    from kt_batch.cli.app import app
    from kt_batch.cli.exit_codes import leave, run_app

    leave(run_app(app))
