"""Progress of a pipeline, as steps that a caller may display."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """The progress of a stage in its own units of work; `rejects` counts inputs; `note` is a sentence to show once."""

    stage: str
    done: int
    total: int
    rejects: int = 0
    note: str = ""


Progress = Callable[[Step], None]


def no_progress(step: Step) -> None:
    """Ignore a step."""


def readable_size(size: int) -> str:
    """Return a number of bytes for a person."""
    if size < 1e5:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
