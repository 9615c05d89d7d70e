"""Make the runner that the options ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from kt_batch import __version__
from kt_batch.config import RunOptions
from kt_batch.errors import UsageError
from kt_batch.events import log_event, write_log
from kt_batch.runners.base import Runner
from kt_batch.runners.local import LocalRunner
from kt_batch.runners.shutdown import GracefulShutdown
from kt_batch.training.autoencoder import Member

PRELOADED_MODULES = ("kt_batch.pipelines.translate.worker",)  # imports nearly all that any worker needs


@contextmanager
def make_runner(run_options: RunOptions) -> Iterator[Runner]:
    """Yield the runner that the options ask for.

    Ray is imported only for the runner ray. On SIGTERM the runner finishes the units under way. Events go to the log
    that the options name.
    """
    shutdown = GracefulShutdown()
    local = run_options.runner == "local"
    if local and run_options.gpus not in (0, 1):
        raise UsageError(
            f"--gpus {run_options.gpus:g} is for --runner ray, where workers share GPUs; with --runner local, --gpus 1 "
            "computes on the GPU of this machine."
        )
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
            imports=PRELOADED_MODULES,
        )
        try:
            runner.warm_up()
            with shutdown.on_sigterm():
                yield runner
        finally:
            runner.close()


@contextmanager
def make_members(run_options: RunOptions, gpu: bool, out: Path) -> Iterator[Callable[[Member], None]]:
    """Yield a function that calls a member of a training on every worker.

    Ray is imported only for the runner ray.
    """
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
