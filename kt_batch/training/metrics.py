"""Write the losses of a training as `metrics.csv` and TensorBoard events."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVERY = 20  # steps


class Metrics:
    """Write the losses of every EVERY-th step below `out / cut`, and pass one line of them to `echo`.

    A table has every step once: a resumed training removes rows of the same and of later steps. TensorBoard events are
    written if the package `tensorboard` is installed (extra `train`).
    """

    def __init__(self, out: Path, echo: Callable[[str], None]) -> None:
        self.out = out
        self.echo = echo
        self._events: dict[str, SummaryWriter | None] = {}
        self._last_step: dict[str, int] = {}

    def __call__(self, cut: str, step: int, losses: dict[str, float]) -> None:
        """Record one step of the decoder for `cut`. Must be called for every step."""
        folder = self.out / cut
        path = folder / "metrics.csv"
        if self._last_step.get(cut) != step - 1 and path.exists():
            _remove_rows_from(path, step)
        self._last_step[cut] = step
        if step % EVERY:
            return
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            if not file.tell():
                rows.writerow(["step", *losses])
            rows.writerow([step, *(f"{value:.5f}" for value in losses.values())])
        if cut not in self._events:
            self._events[cut] = _summary_writer(folder / "tensorboard")
        events = self._events[cut]
        if events is not None:
            for name, value in losses.items():
                events.add_scalar(name, value, step)
            events.flush()
        self.echo(f"{cut} step {step} " + " ".join(f"{name} {value:.4f}" for name, value in losses.items()))


def _remove_rows_from(path: Path, step: int) -> None:
    """Remove the rows of `step` and later steps from a table; the file is replaced atomically."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = file.readlines()
    # A line without its end was cut off by a crash.
    whole = [line for line in lines if line.endswith("\n")]
    kept = whole[:1] + [row for row in whole[1:] if int(row.partition(",")[0]) < step]
    if kept != lines:
        temporary = path.with_name("metrics.csv.tmp")
        temporary.write_text("".join(kept), newline="", encoding="utf-8")
        temporary.replace(path)


def _summary_writer(folder: Path) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
