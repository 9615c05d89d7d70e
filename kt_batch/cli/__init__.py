"""The command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kt_batch.cli.start import run_process

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Run `kt-batch` with the arguments of the command line, and end the process with its exit code."""
    run_process(_load_app)


def _load_app() -> typer.Typer:
    from kt_batch.cli.app import app

    return app
