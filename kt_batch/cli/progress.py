"""Show progress on standard error: a bar on a terminal, otherwise plain lines."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from kt_batch.cli.output import print_progress
from kt_batch.pipelines.progress import Step
from kt_batch.text import printable

SECONDS_BETWEEN_LINES = 10.0


class ProgressDisplay:
    """Displays steps: done/total, rate, time left, rejects.

    A context manager; call it with each step.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True)
        self._quiet = quiet
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._started = self._said = time.monotonic()
        self._first = 0

    def __enter__(self) -> ProgressDisplay:
        if self._console.is_terminal and not self._quiet:
            columns = (
                TextColumn("{task.description:>10}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("[red]{task.fields[rejects]}"),
            )
            self._bar = Bar(*columns, console=self._console)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, step: Step) -> None:
        """Show one step."""
        if self._quiet:
            return
        if step.note:
            self._console.print(printable(step.note), markup=False, highlight=False, soft_wrap=True)
        if step.total == 0:
            return
        now = time.monotonic()
        if step.stage != self._stage:
            self._stage, self._started, self._first = step.stage, now, step.done
            self._task = None if self._bar is None else self._bar.add_task(step.stage, rate="", rejects="")
            self._said = 0.0
        done, elapsed = step.done - self._first, now - self._started
        rate = f"{done / elapsed:.2f}/s" if done and elapsed > 0 else ""
        rejects = f"{step.rejects} rejected" if step.rejects else ""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step.done, total=step.total, rate=rate, rejects=rejects)
        elif step.done == step.total or now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            left = f"{elapsed / done * (step.total - step.done):.0f} s left" if done and step.done < step.total else ""
            parts = [f"{step.stage} {step.done}/{step.total}", rate, left, rejects]
            print_progress(", ".join(part for part in parts if part))
