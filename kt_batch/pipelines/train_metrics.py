"""What a training tells: `metrics.csv` and TensorBoard events beside the state of each decoder."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVERY = 20  # steps


class Metrics:
    """Writes the losses of every EVERY-th step below `out / cut`, and tells `echo` one line of them.

    TensorBoard events are written where the package `tensorboard` is installed (extra `train`).
    """

    def __init__(self, out: Path, echo: Callable[[str], None]) -> None:
        self.out = out
        self.echo = echo
        self._events: dict[str, SummaryWriter | None] = {}

    def __call__(self, cut: str, step: int, losses: dict[str, float]) -> None:
        """Report one step of the decoder for `cut`."""
        if step % EVERY:
            return
        folder = self.out / cut
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.csv"
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            if new:
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


def _summary_writer(folder: Path) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
