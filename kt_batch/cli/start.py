"""Between options and pipelines: what commands and jobs both do before and after they call one.

Builds configurations from options, makes the runner, saves the options beside the output, prints a summary, turns
errors into one sentence and an exit code.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import typer
import yaml
from pydantic import ValidationError
from typer.exceptions import TyperException

from kt_batch import __version__
from kt_batch.config import EncoderConfig, RunOptions
from kt_batch.errors import KtBatchError, UsageError
from kt_batch.events import log_event, write_log
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines import encoders
from kt_batch.runners.base import Runner
from kt_batch.runners.local import LocalRunner
from kt_batch.runners.shutdown import GracefulShutdown
from kt_batch.store.layout import options_path
from kt_batch.store.locations import open_location
from kt_batch.training.autoencoder import Member

DONE, FAILED, WRONG_USAGE, SOME_REJECTED = 0, 1, 2, 3
NOT_KEPT = ("config", "json", "dry_run", "pilot", "price", "retry_rejected", "log_file")  # none tells what was made
WORK = ("kt_batch.pipelines.translate.worker",)  # what brings with it nearly all that any worker imports
INTERRUPTED = 130  # what typer makes of Ctrl-C


def run_app(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a typer app and return its exit code; errors become one sentence on standard error.

    `--debug`, anywhere among the arguments, shows the traceback as well.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        result = app(args=words, standalone_mode=False)
    except typer.Exit as stop:
        result = stop.exit_code
    except Exception as error:  # noqa: BLE001 - the last border: whatever it is, it is said and never a success
        code, message = _explain(error)
        if debug:
            traceback.print_exc()
        if message:  # without a command typer has printed the help, and has nothing to add
            typer.echo(f"kt-batch: {message}", err=True)
        return code
    if result == INTERRUPTED:
        typer.echo("kt-batch: stopped; start the same command again to go on.", err=True)
        return FAILED
    return result if isinstance(result, int) else DONE


def _explain(error: Exception) -> tuple[int, str]:
    """Exit code and one sentence."""
    match error:
        case KtBatchError():
            return error.exit_code, str(error)
        case ValidationError():
            return WRONG_USAGE, _first_fault(error)
        case TyperException():
            return WRONG_USAGE, error.format_message()
    return FAILED, f"internal error, {type(error).__name__}: {error} (--debug shows where)"


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    option = ".".join(str(part) for part in fault["loc"])
    return f"the option {option} got {fault['input']!r}: {fault['msg']}."


@contextmanager
def make_runner(run_options: RunOptions) -> Iterator[Runner]:
    """The runner that the options ask for; Ray is imported only then. SIGTERM makes it finish what is begun. What
    happens meanwhile goes to the log that the options name."""
    shutdown = GracefulShutdown()
    local = run_options.runner == "local"
    if local and run_options.gpus:
        raise UsageError(f"--gpus {run_options.gpus:g} is for --runner ray, where workers share GPUs; leave it out.")
    with write_log(run_options.log_file):
        log_event("run_started", runner=run_options.runner, threads=run_options.threads, version=__version__)
        if local:
            with shutdown.on_sigterm():
                yield LocalRunner(shutdown)
            return
        from kt_batch.runners.ray.runner import RayRunner

        runner = RayRunner(
            run_options.address,
            run_options.workers,
            run_options.threads,
            shutdown,
            gpus=run_options.gpus,
            imports=WORK,
        )
        try:
            runner.warm_up()
            with shutdown.on_sigterm():
                yield runner
        finally:
            runner.close()


def release_gpus(runner: Runner) -> None:
    """What is done from now on needs no GPU: workers that hold one are replaced by workers without."""
    if isinstance(runner, LocalRunner):
        return
    from kt_batch.runners.ray.runner import RayRunner

    if isinstance(runner, RayRunner):
        runner.release_gpus()


@contextmanager
def make_members(run_options: RunOptions, gpu: bool, out: Path) -> Iterator[Callable[[Member], None]]:
    """What calls a training's member on every worker that the options ask for; Ray is imported only then."""
    if run_options.runner == "local":
        yield lambda member: member(0, 1, None)
        return
    from kt_batch.runners.ray.runner import RayRunner

    try:
        from kt_batch.runners.ray.training import run_members
    except ImportError as error:
        raise UsageError(f"Training on Ray needs kt_batch[train]: {error}.") from error
    runner = RayRunner(run_options.address, run_options.workers or 1, run_options.threads)
    try:
        yield partial(run_members, workers=runner.workers, cpus=runner.cpus, gpu=gpu, out=out.absolute())
    finally:
        runner.close()


def new_encoder(name: str, weights: str | None, layer: str, size: int) -> tuple[EncoderSource, EncoderConfig]:
    """The encoder that a new library is to be made with."""
    source = EncoderSource(name, absolute_file(weights))
    return source, encoders.new_encoder(source, layer, size)[1]


def absolute_file(path: str | None) -> str | None:
    """A path that means the same to a worker, whose working directory is another than the driver's."""
    return None if path is None else str(Path(path).absolute())


def save_options(place: str, command: str, values: Mapping[str, Any]) -> None:
    """Keep the options of a command beside its output, as a YAML file that --config accepts again."""
    kept = {name: value for name, value in values.items() if value is not None and name not in NOT_KEPT}
    text = yaml.safe_dump(kept, sort_keys=True, allow_unicode=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    open_location(place).put_if_absent(options_path(command, digest), text.encode())


def print_summary(content: Mapping[str, Any], lines: Sequence[str], as_json: bool) -> None:
    """Print the summary as one JSON object, or as lines for a person."""
    typer.echo(json.dumps(content, ensure_ascii=False) if as_json else "\n".join(lines))


def leave(code: int) -> NoReturn:
    """End the process here and now.

    pyarrow's threads, started late, can abort the interpreter while it takes itself apart, and the exit code would be
    134 instead of ours. Everything is written, and the runner is closed, before this is called.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def reject_code(rejected: int) -> int:
    """The exit code of a command that is done."""
    return SOME_REJECTED if rejected else DONE


def job_code(rejected: int, total: int, max_rejects: str, strict: bool) -> int:
    """The exit code of a finished job: 0 while rejects stay within bounds, so that a cluster does not run it again."""
    if strict and rejected:
        return SOME_REJECTED
    return DONE if rejected <= allowed_rejects(max_rejects, total) else FAILED


def allowed_rejects(text: str, total: int) -> float:
    """`12` or `5%` of `total`. Raises UsageError for anything else."""
    number = text.removesuffix("%")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"--max-rejects is a number or a percentage, such as 12 or 5%, not '{text}'.")
    return value * total / 100 if text.endswith("%") else value
