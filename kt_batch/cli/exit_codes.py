"""Run an app: its exit code, and one sentence for an error.

0: done. 1: failed. 2: wrong usage. 3: done, but some inputs were rejected. 130: interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer
from pydantic import Field, ValidationError, field_validator
from typer.exceptions import TyperException

from kt_batch.cli.interrupt import INTERRUPTED, report_interrupt, was_interrupted
from kt_batch.cli.options import Options
from kt_batch.cli.output import print_error, print_traceback, printing_warnings
from kt_batch.config import describe_fault
from kt_batch.errors import KtBatchError, UsageError
from kt_batch.store.places import expand_word

DONE, FAILED, WRONG_USAGE, SOME_REJECTED = 0, 1, 2, 3


def run_app(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a typer app and return its exit code.

    An error becomes one sentence on standard error. `--debug`, anywhere among the arguments, shows the traceback too.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        with printing_warnings():
            words = [expand_word(word) for word in words if word != "--debug"]
            result = app(args=words, standalone_mode=False)
    except (typer.Exit, SystemExit) as stop:  # typer exits when nobody reads its help
        result = stop.exit_code if isinstance(stop, typer.Exit) else stop.code
    except Exception as error:  # noqa: BLE001 - every error ends in a sentence and a code
        if was_interrupted():  # a library made another error of it
            return report_interrupt()
        code, message = _explain(error)
        if debug:
            print_traceback(error)
        if message:  # typer has none when it shows the help for want of a command
            print_error(message)
        return code
    if result == INTERRUPTED:  # typer's answer to Ctrl-C
        return report_interrupt()
    return result if isinstance(result, int) else DONE


def _explain(error: Exception) -> tuple[int, str]:
    """Return exit code and sentence."""
    match error:
        case KtBatchError():
            return error.exit_code, str(error)
        case ValidationError():
            return WRONG_USAGE, describe_fault(error)
        case TyperException():
            return WRONG_USAGE, error.format_message()
    return FAILED, f"internal error, {type(error).__name__}: {error} (--debug shows where)"


class RejectBounds(Options):
    """The rule for the exit code when inputs were rejected."""

    max_rejects: str = Field("100%", description="Succeed while no more inputs are rejected: N or P%.")
    strict: bool = Field(False, description="Exit with 3 when any input was rejected.")

    @field_validator("max_rejects")
    @classmethod
    def _check_before_the_work(cls, value: str) -> str:
        allowed_rejects(value, 0)
        return value

    def exit_code(self, rejected: int, total: int) -> int:
        """Return the exit code for `rejected` of `total` inputs."""
        return job_code(rejected, total, self.max_rejects, self.strict)


STRICT = RejectBounds(strict=True)  # a command exits with 3 for any reject


def job_code(rejected: int, total: int, max_rejects: str, strict: bool) -> int:
    """Return the exit code of a finished job.

    Rejects within bounds give 0, so that a cluster does not run the job again.
    """
    if strict and rejected:
        return SOME_REJECTED
    return DONE if rejected <= allowed_rejects(max_rejects, total) else FAILED


def allowed_rejects(text: str, total: int) -> float:
    """Read `12`, or `5%` of `total`. Raises UsageError."""
    number = text.removesuffix("%")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"--max-rejects is a number or a percentage, such as 12 or 5%, not '{text}'.")
    return value * total / 100 if text.endswith("%") else value
